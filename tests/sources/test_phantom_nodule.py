"""What a nodule is made of before it is scanned; how it looks is tested in test_phantom.py."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medtail.seeding import stream
from medtail.sources.phantom_nodule import EDGES, LEVELS_DB, Tissue, with_nodule
from medtail.sources.phantom_scene import STRAP_DB, Neck, neck, outline
from medtail.sources.thyro_lmd import EXCLUSIVE


def made(*present: str, seed: int = 0) -> tuple[Neck, Tissue]:
    labels = set(present)
    for members, plain in zip(
        EXCLUSIVE.values(), ("comp_solid", "echo_hypo", "shape_wider", "margin_smooth"), strict=True
    ):
        if not labels & set(members):
            labels.add(plain)
    around = neck(stream(seed, "neck"), 128, side=1.0, gland_db=0.0)
    margin = next(name for name in EDGES if name in labels)
    border = outline(stream(seed, "b"), kind=margin, size=0.44, ratio=0.7, top=None, neck_at=around)
    return around, with_nodule(stream(seed, "in"), around, border, present=labels, gland_db=0.0)


def test_levels_do_not_overlap_and_are_defined_by_gland_and_muscle() -> None:
    ranges = [LEVELS_DB[name] for name in ("echo_hyper", "echo_iso", "echo_hypo", "echo_very_hypo", "echo_anechoic")]
    for (low, _), (_, high) in itertools.pairwise(ranges):
        assert low > high
    assert LEVELS_DB["echo_hypo"][0] > STRAP_DB + 1.5 > STRAP_DB - 2.5 > LEVELS_DB["echo_very_hypo"][1]


@pytest.mark.parametrize("echo", list(LEVELS_DB)[:-1])
def test_tissue_has_the_labels_level_in_its_middle(echo: str) -> None:
    around, tissue = made(echo, "margin_irregular")
    inside = tissue.lesion & (np.abs(around.grid.x - 0.5) < 0.08)
    low, high = LEVELS_DB[echo]
    assert low - 1.5 < tissue.echo_db[inside].mean() < high + 1.5


def test_the_neck_is_left_as_it_was() -> None:
    around, tissue = made("foci_macro", "foci_rim")
    again = neck(stream(0, "neck"), 128, side=1.0, gland_db=0.0)
    for name in ("echo_db", "coherent", "extra_loss"):
        assert np.array_equal(getattr(around, name), getattr(again, name))
    far = np.hypot(around.grid.x - 0.5, around.grid.z - 0.5) > 0.45
    assert np.allclose(tissue.echo_db[far], around.echo_db[far], atol=0.1)


def test_fluid_weakens_sound_less_and_calcification_more() -> None:
    _, cyst = made("comp_cystic", "echo_anechoic")
    assert (cyst.extra_loss[cyst.fluid] < -10).all()
    _, coarse = made("foci_macro")
    assert coarse.extra_loss.max() > 300
    _, punctate = made("foci_punctate")
    assert punctate.extra_loss[punctate.lesion].max() <= 0.01


def test_foci_lie_in_the_nodule_and_punctate_ones_in_its_tissue() -> None:
    for seed in range(5):
        for label in ("foci_macro", "foci_punctate", "foci_comet_tail"):
            around, tissue = made("comp_mixed", label, seed=seed)
            lesion, fluid = around.grid.cut(tissue.lesion), around.grid.cut(tissue.fluid)
            for focus in tissue.foci:
                top = np.zeros_like(lesion)
                top[np.flatnonzero(focus.mask.any(axis=1))[0] + 1] = True
                assert (focus.mask & top & lesion).any() or label == "foci_macro"
                if label == "foci_macro":
                    assert not (focus.mask & ~lesion).any()
                if label == "foci_punctate":
                    assert (focus.mask & fluid).sum() <= 2


def test_maps_stay_in_single_precision() -> None:
    for label in ("foci_none", "foci_comet_tail", "foci_macro", "foci_rim", "foci_punctate"):
        _, tissue = made("comp_spongiform", "echo_iso", label)
        assert {tissue.echo_db.dtype, tissue.coherent.dtype, tissue.extra_loss.dtype} == {np.dtype(np.float32)}
