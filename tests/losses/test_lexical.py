from __future__ import annotations

import pytest
import torch

from medtail.losses.contract import GroupLayout
from medtail.losses.lexical import lexical_penalty

LAYOUT = GroupLayout([(0, 1, 2), (3, 4)], num_classes=8)
FOCI = ((5, (6, 7)),)
VALID = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]])


def penalty(logits: torch.Tensor, targets: torch.Tensor = VALID) -> torch.Tensor:
    return lexical_penalty(logits, targets, layout=LAYOUT, exclusions=FOCI)


def test_a_saturated_valid_report_costs_nothing() -> None:
    assert penalty(40 * VALID - 20).item() < 1e-6
    none = torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]])
    assert penalty(40 * none - 20, none).item() < 1e-6


def test_two_members_at_one_cost_at_least_one() -> None:
    logits = 40 * VALID - 20
    logits[0, 0] = 20.0
    both = lexical_penalty(logits[:, :3], VALID[:, :3], layout=GroupLayout([(0, 1, 2)], num_classes=3))
    assert both.item() >= 1.0


def test_the_value_is_the_formula() -> None:
    torch.manual_seed(0)
    z = torch.randn(1, 8, dtype=torch.float64)
    expected = 0.0
    for columns, truth in (([0, 1, 2], 1), ([3, 4], 3)):
        expected += -torch.log_softmax(z[0, columns], dim=0)[columns.index(truth)]
        expected += (torch.sigmoid(z[0, columns]).sum() - 1) ** 2
    expected = expected / 2
    p = torch.sigmoid(z[0])
    expected = expected + torch.relu(p[5] + torch.maximum(p[6], p[7]) - 1)
    torch.testing.assert_close(penalty(z, VALID.double()), expected)


@pytest.mark.parametrize("emptied", [[0, 1, 2], [0], [1], [3, 4]])
def test_a_group_that_was_not_assessed_contributes_nothing(emptied: list[int]) -> None:
    targets = VALID.clone()
    targets[0, emptied] = torch.nan
    logits = torch.randn(1, 8, requires_grad=True)
    penalty(logits, targets).backward()
    group = [0, 1, 2] if 0 in emptied or 1 in emptied else [3, 4]
    other = [3, 4] if group == [0, 1, 2] else [0, 1, 2]
    assert logits.grad is not None
    assert (logits.grad[0, group] == 0).all()
    assert (logits.grad[0, other] != 0).all()


def test_a_group_in_which_nothing_applies_contributes_nothing() -> None:
    targets = VALID.clone()
    targets[0, :3] = 0.0
    logits = torch.randn(1, 8, requires_grad=True)
    penalty(logits, targets).backward()
    assert logits.grad is not None
    assert (logits.grad[0, :3] == 0).all()


def test_an_exclusion_is_silent_where_a_focus_was_not_assessed() -> None:
    logits = torch.full((1, 8), 3.0)
    targets = VALID.clone()
    targets[0, 6] = torch.nan
    both = torch.sigmoid(torch.tensor(3.0)).item() * 2 - 1
    assert penalty(logits).item() - penalty(logits, targets).item() == pytest.approx(both)


def test_a_label_space_without_groups_and_a_row_without_labels_are_zero() -> None:
    chest = GroupLayout((), num_classes=8)
    logits = torch.randn(2, 8, requires_grad=True)
    assert lexical_penalty(logits, VALID.expand(2, -1), layout=chest).item() == 0.0
    value = penalty(logits, torch.full((2, 8), torch.nan))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
