"""The breast-subtype phantom follows its recipe, and its classes differ by what the recipe says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medtail.errors import UsageError
from medtail.sources.phantom_breast import (
    CLASS_NAMES,
    SUBTYPES,
    BreastPhantom,
    breast_manifest,
    breast_pool,
    planned_rows,
    render_breast,
)
from medtail.tables.manifest import read_manifest

FIBROADENOMA, CYST, PHYLLODES, IDC, MUCINOUS, PAPILLOMA = range(6)


def drawn(which: int, *, count: int = 12, size_px: int = 64) -> list[BreastPhantom]:
    return [render_breast(which, number=number, size_px=size_px) for number in range(count)]


def inside(phantom: BreastPhantom) -> float:
    return float(phantom.pixels[ndimage.binary_erosion(phantom.mask, iterations=2)].mean())


def beside(phantom: BreastPhantom) -> float:
    rows = phantom.mask.any(axis=1)
    away = ~ndimage.binary_dilation(phantom.mask, iterations=4)
    return float(phantom.pixels[away & rows[:, None]].mean())


def behind(phantom: BreastPhantom) -> float:
    """Gray behind the lesion against the same depth beside it."""
    rows, columns = np.flatnonzero(phantom.mask.any(axis=1)), phantom.mask.any(axis=0)
    strip = phantom.pixels[rows[-1] + 2 : rows[-1] + 14].astype(float)
    away = ~ndimage.binary_dilation(columns, iterations=3)
    return float(strip[:, columns].mean() - strip[:, away].mean())


def test_the_table_is_the_specifications() -> None:
    assert [kind.train for kind in SUBTYPES] == [400, 160, 80, 40, 20, 10]
    assert [kind.height_over_width for kind in SUBTYPES] == [0.65, 0.80, 0.75, 1.15, 0.75, 0.75]
    assert [kind.posterior for kind in SUBTYPES] == [0.0, 0.35, 0.05, -0.30, 0.15, 0.20]
    assert [kind.inner for kind in SUBTYPES] == [0.30, 0.03, 0.25, 0.18, 0.42, 0.05]
    assert len(CLASS_NAMES) == 6


def test_inner_echo_is_ordered_as_the_table_says() -> None:
    contrast = {which: np.mean([inside(p) - beside(p) for p in drawn(which)]) for which in range(6)}
    assert contrast[CYST] < contrast[IDC] < contrast[PHYLLODES] < contrast[FIBROADENOMA] < contrast[MUCINOUS] < 0
    assert contrast[CYST] < -100


def test_a_papilloma_is_a_cyst_with_something_in_it() -> None:
    def brightest_inside(phantom: BreastPhantom) -> float:
        smooth = ndimage.gaussian_filter(phantom.pixels.astype(float), 1.5)
        return float(smooth[ndimage.binary_erosion(phantom.mask, iterations=3)].max())

    assert min(map(brightest_inside, drawn(PAPILLOMA))) > max(map(brightest_inside, drawn(CYST)))


def test_height_over_width_is_the_classs() -> None:
    for which, kind in enumerate(SUBTYPES):
        found = []
        for phantom in drawn(which, size_px=128):
            height, width = (np.ptp(np.flatnonzero(phantom.mask.any(axis=axis))) + 1 for axis in (1, 0))
            found.append(height / width)
        # lobes and spikes point somewhere else in every lesion
        assert np.mean(found) == pytest.approx(kind.height_over_width, abs=0.06), kind.name


def test_cysts_are_bright_behind_and_idc_throws_a_shadow() -> None:
    means = {which: np.mean([behind(p) for p in drawn(which, count=40)]) for which in (FIBROADENOMA, CYST, IDC)}
    assert means[CYST] > means[FIBROADENOMA] + 8
    assert means[IDC] < means[FIBROADENOMA] - 8


def test_lobes_and_spikes_roughen_the_outline() -> None:
    def roughness(phantom: BreastPhantom) -> float:
        y, x = np.nonzero(phantom.boundary)
        radius = np.hypot((x - x.mean()) / np.ptp(x), (y - y.mean()) / np.ptp(y))
        return float(radius.std() / radius.mean())

    found = {which: np.mean([roughness(p) for p in drawn(which, size_px=128)]) for which in range(6)}
    assert found[PHYLLODES] > 2 * found[CYST]
    assert found[MUCINOUS] > found[FIBROADENOMA]


def test_the_boundary_is_the_edge_of_the_mask() -> None:
    for which in range(6):
        phantom = render_breast(which, number=3)
        assert not (phantom.boundary & ~phantom.mask).any()
        assert np.array_equal(ndimage.binary_fill_holes(phantom.boundary), phantom.mask)
        assert phantom.boundary.sum() < 0.5 * phantom.mask.sum()


def test_another_speckle_is_the_same_lesion_and_another_number_is_not() -> None:
    first, other = render_breast(2, number=1), render_breast(2, number=1, speckle=1)
    assert np.array_equal(first.mask, other.mask)
    assert not np.array_equal(first.pixels, other.pixels)
    assert not np.array_equal(first.mask, render_breast(2, number=2).mask)
    assert not np.array_equal(first.mask, render_breast(2, number=1, seed=1).mask)
    assert np.array_equal(first.pixels, render_breast("phyllodes_like", number=1).pixels)


def test_simple_features_tell_the_classes_apart_far_above_chance() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import f1_score

    pixels, labels, shown = breast_pool([60] * 6, seed=1)
    assert np.array_equal(labels, shown)

    def features(image: np.ndarray) -> np.ndarray:
        smooth = ndimage.gaussian_filter(image.astype(float), 2.0)
        return np.concatenate([ndimage.zoom(smooth, 0.2).ravel(), np.quantile(smooth, np.linspace(0, 1, 21))])

    x = np.array([features(image) for image in pixels])
    held_out = np.arange(len(x)) % 3 == 0
    judge = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[~held_out], labels[~held_out])
    # chance is 1/6; a convolutional network does much better
    assert f1_score(labels[held_out], judge.predict(x[held_out]), average="macro") > 0.45


def test_a_pool_is_fresh_and_wrong_as_often_as_asked() -> None:
    pixels, labels, shown = breast_pool([40, 40, 0, 0, 0, 40], wrong=0.4, size_px=32)
    assert np.bincount(labels, minlength=6).tolist() == [40, 40, 0, 0, 0, 40]
    assert (labels != shown).mean() == pytest.approx(0.4, abs=0.12)
    assert len({image.tobytes() for image in pixels}) == len(pixels)
    train = {render_breast(0, number=number, size_px=32).pixels.tobytes() for number in range(40)}
    assert not train & {image.tobytes() for image in pixels}
    again = breast_pool([40, 40, 0, 0, 0, 40], wrong=0.4, size_px=32)
    assert np.array_equal(pixels, again[0])
    assert breast_pool([0] * 6)[0].shape == (0, 64, 64)


def test_the_written_set_has_its_folds_and_one_patient_an_image(tmp_path: Path) -> None:
    manifest = breast_manifest(tmp_path / "b", size_px=32)
    read = read_manifest(tmp_path / "b" / "manifest.csv")
    read.check_files()
    read.check_folds("train", "tune", "test", "reward")
    assert read.labels.task == "multiclass"
    assert len(set(read.patients)) == len(read) == len(manifest)
    counts = {fold: read.in_fold(fold).targets.sum(axis=0).astype(int).tolist() for fold in set(read.folds)}
    assert counts["train"] == [kind.train for kind in SUBTYPES]
    assert counts["reward"] == counts["tune"] == [30] * 6
    assert counts["test"] == [150] * 6
    phantom = render_breast(0, size_px=32)
    for column, plane in (
        ("path", phantom.pixels),
        ("mask_path", phantom.mask),
        ("meta_boundary_path", phantom.boundary),
    ):
        with Image.open(tmp_path / "b" / read.frame[column][0]) as image:
            assert np.array_equal(np.asarray(image), plane if column == "path" else plane * 255)


def test_scarce_reward_rows_are_taken_out_of_train() -> None:
    rows = planned_rows(reward="scarce", balanced=None)
    counts = {
        fold: np.bincount([c for c, _, f in rows if f == fold], minlength=6).tolist() for fold in ("train", "reward")
    }
    assert counts["reward"] == [40, 16, 8, 4, 2, 1]
    assert counts["train"] == [360, 144, 72, 36, 18, 9]
    assert len({(c, number) for c, number, _ in rows}) == len(rows)


def test_the_balanced_set_holds_the_long_tailed_one() -> None:
    tail, full = (set(planned_rows(reward="none", balanced=balanced)) for balanced in (None, 400))
    assert tail < full
    assert np.bincount([c for c, _, fold in full if fold == "train"]).tolist() == [400] * 6


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    for call, message in (
        (lambda: render_breast(6), "class 6; expected 0 to 5"),
        (lambda: render_breast("cyst_lik"), r"did you mean 'cyst_like'\?"),
        (lambda: render_breast(0, size_px=8), "size_px 8"),
        (lambda: breast_pool([1, 2]), "expected 6 numbers"),
        (lambda: breast_pool([1] * 6, wrong=2.0), "wrong 2.0"),
        (lambda: breast_manifest(tmp_path / "b", size_px=8), "size_px 8"),
        (lambda: breast_manifest(tmp_path / "b", balanced=0), "balanced 0"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    assert not (tmp_path / "b").exists()
