from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from medtail.explain.examples import tiny_diagnoser
from medtail.explain.maps import heat_maps
from medtail.explain.randomisation import randomised, rank_correlation, structural_similarity


def changed(model, other):
    return {
        name for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True) if not torch.equal(a, b)
    }


@pytest.mark.parametrize("family", ["cnn", "dual"])
def test_each_depth_forgets_all_that_the_one_before_forgot(family):
    model = tiny_diagnoser(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head, half, everything = (changed(model, randomised(model, depth=d)) for d in ("head", "half", "all"))
    assert head < half < everything
    assert all(name.startswith("head.") for name in head)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_values_are_shuffled_not_drawn():
    model = tiny_diagnoser("cnn")
    for a, b in zip(model.parameters(), randomised(model).parameters(), strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)


def test_the_seed_decides():
    model = tiny_diagnoser("cnn")
    assert changed(randomised(model, seed=1), randomised(model, seed=1)) == set()
    assert changed(randomised(model, seed=1), randomised(model, seed=2))


def test_maps_change_when_the_model_forgets():
    model, image = tiny_diagnoser("cnn"), torch.rand(1, 1, 64, 64)
    own = heat_maps(model, image, classes=[2])[0, 0]
    other = heat_maps(randomised(model), image, classes=[2])[0, 0]
    assert rank_correlation(own.numpy(), other.numpy()) < 0.95


def test_rank_correlation_agrees_with_scipy():
    random = np.random.default_rng(0)
    a, b = random.random((6, 7)).round(1), random.random((6, 7)).round(1)
    inside = random.random((6, 7)) > 0.3
    assert rank_correlation(a, b, inside=inside) == pytest.approx(spearmanr(a[inside], b[inside]).statistic)
    assert np.isnan(rank_correlation(a, np.zeros_like(a)))


def test_structural_similarity_falls_from_one():
    maps = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert structural_similarity(maps, maps).tolist() == [1.0, 1.0]
    assert (structural_similarity(maps, maps.flip(0)) < 0.5).all()
