from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.losses.build import BceConfig, build_loss
from medtail.losses.consistency import consistency
from medtail.losses.contract import DrawnCounts, LossContext, masked_mean
from medtail.losses.distribution_balanced import DistributionBalanced, DistributionBalancedConfig
from medtail.losses.objective import Step
from medtail.losses.objectives import SyntusObjectiveConfig, build_objective
from medtail.losses.syntus import ConsistencyConfig, SmoothingConfig, SyntusObjective, smoothed_targets
from medtail.tables.labels import LabelSpace

LABELS = LabelSpace.from_columns(["s=a", "s=b", "foci_none", "foci_macro", "foci_rim", "halo"])
CONTEXT = LossContext((80, 20, 60, 30, 10, 4), (100,) * 6, LABELS.group_indices, 100, LABELS)
OFF: dict[str, Any] = {"balanced": None, "consistency": None, "lexical": None, "smoothing": None}
ROWS = 8


def objective(**changes: Any) -> SyntusObjective:
    found = build_objective(SyntusObjectiveConfig(**{**OFF, **changes}), loss=BceConfig(), context=CONTEXT)
    assert isinstance(found, SyntusObjective)
    return found


def targets() -> Tensor:
    torch.manual_seed(3)
    drawn = (torch.rand(ROWS, 6) < 0.4).float()
    drawn[:, 0] = 1 - drawn[:, 1]
    return drawn


def step(*, two_layers: bool = False, mixed: bool = False, **changes: Any) -> Step:
    torch.manual_seed(1)
    routes = {name: torch.randn(ROWS, 6, requires_grad=True) for name in ("u", "r", "mixed_u", "mixed_r", "mixed")}
    kept = [name for name in ("u", "r") if two_layers]
    kept += [name for name in (("mixed_u", "mixed_r") if two_layers else ("mixed",)) if mixed]
    logits = (routes["u"] + routes["r"]) / 2 if two_layers else torch.randn(ROWS, 6, requires_grad=True)
    plain = Step.of(logits, targets())
    streams = torch.tensor([0, 1]).repeat_interleave(ROWS // 2)
    return replace(plain, **{"streams": streams, "further": {name: routes[name] for name in kept}, **changes})


def test_with_everything_off_it_is_masked_binary_cross_entropy() -> None:
    labels = targets()
    labels[2, 1], labels[3] = torch.nan, torch.nan
    given = step(targets=labels)
    found = objective()(given).total
    torch.testing.assert_close(found, masked_mean(build_loss(BceConfig(), CONTEXT), given.logits, labels))


def test_each_layer_learns_from_its_own_stream() -> None:
    given = step(two_layers=True)
    objective()(given).total.backward()
    first, second = given.further["u"].grad, given.further["r"].grad
    assert first is not None
    assert second is not None
    assert (first[:4] != 0).all()
    assert (first[4:] == 0).all()
    assert (second[:4] == 0).all()
    assert (second[4:] != 0).all()


def test_the_control_deals_rows_out_over_the_layers() -> None:
    torch.manual_seed(0)
    sham = objective(consistency=ConsistencyConfig(weight=0.0), sham="dealt_layers")
    taught = torch.zeros(ROWS)
    for _ in range(40):
        given = step(two_layers=True)
        torch.manual_seed(int(taught.sum()) + 17)
        sham(given).total.backward()
        assert given.further["r"].grad is not None
        is_taught = (given.further["r"].grad != 0).any(dim=1).float()
        assert is_taught.sum() == 4
        taught += is_taught
    assert (taught[:4] > 5).all()  # the second layer learns from rows as they come too


def test_mixed_routes_count_half() -> None:
    both = objective()(step(two_layers=True, mixed=True)).total
    plain = objective()(step(two_layers=True)).total
    given = step(two_layers=True, mixed=True)
    swapped = {"u": given.further["mixed_u"], "r": given.further["mixed_r"]}
    only_mixed = objective()(replace(given, further=swapped)).total
    torch.testing.assert_close(both, (plain + only_mixed) / 2)
    one = step(mixed=True)
    alone = objective()(replace(one, logits=one.further["mixed"], further={})).total
    torch.testing.assert_close(objective()(one).total, (objective()(replace(one, further={})).total + alone) / 2)


def test_a_row_is_balanced_by_what_its_own_stream_shows() -> None:
    drawn = (DrawnCounts((80.0, 20, 60, 30, 10, 4), (100.0,) * 6), DrawnCounts((50.0,) * 6, (100.0,) * 6))
    given = step(drawn=drawn)
    found = objective(balanced=DistributionBalancedConfig())(given).total
    expected = 0.0
    for rows, counts in ((slice(0, 4), drawn[0]), (slice(4, 8), drawn[1])):
        loss = DistributionBalanced(DistributionBalancedConfig(), context=CONTEXT)
        loss.set_counts(counts)
        expected += loss.values(given.logits[rows], given.targets[rows]).sum() / (ROWS * 6)
    torch.testing.assert_close(found, expected)


def test_counts_of_the_next_epoch_replace_those_of_the_last() -> None:
    judge = objective(balanced=DistributionBalancedConfig())
    natural = judge(step()).total
    even = (DrawnCounts((50.0,) * 6, (100.0,) * 6),)
    assert judge(step(drawn=even)).total != natural
    again = (DrawnCounts((80.0, 20, 60, 30, 10, 4), (100.0,) * 6),)
    torch.testing.assert_close(judge(step(drawn=again)).total, natural)


def test_agreement_rises_over_the_first_epochs() -> None:
    judge = objective(consistency=ConsistencyConfig())
    totals = [judge(step(two_layers=True, epoch=epoch)).total.item() for epoch in (0, 5, 10, 40)]
    given = step(two_layers=True)
    agreement, _ = consistency(given.further["u"], given.further["r"])
    assert totals[0] == pytest.approx(objective()(given).total.item())
    assert totals[1] - totals[0] == pytest.approx(0.25 * agreement.item(), rel=1e-5)
    assert totals[2] - totals[0] == pytest.approx(0.5 * agreement.item(), rel=1e-5)
    assert totals[3] == totals[2]


def test_the_lexicon_reads_groups_and_exclusions_off_the_label_space() -> None:
    from medtail.losses.syntus import LexicalConfig

    judge = objective(lexical=LexicalConfig())
    assert judge.exclusions == ((2, (3, 4)),)
    value = judge(step())
    assert value.parts["lex"] > 0
    assert value.total.item() == pytest.approx((value.parts["cls"] + 0.3 * value.parts["lex"]).item())
    chest = LabelSpace(("Hernia", "Mass"))
    free = SyntusObjective(
        SyntusObjectiveConfig(**{**OFF, "lexical": LexicalConfig()}),
        context=LossContext((1, 1), (9, 9), (), 9, chest),
    )
    assert free(Step.of(torch.randn(3, 2), torch.ones(3, 2))).parts["lex"] == 0


def test_only_the_hardest_tenth_is_smoothed_and_only_later() -> None:
    hardness = torch.tensor([0.1, 0.9, 0.95, torch.nan, 1.0, 0.5, 0.0, 0.91])
    judge = objective(smoothing=SmoothingConfig())
    moved, share = judge._smooth(step(hardness=hardness, epoch=5), SmoothingConfig())
    changed = (moved != targets()).any(dim=1)
    assert changed.tolist() == [False, False, True, False, True, False, False, True]
    assert share == 3 / 8
    early, none = judge._smooth(step(hardness=hardness, epoch=4), SmoothingConfig())
    assert torch.equal(early, targets())
    assert none == 0


def test_smoothing_keeps_group_sums_and_empty_cells() -> None:
    labels = targets()
    labels[0, 0], labels[1, 5], labels[2, :2] = torch.nan, torch.nan, 0.0
    given = step(targets=labels, hardness=torch.ones(ROWS), epoch=9)
    moved, _ = objective(smoothing=SmoothingConfig())._smooth(given, SmoothingConfig(epsilon=0.2))
    assert torch.equal(moved.isnan(), labels.isnan())
    torch.testing.assert_close(moved[1:, :2].sum(dim=1), labels[1:, :2].sum(dim=1))
    # toward the prior, not toward one half: an absent rare finding stays below its prevalence
    absent = labels[:, 5] == 0
    torch.testing.assert_close(moved[absent, 5], torch.full((int(absent.sum()),), 0.2 * 0.04))


def test_smoothing_is_the_formula() -> None:
    found = smoothed_targets(
        torch.tensor([[1.0, 0.0]]), prior=torch.tensor([0.3, 0.01]), is_chosen=torch.tensor([True]), epsilon=0.05
    )
    torch.testing.assert_close(found, torch.tensor([[0.95 + 0.015, 0.0005]]))


def everything() -> SyntusObjective:
    return SyntusObjective(SyntusObjectiveConfig(), context=CONTEXT)


def test_emptying_a_negative_cell_changes_no_other_gradient_of_the_classification() -> None:
    def gradients(labels: Tensor) -> tuple[Tensor, Tensor]:
        given = step(two_layers=True, targets=labels)
        judge = objective(balanced=DistributionBalancedConfig())
        # the mean's denominator is one cell smaller; the sum is what a cell must not leak into
        (judge(given).total * (~labels.isnan()).sum()).backward()
        first, second = given.further["u"].grad, given.further["r"].grad
        assert first is not None
        assert second is not None
        return first, second

    whole = gradients(targets())
    for row in (1, 6):
        column = int((targets()[row] == 0).nonzero()[0, 0])
        emptied = targets()
        emptied[row, column] = torch.nan
        for before, after in zip(whole, gradients(emptied), strict=True):
            expected = before.clone()
            expected[row, column] = 0.0
            torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-9)


