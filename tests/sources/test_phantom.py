"""What is drawn is what the labels say: measured on pixels and masks, with real separations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull

from medtail.errors import UsageError
from medtail.sources.phantom import (
    BLOCK,
    DISCLAIMER,
    Phantom,
    PhantomConfig,
    phantom_case,
    render,
    render_case,
    spacing_mm,
)
from medtail.sources.phantom_physics import SCANNERS
from medtail.sources.thyro_lmd import EXCLUSIVE, FOCI, LABELS

SEEDS = range(8)
HYPO = ("echo_hypo",)


def drawn(*labels: str, size_px: int = 128) -> list[Phantom]:
    """Eight nodules with some labels, on all four scanners."""
    sites = list(SCANNERS)
    return [render(labels, seed=seed, size_px=size_px, site=sites[seed % 4], size_mm=8.0 + 2 * seed) for seed in SEEDS]


def gray(phantom: Phantom) -> np.ndarray:
    return ndimage.gaussian_filter(phantom.pixels.astype(float) / 255, 0.8)


def foci_mask(phantom: Phantom) -> np.ndarray:
    mask = np.zeros(phantom.lesion.shape, dtype=bool)
    for focus in phantom.foci:
        mask |= focus.mask
    return ndimage.binary_dilation(mask, iterations=2)


def beside(phantom: Phantom) -> np.ndarray:
    """Gland left and right of the nodule: same depth, no shadow."""
    rows = phantom.lesion.any(axis=1)
    near = ndimage.binary_dilation(phantom.lesion, iterations=14) & ~ndimage.binary_dilation(
        phantom.lesion, iterations=3
    )
    return near & phantom.thyroid & rows[:, None]


def tissue(phantom: Phantom) -> np.ndarray:
    inner = ndimage.binary_erosion(phantom.lesion, iterations=3)
    return inner & ~ndimage.binary_dilation(phantom.fluid) & ~foci_mask(phantom)


def contrast(phantom: Phantom) -> float:
    image = gray(phantom)
    return float(image[tissue(phantom)].mean() - image[beside(phantom)].mean())


def against_strap(phantom: Phantom) -> float:
    """Tissue against muscle, the loss and gain of depth taken out by what gland shows there."""
    image = gray(phantom)
    capsule_rows = ndimage.binary_erosion(phantom.strap, iterations=2)
    return float(image[tissue(phantom)].mean() - image[capsule_rows].mean())


def ratio(phantom: Phantom) -> float:
    _, _, width, height = phantom.box
    return height / width


def solidity(phantom: Phantom) -> float:
    hull = ConvexHull(np.argwhere(phantom.lesion))
    corners = np.argwhere(phantom.lesion)[hull.vertices]
    y, x = corners[:, 0], corners[:, 1]
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) + 0.5 * len(corners)
    return float(phantom.lesion.sum() / area)


def border_distance(phantom: Phantom) -> np.ndarray:
    inside = ndimage.distance_transform_edt(phantom.lesion)
    outside = ndimage.distance_transform_edt(~phantom.lesion)
    return np.where(phantom.lesion, inside - 0.5, 0.5 - outside)


def border_width(phantom: Phantom) -> float:
    """How little of the step from inside to outside happens within two pixels of the border."""
    image, distance = phantom.pixels.astype(float), border_distance(phantom)
    around = (phantom.lesion | phantom.thyroid) & ~foci_mask(phantom)

    def mean(low: float, high: float) -> float:
        return float(image[around & (distance > low) & (distance < high)].mean())

    return 1 - (mean(-3, -1) - mean(1, 3)) / (mean(-12, -7) - mean(7, 12))


def below(phantom: Phantom, mask: np.ndarray) -> float:
    """Gland behind a mask against gland at the same depth elsewhere."""
    columns = mask.any(axis=0)
    deepest = int(np.flatnonzero(mask.any(axis=1))[-1])
    start = max(deepest, int(np.flatnonzero(phantom.lesion.any(axis=1))[-1])) + 3
    rows = np.zeros(mask.shape, dtype=bool)
    rows[start : start + 10] = True
    shaded = phantom.lesion.any(axis=0) | ndimage.binary_dilation(columns, iterations=4)
    image = gray(phantom)
    behind, elsewhere = rows & columns & phantom.thyroid, rows & ~shaded & phantom.thyroid
    return float(image[behind].mean() - image[elsewhere].mean())


def peaks(phantom: Phantom) -> float:
    """Brightest spots inside the nodule against its tissue."""
    inside = ndimage.binary_erosion(phantom.lesion, iterations=3)
    values = phantom.pixels[inside].astype(float) / 255
    return float(np.quantile(values, 0.985) - np.median(values))


# --- composition and echogenicity -----------------------------------------------------------------------------------


def test_echogenicity_is_ordered_against_gland_and_muscle() -> None:
    found = {label: [contrast(p) for p in drawn(label)] for label in EXCLUSIVE["echogenicity"][1:]}
    hyper, iso, hypo, very = (np.array(found[label]) for label in EXCLUSIVE["echogenicity"][1:])
    assert hyper.min() > 0.06
    assert np.abs(iso).max() < 0.06
    assert hypo.max() < -0.06
    assert very.max() < -0.18
    assert hyper.min() > iso.max() > iso.min() > hypo.max()
    assert hypo.min() > very.max()


def test_only_the_very_hypoechoic_is_darker_than_the_strap_muscle() -> None:
    for label, sign in (("echo_hyper", 1), ("echo_iso", 1), ("echo_hypo", 1), ("echo_very_hypo", -1)):
        # the scanner's uncorrected slope over depth shifts both by a few hundredths
        values = [sign * against_strap(p) for p in drawn(label)]
        assert np.mean(values) > 0.03, (label, values)


def test_cysts_are_black_and_bright_behind() -> None:
    for phantom in drawn("comp_cystic"):
        image = gray(phantom)
        assert "echo_anechoic" in phantom.labels
        assert phantom.fluid.sum() > 0.70 * phantom.lesion.sum()
        assert image[ndimage.binary_erosion(phantom.fluid, iterations=3)].mean() < 0.5 * image[beside(phantom)].mean()
        assert below(phantom, phantom.lesion) > 0.02
    solid = np.mean([below(p, p.lesion) for p in drawn("comp_solid", "echo_hypo")])
    assert np.mean([below(p, p.lesion) for p in drawn("comp_cystic")]) > solid + 0.05


def test_compositions_differ_by_how_much_fluid_they_hold_and_how_finely() -> None:
    for composition, low, high in (
        ("comp_solid", 0.0, 0.0),
        ("comp_mixed", 0.25, 0.75),
        ("comp_spongiform", 0.40, 0.80),
    ):
        for phantom in drawn(composition, "echo_iso"):
            share = phantom.fluid.sum() / phantom.lesion.sum()
            assert low <= share <= high, (composition, share)
    spaces = [ndimage.label(p.fluid)[1] for p in drawn("comp_spongiform")]
    cavities = [ndimage.label(p.fluid)[1] for p in drawn("comp_mixed")]
    assert min(spaces) > 8 > max(cavities)


def test_spongiform_is_rougher_than_solid_on_every_scanner() -> None:
    def roughness(phantom: Phantom) -> float:
        image = gray(phantom)
        inside = ndimage.binary_erosion(phantom.lesion, iterations=3)
        return float(image[inside].std() / image[beside(phantom)].std())

    spongiform, solid = ([roughness(p) for p in drawn(name)] for name in ("comp_spongiform", "comp_solid"))
    assert min(spongiform) > max(solid)


# --- shape and margin -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", EXCLUSIVE["margin"])
def test_taller_is_taller_than_wide_whatever_the_margin(margin: str) -> None:
    assert min(ratio(p) for p in drawn("shape_taller", margin)) > 1.1
    assert max(ratio(p) for p in drawn("shape_wider", margin)) < 0.9


def test_size_is_the_largest_diameter_of_the_mask() -> None:
    for phantom in [*drawn("shape_taller"), *drawn("margin_irregular"), *drawn("margin_ete")]:
        _, _, width, height = phantom.box
        assert max(width, height) * phantom.spacing_mm == pytest.approx(phantom.size_mm, abs=2 * phantom.spacing_mm)


def test_irregular_margins_leave_their_hull_unfilled() -> None:
    regular = [solidity(p) for kind in ("margin_smooth", "margin_ill_defined", "margin_ete") for p in drawn(kind)]
    irregular = [solidity(p) for p in drawn("margin_irregular")]
    assert max(irregular) < 0.95 < min(regular)


def test_ill_defined_margins_turn_slowly_and_others_at_once() -> None:
    ill = [border_width(p) for p in drawn("margin_ill_defined", "echo_very_hypo")]
    sharp = [border_width(p) for p in drawn("margin_irregular", "echo_very_hypo") if not p.halo.any()]
    smooth = [border_width(p) for p in drawn("margin_smooth", "echo_very_hypo") if not p.halo.any()]
    assert len(smooth) >= 3
    assert min(ill) > 0.40 > max(smooth)
    assert np.mean(sharp) < np.mean(ill) - 0.15


def test_the_margin_of_a_cyst_shows_too() -> None:
    def steepest(phantom: Phantom) -> float:
        """Largest part of the step from fluid to gland within one pixel."""
        image, distance = phantom.pixels.astype(float), border_distance(phantom)
        around = phantom.fluid | phantom.thyroid
        profile = [image[around & (distance > d) & (distance <= d + 1)].mean() for d in range(-9, 10)]
        return float(np.max(-np.diff(profile)) / (profile[0] - profile[-1]))

    ill = [steepest(p) for p in drawn("margin_ill_defined", "comp_cystic")]
    smooth = [steepest(p) for p in drawn("margin_smooth", "comp_cystic") if not p.halo.any()]
    assert np.mean(smooth) > 1.4 * np.mean(ill), (smooth, ill)


def test_extrathyroidal_extension_stands_in_the_muscle_and_interrupts_the_capsule() -> None:
    for phantom in drawn("margin_ete", "echo_hypo"):
        top = int(np.flatnonzero(phantom.lesion.any(axis=1))[0])
        muscle_rows = np.flatnonzero(phantom.strap.any(axis=1))
        assert muscle_rows[0] < top < muscle_rows[-1] - 3
    for kind in ("margin_smooth", "margin_irregular", "margin_ill_defined"):
        for phantom in drawn(kind, "echo_hypo"):
            columns = phantom.lesion.any(axis=0)
            lowest_muscle = np.flatnonzero(phantom.strap[:, columns].any(axis=1))[-1]
            assert lowest_muscle < np.flatnonzero(phantom.lesion.any(axis=1))[0]

    def capsule_brightness(phantom: Phantom) -> float:
        """Brightest pixel near the capsule above the nodule's middle, against that at the frame's sides."""
        image = gray(phantom)
        middle = phantom.box[0] + phantom.box[2] // 2
        depth = [int(np.flatnonzero(phantom.strap[:, c])[-1]) for c in (24, 104)]
        row = int(np.mean(depth))
        at_sides = np.mean([image[row - 3 : row + 5, c - 4 : c + 5].max(axis=0).mean() for c in (24, 104)])
        return float(image[row - 3 : row + 5, middle - 4 : middle + 5].max(axis=0).mean() - at_sides)

    broken = [capsule_brightness(p) for p in drawn("margin_ete", "echo_hypo")]
    whole = [capsule_brightness(p) for p in drawn("margin_irregular", "echo_hypo")]
    assert np.mean(broken) < np.mean(whole) - 0.1


def test_halo_is_dark_and_makes_the_smooth_isoechoic_nodule_visible() -> None:
    for phantom in drawn("echo_iso", "margin_smooth"):
        assert phantom.halo.any()
        image = phantom.pixels.astype(float)
        assert image[phantom.halo].mean() < 0.93 * image[beside(phantom)].mean()
    assert not any(p.halo.any() for p in drawn("margin_ill_defined"))


# --- foci -----------------------------------------------------------------------------------------------------------


def test_each_focus_has_a_mask_of_its_own_and_is_bright_there() -> None:
    for label in FOCI[1:]:
        for phantom in drawn(label, "comp_mixed" if label == "foci_comet_tail" else "comp_solid", "echo_hypo"):
            assert {focus.label for focus in phantom.foci} == {label}
            assert phantom.pixels[phantom.focus_mask(label)].mean() > 1.25 * phantom.pixels[tissue(phantom)].mean()
    assert not any(phantom.foci for phantom in drawn("foci_none"))


def test_macrocalcification_throws_a_shadow_and_punctate_foci_do_not() -> None:
    macro = [below(p, p.focus_mask("foci_macro")) for p in drawn("foci_macro", *HYPO)]
    punctate = [below(p, p.focus_mask("foci_punctate")) for p in drawn("foci_punctate", *HYPO)]
    assert max(macro) < -0.10
    assert np.mean(punctate) > -0.03


def test_rim_calcification_runs_around_most_of_the_border() -> None:
    for phantom in drawn("foci_rim", *HYPO):
        shell = phantom.focus_mask("foci_rim")
        assert np.abs(border_distance(phantom)[shell]).max() < 4
        border = np.abs(border_distance(phantom)) < 1
        assert (ndimage.binary_dilation(shell, iterations=2) & border).sum() > 0.5 * border.sum()
        assert phantom.pixels[shell].mean() > 1.2 * phantom.pixels[beside(phantom)].mean()


def test_comet_tails_fade_with_depth() -> None:
    for phantom in drawn("foci_comet_tail", "comp_mixed"):
        image = phantom.pixels.astype(float)
        heads, tails = [], []
        for focus in phantom.foci:
            rows = np.flatnonzero(focus.mask.any(axis=1))
            assert rows[-1] - rows[0] >= 6
            upper, lower = focus.mask.copy(), focus.mask.copy()
            upper[rows[0] + 4 :] = False
            lower[: rows[-1] - 3] = False
            heads.append(image[upper].mean())
            tails.append(image[lower].mean())
        assert np.mean(heads) > np.mean(tails) + 30


def test_punctate_foci_are_small_many_and_bright() -> None:
    plain = [peaks(p) for p in drawn("foci_none", *HYPO)]
    for phantom, before in zip(drawn("foci_punctate", *HYPO), plain, strict=True):
        assert 4 <= len(phantom.foci) <= 12
        assert all(focus.mask.sum() <= 9 for focus in phantom.foci)
        assert peaks(phantom) > before + 0.05


def test_foci_combine() -> None:
    phantom = render(["foci_macro", "foci_punctate", "foci_rim"], seed=2)
    assert {focus.label for focus in phantom.foci} == {"foci_macro", "foci_punctate", "foci_rim"}


# --- learnability ---------------------------------------------------------------------------------------------------


def features(phantom: Phantom) -> list[float]:
    """What a person would measure on pixels and mask; nothing but these two is looked at."""
    image, lesion = gray(phantom), phantom.lesion
    rows, columns = np.flatnonzero(lesion.any(axis=1)), np.flatnonzero(lesion.any(axis=0))
    distance = border_distance(phantom)
    at_rows = lesion.any(axis=1)[:, None] & ~lesion & (distance > -14) & (distance < -3)
    outside = float(image[at_rows].mean())
    inside = image[lesion & (distance > 3)] - outside
    profile = [float(image[(distance > d) & (distance <= d + 1.5)].mean()) - outside for d in np.arange(-6, 6, 1.5)]
    behind = np.zeros_like(lesion)
    behind[rows[-1] + 3 : rows[-1] + 14, columns[0] : columns[-1] + 1] = True
    strip = image[behind].reshape(-1, len(columns)) if behind.any() else np.zeros((1, len(columns)))
    fine = phantom.pixels / 255 - ndimage.gaussian_filter(phantom.pixels / 255, 3.0)
    vertical = image - np.roll(image, 5, axis=0)
    return [
        *np.quantile(inside, [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 0.995]), inside.std(), outside,
        len(rows) / len(columns), solidity(phantom), rows[0] / len(image), *profile, max(profile), min(profile),
        strip.mean() - outside, strip.mean(axis=0).min() - outside, strip.mean(axis=0).std(),
        fine[lesion].std(), *np.quantile(fine[lesion], [0.9, 0.98, 0.995]), vertical[lesion].std(),
        float((inside < -0.25).mean()), float((inside > 0.2).mean()),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_forest_on_simple_measurements_learns_every_descriptor() -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    config = PhantomConfig(tail="uniform", seed=3)
    cases = [phantom_case(config, index) for index in range(480)]
    x = np.array([features(render_case(config, case)) for case in cases])
    y = np.array([case.truth for case in cases])
    forest = RandomForestClassifier(80, min_samples_leaf=2, random_state=0, n_jobs=1).fit(x[:320], y[:320])
    found = {
        name: roc_auc_score(y[320:, c], scores[:, 1])
        for c, (name, scores) in enumerate(zip(LABELS.class_names, forest.predict_proba(x[320:]), strict=True))
    }
    assert min(found.values()) > 0.80, found
    assert np.mean(list(found.values())) > 0.92, found


# --- the series -----------------------------------------------------------------------------------------------------


def test_an_image_depends_on_config_and_number_alone() -> None:
    config = PhantomConfig(size_px=64, seed=5)
    alone = render_case(config, phantom_case(config, 37))
    for index in range(30, 40):
        again = render_case(config, phantom_case(config, index))
    again = render_case(PhantomConfig(size_px=64, seed=5), phantom_case(config, 37))
    assert np.array_equal(alone.pixels, again.pixels)
    assert np.array_equal(alone.lesion, again.lesion)
    other = render_case(PhantomConfig(size_px=64, seed=6), phantom_case(PhantomConfig(size_px=64, seed=6), 37))
    assert not np.array_equal(alone.pixels, other.pixels)


def test_labels_do_not_depend_on_the_size_nor_pixels_on_what_was_recorded() -> None:
    small, noisy = PhantomConfig(size_px=64), PhantomConfig(size_px=64, label_noise=0.5, not_assessed=0.5)
    for index in range(20):
        case, other = phantom_case(small, index), phantom_case(noisy, index)
        assert case.present == phantom_case(PhantomConfig(size_px=128), index).present == other.present
        assert np.array_equal(case.recorded, case.truth.astype(float))
    assert np.array_equal(render_case(small, case).pixels, render_case(noisy, other).pixels)


def test_patients_stay_within_blocks_and_have_several_images_of_one_site() -> None:
    config = PhantomConfig(seed=1)
    cases = [phantom_case(config, index) for index in range(40 * BLOCK)]
    blocks: dict[str, set[int]] = {}
    for case in cases:
        blocks.setdefault(case.patient_id, set()).add(case.index // BLOCK)
    assert all(len(found) == 1 for found in blocks.values())
    per_patient = Counter(case.patient_id for case in cases)
    assert Counter(per_patient.values()) == {1: 240, 2: 160, 3: 80}
    for name in ("site", "age", "sex"):
        assert len({(case.patient_id, getattr(case, name)) for case in cases}) == len(per_patient)
    by_nodule: dict[str, set[frozenset[str]]] = {}
    for case in cases:
        by_nodule.setdefault(case.nodule_id, set()).add(case.present)
    assert all(len(found) == 1 for found in by_nodule.values())
    assert len(by_nodule) > len(per_patient)  # some patients have a second nodule
    assert {case.sex for case in cases} == {"F", "M"}
    assert min(case.age for case in cases) >= 18


def test_a_series_at_some_sites_holds_those_only_and_scanners_look_different() -> None:
    config = PhantomConfig(sites=("south", "west"))
    assert {phantom_case(config, index).site for index in range(100)} == {"south", "west"}
    level = {site: np.mean([render(seed=s, site=site).pixels.mean() for s in range(3)]) for site in SCANNERS}
    assert max(level.values()) - min(level.values()) > 20

    def speckle(site: str) -> float:
        values = render(seed=0, site=site).pixels.astype(float)[60:100, 20:108]
        return float((values[:, 1:] * values[:, :-1]).mean() / (values**2).mean())

    assert len({round(speckle(site), 4) for site in SCANNERS}) == len(SCANNERS)


def test_malignant_nodules_look_more_suspicious() -> None:
    config = PhantomConfig(seed=2)
    cases = [phantom_case(config, index) for index in range(1200)]
    share = {
        malignant: np.mean([case.truth for case in cases if case.malignant == malignant], axis=0)
        for malignant in (True, False)
    }
    for label in ("foci_punctate", "shape_taller", "margin_irregular", "comp_solid"):
        c = LABELS.index(label)
        assert share[True][c] > share[False][c] + 0.1, label


def test_spacing_is_known_without_drawing() -> None:
    config = PhantomConfig(size_px=64)
    for index in range(5):
        case = phantom_case(config, index)
        assert spacing_mm(config, case) == render_case(config, case).spacing_mm


# --- the border -----------------------------------------------------------------------------------------------------


def test_contradictory_choices_are_refused_all_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        render(["shape_wider", "shape_taller", "foci_none", "foci_macro", "margin_smoth"])
    text = str(caught.value)
    assert "group 'shape': shape_wider and shape_taller exclude each other" in text
    assert "foci_none beside foci_macro" in text
    assert "did you mean 'margin_smooth'?" in text
    for pair in (["comp_cystic", "echo_hypo"], ["comp_solid", "echo_anechoic"], ["comp_cystic", "foci_punctate"]):
        with pytest.raises(UsageError, match="contradict each other"):
            render(pair)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size_px": 16}, "size_px 16: expected 32 to 512"),
        ({"sites": ("nord",)}, r"site 'nord': unknown; did you mean 'north'\?"),
        ({"sites": ("north", "north")}, "named twice"),
        ({"label_noise": 1.5}, "label_noise 1.5: expected a probability"),
        ({"not_assessed": -0.1}, "not_assessed -0.1: expected a probability"),
    ],
)
def test_a_faulty_series_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PhantomConfig(**wrong)  # type: ignore[arg-type]


def test_impossible_sizes_and_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="size_mm 0"):
        render(size_mm=0.0)
    with pytest.raises(UsageError, match="image number -1"):
        phantom_case(PhantomConfig(), -1)
    with pytest.raises(UsageError, match="a text; expected a list"):
        render("comp_solid")


@pytest.mark.parametrize("size_px", [32, 48, 64, 200])
def test_any_size_can_be_drawn_with_any_label(size_px: int) -> None:
    for label in LABELS.class_names:
        phantom = render([label], seed=1, size_px=size_px)
        assert phantom.pixels.shape == phantom.lesion.shape == (size_px, size_px)
        assert phantom.lesion.any()
        assert label in phantom.labels
        if label in FOCI[1:]:
            assert phantom.focus_mask(label).any()


def test_the_disclaimer_says_what_these_images_are_not_for() -> None:
    assert "no clinical claim" in DISCLAIMER
