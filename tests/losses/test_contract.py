from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medtail.errors import MedtailError
from medtail.losses.build import BceConfig, CrossEntropyConfig, build_loss
from medtail.losses.contract import GroupLayout, Loss, LossContext, masked_mean, masked_sum
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.tail import count_classes


def test_context_is_read_from_the_train_fold(toy_manifest: Manifest) -> None:
    counts = count_classes(toy_manifest)
    in_train = toy_manifest.in_fold("train")
    context = LossContext.from_counts(counts, labels=toy_manifest.labels, num_images=len(in_train))
    assert context.positives == tuple(np.nansum(in_train.targets, axis=0))
    assert context.groups == ((2, 3, 4),)
    assert context.prevalence == pytest.approx(np.nanmean(in_train.targets, axis=0), rel=1e-6)


def test_context_refuses_counts_of_other_classes(toy_manifest: Manifest) -> None:
    other = manifest_from_frame(
        pd.DataFrame({"image_id": ["a"], "path": ["a"], "patient_id": ["1"], "fold": ["train"], "Hernia": [1]})
    )
    with pytest.raises(MedtailError, match=r"counts are of \('Hernia',\); expected the classes \('bright'"):
        LossContext.from_counts(count_classes(other), labels=toy_manifest.labels, num_images=1)


def test_context_names_every_mistake_at_once() -> None:
    with pytest.raises(
        MedtailError, match=r"(?s)11 positives, 10 assessed.*found \(\(0, 2\),\); expected columns"
    ) as e:
        LossContext((11, 1), (10, 10), ((0, 2),), 10)
    assert len(str(e.value).splitlines()) == 2
    with pytest.raises(MedtailError, match="found 2 of positives and 1 of assessed"):
        LossContext((1, 1), (1,), (), 1)
    with pytest.raises(MedtailError, match="each in one group"):
        LossContext((1, 1, 1), (1, 1, 1), ((0, 1), (1, 2)), 1)


def test_log_softmax_of_groups_of_differing_size_is_each_group_alone() -> None:
    groups = [(4, 0), (1, 5, 3)]
    logits = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)) * 20
    found = GroupLayout(groups, num_classes=6).log_softmax(logits)
    for group in groups:
        torch.testing.assert_close(found[:, list(group)], torch.log_softmax(logits[:, list(group)], dim=1))


def test_a_multiclass_task_has_the_mean_cross_entropy_over_its_rows() -> None:
    context = LossContext((5, 3, 2), (10, 10, 10), ((0, 1, 2),), 10)
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    index = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1])
    found = masked_mean(build_loss(CrossEntropyConfig(), context), logits, torch.eye(3)[index])
    assert found.item() == pytest.approx(cross_entropy(logits, index).item(), abs=1e-6)
    smooth = masked_mean(build_loss(CrossEntropyConfig(smoothing=0.1), context), logits, torch.eye(3)[index])
    assert smooth.item() == pytest.approx(cross_entropy(logits, index, label_smoothing=0.1).item(), abs=1e-6)


def test_a_multilabel_task_has_the_mean_over_its_assessed_cells() -> None:
    context = LossContext((5, 3), (10, 10), (), 10)
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [torch.nan, torch.nan], [0.3, 0.0]])
    cells = ~targets.isnan()
    found = masked_mean(build_loss(BceConfig(), context), logits, targets)
    assert found.item() == pytest.approx(binary_cross_entropy_with_logits(logits[cells], targets[cells]).item())


def test_a_group_weighs_as_much_as_a_free_class() -> None:
    loss = build_loss(CrossEntropyConfig(), LossContext((5, 3, 2, 4), (10,) * 4, ((0, 1, 2),), 10))
    # all logits 0: the group's term is log 3, the free class's log 2
    total, count = masked_sum(loss, torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 0.0, 1.0]]))
    assert count.item() == 2
    assert total.item() == pytest.approx(math.log(3) + math.log(2))


def test_a_group_that_does_not_apply_is_no_term() -> None:
    loss = build_loss(CrossEntropyConfig(), LossContext((5, 3, 4), (10,) * 3, ((0, 1),), 10))
    logits = torch.zeros(2, 3, requires_grad=True)
    total, count = masked_sum(loss, logits, torch.tensor([[0.0, 0.0, 1.0], [torch.nan, 1.0, 1.0]]))
    total.backward()
    assert (total.item(), count.item()) == (pytest.approx(2 * math.log(2)), 2)
    assert logits.grad is not None
    assert logits.grad[:, :2].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_under_the_sigmoid_link_a_group_that_does_not_apply_is_absence() -> None:
    loss = build_loss(BceConfig(), LossContext((5, 3), (10,) * 2, ((0, 1),), 10))
    total, count = masked_sum(loss, torch.zeros(1, 2), torch.zeros(1, 2))
    assert (total.item(), count.item()) == (pytest.approx(2 * math.log(2)), 2)


def test_a_loss_is_given_zero_where_a_label_was_not_assessed() -> None:
    # a loss that looks along the row, as distribution-balanced weights do, must not meet a made-up positive
    class Row(Loss):
        def values(self, logits: torch.Tensor, targets: torch.Tensor, *, progress: float = 0.0) -> torch.Tensor:
            return targets.sum(dim=1, keepdim=True).expand_as(targets)

    loss = Row(context=LossContext((5, 3, 1), (10,) * 3, (), 10), link="sigmoid")
    assert masked_mean(loss, torch.zeros(1, 3), torch.tensor([[1.0, 0.0, torch.nan]])).item() == 1.0
