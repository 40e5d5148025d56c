from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medtail.losses.spectral import (
    SpectrumForm,
    batch_spectral_shrinkage,
    is_spectrum_short,
    smallest_singular_values,
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("rows", "dim"), [(8, 20), (20, 8), (9, 9)])
@pytest.mark.parametrize("count", [1, 3])
def test_shrinkage_is_the_sum_of_the_smallest_eigenvalues_of_the_gram_matrix(rows: int, dim: int, count: int) -> None:
    features = noise(rows, dim)
    gram = features.numpy() @ features.numpy().T if rows <= dim else features.numpy().T @ features.numpy()
    expected = np.linalg.eigvalsh(gram)[:count].sum()
    assert batch_spectral_shrinkage(features, count=count, eta=1.0).item() == pytest.approx(expected, rel=1e-9)
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    assert batch_spectral_shrinkage(features, count=count, eta=0.5).item() == pytest.approx(
        0.5 * (values[-count:] ** 2).sum(), rel=1e-9
    )


def test_orthonormal_rows_give_k_times_eta() -> None:
    rows, _ = torch.linalg.qr(noise(30, 6))
    assert batch_spectral_shrinkage(rows.T, count=4, eta=1e-3).item() == pytest.approx(4e-3, rel=1e-9)


def test_features_of_noise_have_the_size_that_the_documentation_names() -> None:
    value = batch_spectral_shrinkage(noise(32, 2176, dtype=torch.float32), eta=1.0).item()
    assert value == pytest.approx(1700, rel=0.05)


@pytest.mark.parametrize("form", ["smallest", "literal"])
def test_gradient_is_that_of_finite_differences(form: SpectrumForm) -> None:
    features = noise(7, 4).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda f: batch_spectral_shrinkage(f, count=2, eta=1.0, form=form), (features,))
    batch_spectral_shrinkage(features, form=form).backward()
    assert features.grad is not None
    assert features.grad.abs().max() > 0


def test_the_printed_form_is_zero_for_fewer_rows_than_features_and_so_is_its_gradient() -> None:
    features = noise(8, 20).requires_grad_(True)
    value = batch_spectral_shrinkage(features, eta=1.0, form="literal")
    value.backward()
    assert value.item() < 1e-20
    assert features.grad is not None
    assert features.grad.abs().max() < 1e-10


@pytest.mark.parametrize(("rows", "dim", "count"), [(20, 6, 2), (6, 8, 3), (6, 6, 5)])
def test_the_printed_form_is_the_squares_of_all_eigenvalues_of_the_larger_gram_matrix(
    rows: int, dim: int, count: int
) -> None:
    features = noise(rows, dim)
    values = np.linalg.eigvalsh(features.numpy().T @ features.numpy())  # ascending, zeros first
    expected = (values[:count] ** 2).sum()
    found = batch_spectral_shrinkage(features, count=count, eta=1.0, form="literal").item()
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-20)


@pytest.mark.parametrize("form", ["smallest", "literal"])
@pytest.mark.parametrize(("rows", "dim", "taken"), [(1, 9, 0), (9, 1, 0), (2, 9, 1), (3, 9, 2), (1, 1, 0)])
def test_the_strongest_direction_is_never_shrunk(rows: int, dim: int, taken: int, form: SpectrumForm) -> None:
    features = noise(rows, dim).requires_grad_(True)
    values = smallest_singular_values(features, count=5, form=form)
    if form == "smallest":
        assert len(values) == taken
    value = batch_spectral_shrinkage(features, count=5, form=form)
    value.backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    if taken == 0:
        assert value.item() == 0.0
        assert (features.grad == 0).all()


def test_two_equal_rows_are_said_to_be_zero_and_have_a_finite_gradient() -> None:
    for scale in (1e-3, 1.0, 1e3):
        features = scale * (noise(32, 300, dtype=torch.float32) + 3)
        assert not is_spectrum_short(features, smallest_singular_values(features))
        features[4] = features[9]
        features.requires_grad_(True)
        values = smallest_singular_values(features)
        assert is_spectrum_short(features, values)
        values.square().sum().backward()
        assert features.grad is not None
        assert torch.isfinite(features.grad).all()


def test_the_printed_form_is_said_to_be_zero_where_it_is() -> None:
    for rows, expected in ((8, True), (40, False)):
        features = noise(rows, 20, dtype=torch.float32)
        values = smallest_singular_values(features, form="literal")
        assert bool(is_spectrum_short(features, values, form="literal")) is expected


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    features = noise(8, 40, dtype=torch.float32)
    exact = smallest_singular_values(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(smallest_singular_values(features), exact)
    assert smallest_singular_values(features.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_features_that_are_no_numbers_come_out_as_no_number_and_are_not_decomposed(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(features: Tensor) -> Tensor:  # as some builds of the decomposition do
        raise torch.linalg.LinAlgError

    monkeypatch.setattr(torch.linalg, "svdvals", stop)
    features = noise(5, 4)
    features[2, 1] = value
    assert torch.isnan(batch_spectral_shrinkage(features))
