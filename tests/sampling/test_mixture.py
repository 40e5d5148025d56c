from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.sampling.build import MixtureSamplerConfig, UniformSamplerConfig, build_sampler
from medtail.sampling.mixture import Pool, find_pool, mixture_chances
from medtail.tables.manifest import Manifest, manifest_from_frame

REAL, MADE = {"k=a": 40, "k=b": 15, "k=c": 5}, {"k=a": 10, "k=b": 25, "k=c": 35}


def with_pool(**changes: object) -> Manifest:
    """Sixty real rows of three classes, seventy generated ones behind them, and a few rows of other folds."""
    classes = [
        *(name for name, n in REAL.items() for _ in range(n)),
        *(name for name, n in MADE.items() for _ in range(n)),
    ]
    real, count = sum(REAL.values()), len(classes)
    ids = [f"i{number:03d}" for number in range(count)]
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": "train"})
    frame["origin"] = ["real"] * real + ["synthetic"] * (count - real)
    frame["meta_class"] = [""] * real + classes[real:]
    for name in REAL:
        frame[name] = [float(own == name) for own in classes]
    frame.loc[3, "fold"] = "tune"
    return manifest_from_frame(frame.assign(**changes), name="pool.csv")


def test_level_zero_draws_what_the_uniform_sampler_draws_from_the_real_rows_alone() -> None:
    manifest = with_pool()
    alone = build_sampler(UniformSamplerConfig(), manifest.take(manifest.is_real), seed=3, epochs=5)
    mixed = build_sampler(MixtureSamplerConfig(levels=0.0), manifest, seed=3, epochs=5)
    for epoch in (0, 1, 4, 2):
        np.testing.assert_array_equal(mixed.draw(epoch), alone.draw(epoch))
    assert len(mixed.draw(0)) == 59
    assert mixed.frequencies(0)[59:].sum() == 0.0


def test_classes_and_origins_come_in_the_shares_of_the_specification() -> None:
    manifest, levels = with_pool(), {"k=a": 0.25, "k=b": 0.5, "k=c": 2.0}
    sampler = build_sampler(MixtureSamplerConfig(levels=levels), manifest, seed=0, epochs=1, epoch_rows=40_000)
    drawn = sampler.draw(0)
    n = np.array([39, 15, 5])  # one row of class a is in tune
    m = np.array([0.25, 0.5, 2.0]) * [10, 25, 35]
    classes = manifest.targets.argmax(axis=1)
    for c in range(3):
        # class c with probability (n_c + m_c) / Σ (n + m), then synthetic with m_c / (n_c + m_c)
        for chosen, wanted in (
            (classes[drawn] == c, (n + m)[c] / (n + m).sum()),
            ((classes[drawn] == c) & ~manifest.is_real[drawn], m[c] / (n + m).sum()),
        ):
            error = np.sqrt(wanted * (1 - wanted) / len(drawn))
            assert abs(chosen.mean() - wanted) < 3 * error


def test_no_row_comes_twice_before_all_of_its_kind_have_come() -> None:
    manifest = with_pool()
    sampler = build_sampler(MixtureSamplerConfig(levels={"k=c": 1.0}), manifest, seed=1, epochs=9)
    drawn = np.concatenate([sampler.draw(epoch) for epoch in range(9)])
    for kind in (np.flatnonzero(manifest.is_real & (manifest.folds == "train")), np.arange(95, 130)):
        shown = drawn[np.isin(drawn, kind)]
        for start in range(0, len(shown) - len(kind) + 1, len(kind)):
            assert sorted(shown[start : start + len(kind)]) == sorted(kind)
        assert len(shown) > len(kind)


def test_epochs_can_be_drawn_in_any_order_and_again() -> None:
    manifest = with_pool()
    first, other = (build_sampler(MixtureSamplerConfig(), manifest, seed=2, epochs=5) for _ in range(2))
    later = first.draw(4)
    for epoch in (1, 0, 3):
        other.draw(epoch)
    np.testing.assert_array_equal(other.draw(4), later)


def test_multi_label_pools_are_drawn_by_the_class_they_were_made_for() -> None:
    pool = with_pool(
        **{"k=a": None, "k=b": None, "k=c": None, "nodule": np.r_[np.zeros(60), np.ones(70)], "mass": 1.0},
        meta_class=[""] * 60 + ["nodule"] * 30 + ["mass"] * 40,
    ).with_classes(["nodule", "mass"])
    sampler = build_sampler(MixtureSamplerConfig(levels={"mass": 1.0}), pool, seed=0, epochs=1, epoch_rows=4000)
    drawn = sampler.draw(0)
    assert set(drawn[drawn >= 60]) == set(range(90, 130))
    assert (drawn >= 60).mean() == pytest.approx(40 / 99, abs=0.025)


def test_the_log_tells_levels_and_the_share_of_generated_images() -> None:
    sampler = build_sampler(MixtureSamplerConfig(levels={"k=b": 1.0}), with_pool(), seed=0, epochs=1)
    facts = sampler.facts(0)
    assert facts["synthetic_share"] == pytest.approx(25 / 84)
    assert facts["level_k=b"] == 1.0
    assert facts["level_k=a"] == 0.0


def test_a_pool_row_without_its_class_is_told_by_its_labels() -> None:
    pool = find_pool(with_pool(meta_class=""))
    assert [len(rows) for rows in pool.members] == [10, 25, 35]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"k=d": 1.0}, r"pool.csv, levels.*'k=d': no such class; did you mean 'k=[abc]'"),
        ({"k=a": 3.0}, r"less than or equal to 2"),
        (-0.5, r"greater than or equal to 0"),
    ],
)
def test_impossible_levels_are_refused(levels: object, message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        build_sampler(MixtureSamplerConfig(levels=levels), with_pool(), seed=0, epochs=1)  # type: ignore[arg-type]


def test_generated_images_that_are_not_there_are_missed() -> None:
    manifest = with_pool()
    real = manifest.take(manifest.is_real)
    with pytest.raises(MedtailError, match=r"no synthetic row is in the train fold.*medtail synthesise make"):
        build_sampler(MixtureSamplerConfig(levels=0.5), real, seed=0, epochs=1)
    without_c = manifest.take(manifest.is_real | (manifest.targets[:, 2] == 0))
    with pytest.raises(MedtailError, match=r"'k=c': level 0.5, but the table has no generated image of it"):
        build_sampler(MixtureSamplerConfig(levels={"k=c": 0.5}), without_c, seed=0, epochs=1)


def test_a_pool_of_another_label_space_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"'meta_class': 'k=z' is no class here \(rows 62, 63.*A pool must be of"):
        find_pool(with_pool(meta_class=[""] * 60 + ["k=z"] * 70))
    with pytest.raises(MedtailError, match=r"names a class that the row's label columns do not show \(rows 72"):
        find_pool(with_pool(meta_class=[""] * 60 + ["k=a"] * 70))
    with pytest.raises(MedtailError, match=r"no real row is in the train fold"):
        find_pool(with_pool(origin="synthetic", meta_class=""))


def test_chances_add_up_whatever_the_levels() -> None:
    pool = Pool(np.arange(3), (np.array([3]), np.array([], dtype=int)), ("a", "b"), "t.csv")
    for level in (0.0, 0.3, 2.0):
        assert mixture_chances(np.array([level, level]), pool).sum() == pytest.approx(1.0)
