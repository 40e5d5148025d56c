from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.pixels.augment import AugmentConfig
from medtail.tables.labels import LabelSpace
from medtail.training.tail_mix import (
    TailMixConfig,
    TailMixPlan,
    mix_features,
    plan_tail_mix,
    strong_augmentation,
    tail_labels,
)

IS_RARE = torch.tensor([False, False, True, True])
ROWS = torch.arange(8)
STREAMS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


def targets() -> Tensor:
    """An exclusive pair, then two rare labels: rows 1, 4, 5 show the first, row 6 alone the second."""
    labels = torch.zeros(8, 4)
    labels[:, 0], labels[3:6, 0], labels[3:6, 1] = 1, 0, 1
    labels[[1, 4, 5], 2] = 1
    labels[6, 3] = 1
    return labels


def plan(*, seed: int = 0, labels: Tensor | None = None, rows: Tensor = ROWS, **changes: float) -> TailMixPlan:
    config = TailMixConfig(**{"probability": 1.0, "mixed": 1.0, **changes})  # type: ignore[arg-type]
    return plan_tail_mix(
        targets() if labels is None else labels,
        STREAMS,
        rows,
        is_rare=IS_RARE,
        config=config,
        random=np.random.default_rng(seed),
    )


def test_only_rows_of_the_second_stream_with_a_rare_label_are_chosen() -> None:
    found = plan()
    assert found.mixed.tolist() == [False, False, False, False, True, True, False, False]
    assert found.strong.tolist() == [False] * 6 + [True, False]  # row 6 has no partner


def test_partners_share_a_rare_label_and_are_other_images() -> None:
    assert plan().partners[4].nonzero().flatten().tolist() == [1, 5]
    rows = ROWS.clone()
    rows[5] = rows[4]  # drawn twice: the same image is no partner
    assert plan(rows=rows).partners[4].nonzero().flatten().tolist() == [1]


def test_rows_are_chosen_as_often_as_asked() -> None:
    draws = [plan(seed=seed, probability=0.3, mixed=0.5) for seed in range(3000)]
    mixed = torch.stack([draw.mixed[4] for draw in draws]).double().mean().item()
    strong = torch.stack([draw.strong[4] for draw in draws]).double().mean().item()
    error = 4 * np.sqrt(0.15 * 0.85 / 3000)
    assert mixed == pytest.approx(0.15, abs=error)
    assert strong == pytest.approx(0.15, abs=error)
    assert not any((draw.mixed & draw.strong).any() for draw in draws)


def test_a_row_keeps_at_least_half_of_itself() -> None:
    shares = torch.cat([plan(seed=seed).shares for seed in range(300)])
    assert shares.min() >= 0.5
    assert shares.max() <= 1.0
    # E max(a, 1−a) for a ~ Beta(5, 1): ∫ 5 a⁴ max(a, 1−a) da
    grid = (np.arange(100_000) + 0.5) / 100_000
    expected = float((5 * grid**4 * np.maximum(grid, 1 - grid)).mean())
    assert shares.double().mean().item() == pytest.approx(expected, abs=4 * float(shares.std()) / np.sqrt(len(shares)))


def test_maps_and_labels_are_mixed_with_the_nearest_partner_as_it_was() -> None:
    features = torch.randn(8, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    features[4] = features[5] + 0.01  # nearest of 4 is 5, and of 5 it is 4
    found = plan()
    mixed, labels = mix_features(features, targets(), found)
    for row, partner in ((4, 5), (5, 4)):
        share = found.shares[row]
        torch.testing.assert_close(mixed[row], share * features[row] + (1 - share) * features[partner])
        torch.testing.assert_close(labels[row], share * targets()[row] + (1 - share) * targets()[partner])
    untouched = [0, 1, 2, 3, 6, 7]
    assert torch.equal(mixed[untouched], features[untouched])
    assert torch.equal(labels[untouched], targets()[untouched])


def test_an_exclusive_group_still_adds_up_to_one_and_an_empty_cell_stays_empty() -> None:
    labels = targets()
    labels[5, :2] = torch.tensor([1.0, 0.0])
    labels[4, 3] = torch.nan
    features = torch.randn(8, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    features[4] = features[5] + 0.01
    _, mixed = mix_features(features, labels, plan(labels=labels))
    torch.testing.assert_close(mixed[:, :2].sum(dim=1), torch.ones(8))
    assert 0 < mixed[4, 0] <= 0.5
    assert mixed[4, 3].isnan()
    assert mixed[5, 3].isnan()
    assert mixed[[4, 5], 2].tolist() == [1.0, 1.0]


def test_the_gradient_reaches_both_maps_and_not_the_choice() -> None:
    features = torch.randn(8, 6, 2, 2, requires_grad=True)
    mixed, _ = mix_features(features, targets(), plan())
    mixed[4].sum().backward()
    assert features.grad is not None
    assert sorted(features.grad.abs().sum(dim=(1, 2, 3)).nonzero().flatten().tolist())[-1] in (4, 5)
    own, total = features.grad[4].mean(), features.grad.mean(dim=(1, 2, 3)).sum()
    torch.testing.assert_close(own, plan().shares[4])
    torch.testing.assert_close(total, torch.tensor(1.0))


def test_nothing_to_mix_gives_back_the_very_same_tensors() -> None:
    features = torch.randn(8, 6, 2, 2)
    labels = targets()
    mixed, same = mix_features(features, labels, plan(probability=0.0))
    assert mixed is features
    assert same is labels


def test_strong_augmentation_stays_within_what_leaves_labels_true() -> None:
    strong = strong_augmentation(AugmentConfig()).strengths()
    assert strong["flip_vertical"] == strong["erase"] == 0
    assert strong["rotation_deg"] <= 10
    assert strong["gain"] <= 0.15
    assert strong["gamma"] <= 0.15
    assert strong["texture"] == 1.0
    assert strong["speckle"] > 0.1
    assert strong["blur_px"] > 0.7
    chest = strong_augmentation(AugmentConfig(profile="chest_xray")).strengths()
    assert chest["flip"] == chest["speckle"] == 0
    assert strong_augmentation(AugmentConfig(blur_px=2.5)).strengths()["blur_px"] == 3.0


def test_a_label_without_images_is_absent_not_rare() -> None:
    labels = LabelSpace(("a", "b", "c"))
    assert tail_labels(np.array([0.5, 0.0, 0.049]), below=0.05, labels=labels).tolist() == [False, False, True]
    with pytest.raises(
        MedtailError, match=r"tail_below: no label is in fewer than 5.0% .* the rarest, 'c', is in 6.0%"
    ):
        tail_labels(np.array([0.5, 0.0, 0.06]), below=0.05, labels=labels)
