from __future__ import annotations

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.synthesis.kernel_distance import KernelPosition, frechet_distance, kernel_distance, kernel_position


def test_kid_equals_a_slow_loop():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(7, 3)), random.normal(0.5, 1, (5, 3))

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    own = np.mean([k(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    other = np.mean([k(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    between = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(own + other - 2 * between, rel=1e-10)


def test_kid_equals_torchmetrics_on_given_features():
    from torchmetrics.image.kid import poly_mmd

    random = np.random.default_rng(1)
    a, b = random.normal(size=(40, 16)), random.normal(0.3, 1.2, (40, 16))
    wanted = float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b), degree=3, gamma=None, coef=1.0))
    assert kernel_distance(a, b) == pytest.approx(wanted, rel=1e-8)


def test_kid_is_unbiased_at_few_rows():
    random = np.random.default_rng(2)
    values = [kernel_distance(random.normal(size=(5, 8)), random.normal(size=(9, 8))) for _ in range(3000)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    apart = [kernel_distance(random.normal(size=(5, 8)), random.normal(1, 1, (9, 8))) for _ in range(300)]
    assert np.mean(apart) > 5 * error


def test_kid_of_too_few_rows_is_not_a_number():
    assert np.isnan(kernel_distance(np.zeros((1, 2)), np.zeros((9, 2))))


def test_fid_has_its_closed_form_for_normal_distributions():
    random = np.random.default_rng(3)
    a = random.normal(0, 1, (40_000, 2)) * [1.0, 2.0]
    b = random.normal(0, 1, (40_000, 2)) * [3.0, 0.5] + [1.0, -1.0]
    value, reason = frechet_distance(a, b)
    assert reason == ""
    assert value == pytest.approx(2 + (1 - 3) ** 2 + (2 - 0.5) ** 2, rel=0.03)


def test_fid_equals_torchmetrics_formula_on_given_features():
    from torchmetrics.image.fid import _compute_fid

    random = np.random.default_rng(4)
    mix = random.normal(size=(6, 6))
    a, b = random.normal(size=(2500, 6)), random.normal(0.2, 1, (2500, 6)) @ mix
    moments = [torch.from_numpy(value) for x in (a, b) for value in (x.mean(axis=0), np.cov(x, rowvar=False))]
    assert frechet_distance(a, b)[0] == pytest.approx(float(_compute_fid(*moments)), rel=1e-6)


@pytest.mark.parametrize(("rows", "width", "needed"), [(1999, 4, "2,000"), (2400, 1280, "2,560")])
def test_fid_of_too_few_rows_is_not_a_number_and_says_why(rows, width, needed):
    value, reason = frechet_distance(np.zeros((rows, width)), np.zeros((rows, width)))
    assert np.isnan(value)
    assert reason == f"{rows:,} rows; FID needs {needed}"


def test_a_class_lies_between_floor_and_ceiling():
    random = np.random.default_rng(5)
    real, near, far = random.normal(0, 1, (60, 4)), random.normal(1, 1, (60, 4)), random.normal(3, 1, (60, 4))
    others = {"near": near, "far": far, "alone": near[:1]}
    good = kernel_position(random.normal(0, 1, (60, 4)), real, others=others, random=random)
    assert good.nearest == "near"
    assert abs(good.position) < 0.2
    wrong = kernel_position(random.normal(1, 1, (60, 4)), real, others=others, random=random)
    assert wrong.position == pytest.approx(1, abs=0.5)
    assert good.floor < good.floor_high < good.ceiling


def test_without_a_scale_there_is_no_position():
    few = kernel_position(np.zeros((5, 2)), np.zeros((3, 2)), others={}, random=np.random.default_rng(0))
    assert np.isnan([few.floor, few.ceiling, few.position]).all()
    assert np.isnan(KernelPosition(0.1, 0.2, 0.3, 0.1, "x").position)


def test_two_widths_are_refused():
    with pytest.raises(MedtailError, match="expected \\[rows, width\\] of one space"):
        kernel_distance(np.zeros((3, 2)), np.zeros((3, 4)))
