from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as reference

from medtail.errors import MedtailError
from medtail.synthesis.similarity import WEIGHTS, multiscale_similarity, pairwise_similarity, scales_of


def pairs(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    first = random.random((count, side, side))
    return first, np.clip(first + random.normal(0, 0.2, first.shape), 0, 1)


def wanted(first: np.ndarray, second: np.ndarray, scales: int) -> np.ndarray:
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    return np.array(
        [
            float(
                reference(
                    torch.from_numpy(a[None, None]),
                    torch.from_numpy(b[None, None]),
                    betas=tuple(weights),
                    data_range=1.0,
                    normalize="relu",
                )
            )
            for a, b in zip(first, second, strict=True)
        ]
    )


def by_convolution(a: np.ndarray, b: np.ndarray, scales: int) -> float:
    place = np.arange(11) - 5
    window = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(window, window) / np.outer(window, window).sum()
    total, weights = 1.0, np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    for scale in range(scales):
        mean_a, mean_b, aa, bb, ab = (convolve2d(x, window, "valid") for x in (a, b, a * a, b * b, a * b))
        contrast = (2 * (ab - mean_a * mean_b) + 0.03**2) / (aa - mean_a**2 + bb - mean_b**2 + 0.03**2)
        luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        last = scale == scales - 1
        total *= max(float((luminance * contrast if last else contrast).mean()), 0.0) ** weights[scale]
        a, b = (x[: len(x) // 2 * 2, : len(x) // 2 * 2] for x in (a, b))
        a, b = ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4 for x in (a, b))
    return total


@pytest.mark.parametrize(("side", "scales"), [(12, 1), (45, 3), (64, 3), (100, 4)])
def test_it_equals_plain_convolutions(side, scales):
    first, second = pairs(2, side)
    assert scales_of(side) == scales
    slow = [by_convolution(a, b, scales) for a, b in zip(first, second, strict=True)]
    assert multiscale_similarity(first, second) == pytest.approx(slow, abs=1e-9)


def test_it_agrees_with_torchmetrics_but_for_its_mirrored_borders_at_the_last_scale():
    first, second = pairs(2, 192)
    assert multiscale_similarity(first, second) == pytest.approx(wanted(first, second, 5), abs=0.01)


def test_equal_images_score_one_and_unrelated_ones_near_none():
    first, _ = pairs(3, 64)
    assert multiscale_similarity(first, first) == pytest.approx(1.0)
    assert multiscale_similarity(first, first[[1, 2, 0]]).max() < 0.3


def test_more_noise_is_less_similar():
    first, _ = pairs(4, 64)
    noise = np.random.default_rng(1).normal(0, 1, first.shape)
    values = [multiscale_similarity(first, np.clip(first + s * noise, 0, 1)).mean() for s in (0.05, 0.1, 0.2, 0.4)]
    assert values == sorted(values, reverse=True)


def test_pairs_are_of_different_images_and_all_are_used_where_they_are_few():
    first, _ = pairs(3, 32)
    random = np.random.default_rng(0)
    by_hand = np.mean([multiscale_similarity(first[[i]], first[[j]])[0] for i, j in ((0, 1), (0, 2), (1, 2))])
    assert pairwise_similarity(first, pairs=100, random=random) == pytest.approx(by_hand)
    assert np.isnan(pairwise_similarity(first[:1], pairs=100, random=random))
    assert pairwise_similarity(np.repeat(first[:1], 9, axis=0), pairs=5, random=random) == pytest.approx(1.0)


def test_tiny_or_unequal_images_are_refused():
    for shapes in (((2, 8, 8), (2, 8, 8)), ((2, 32, 32), (1, 32, 32))):
        with pytest.raises(MedtailError, match="11 pixels or more a side"):
            multiscale_similarity(*(np.zeros(shape) for shape in shapes))