def test_rows_without_any_label_are_zero_without_nan() -> None:
    given = step(
        two_layers=True, mixed=True, targets=torch.full((ROWS, 6), torch.nan), hardness=torch.ones(ROWS), epoch=20
    )
    value = everything()(given)
    value.total.backward()
    assert value.total == 0
    for logits in given.further.values():
        assert logits.grad is not None
        assert (logits.grad == 0).all()


def test_everything_together_logs_its_parts_and_is_finite() -> None:
    judge = everything()
    value = judge(step(two_layers=True, mixed=True, hardness=torch.rand(ROWS), epoch=7))
    assert tuple(value.parts) == judge.part_names == ("cls", "lex", "con", "con_cells", "smoothed")
    assert all(torch.isfinite(part) for part in (*value.parts.values(), value.total))
    assert not list(judge.parameters())
    assert not judge.state_dict()


def test_what_head_and_sampler_do_not_give_is_named() -> None:
    with pytest.raises(MedtailError, match="consistency: compares two last layers; expected a head with `kind: syntus"):
        everything()(step())
    with pytest.raises(MedtailError, match=r"(?s)consistency: compares.*smoothing: needs an account"):
        SyntusObjectiveConfig().check(two_layers=False, two_streams=False)
    with pytest.raises(MedtailError, match="'dealt_layers' deals rows out over two layers"):
        SyntusObjectiveConfig(consistency=None, sham="dealt_layers")
