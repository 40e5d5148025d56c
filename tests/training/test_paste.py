"""Lesions in other pictures: what is moved, what is covered, what nobody knows any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medtail.challenges.thyro_lmd_labels import LABELS
from medtail.errors import MedtailError
from medtail.pixels.dataset import to_float
from medtail.pixels.masks import open_masks
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import open_store
from medtail.sources.phantom import PhantomConfig
from medtail.sources.phantom_writing import phantom_manifest
from medtail.training.paste import paste, plan_paste, relative_labels
from medtail.training.tail_mix import TailMixConfig, plan_tail_mix


def scene() -> tuple[Tensor, Tensor]:
    """Pictures of one shade each with a lesion: a large one, a small one below, one as large, one without a mask."""
    images, masks = torch.zeros(4, 1, 24, 24), torch.zeros(4, 24, 24, dtype=torch.bool)
    for row, (place, shade) in enumerate((((2, 10, 2, 12), 0.9), ((15, 19, 13, 18), 0.7), ((6, 14, 8, 18), 0.5))):
        top, bottom, left, right = place
        images[row] = 0.1 * (row + 1)
        images[row, :, top:bottom, left:right] = shade
        masks[row, top:bottom, left:right] = True
    images[3] = 0.4
    return images, masks


ROWS = torch.tensor([10, 11, 12, 13])
RELATIVE = torch.tensor([True, False, False])


def test_a_lesion_takes_the_place_of_the_largest_one_it_covers() -> None:
    _, masks = scene()
    plan = plan_paste(torch.tensor([True, True, False, True]), masks, ROWS)
    # the large one covers both others and takes the larger; the small one covers none; the last has no lesion
    assert (plan.rows.tolist(), plan.hosts.tolist(), plan.shifts.tolist()) == ([0], [2], [[4, 6]])
    same = plan_paste(torch.tensor([True, False, False, False]), masks, torch.tensor([10, 11, 10, 13]))
    assert same.hosts.tolist() == [1], "the same image is no host"
    assert same.shifts.tolist() == [[11, 8]]


def test_a_lesion_never_leaves_the_picture() -> None:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 0:8, 0:8], masks[1, 14:16, 14:16] = True, True
    plan = plan_paste(torch.tensor([True, False]), masks, ROWS[:2])
    assert plan.shifts.tolist() == [[8, 8]], "middle to middle would be 11"


def test_the_lesion_is_there_and_the_hosts_is_gone() -> None:
    images, masks = scene()
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    plan = plan_paste(torch.tensor([True, False, False, False]), masks, ROWS)
    found, labels = paste(images, targets, masks, plan, relative=RELATIVE)
    moved = found[0, 0, 6:14, 8:18]
    assert (moved[1:-1, 1:-1] == 0.9).all(), "inside it is the lesion itself"
    assert found[0, 0, 0, 0] == images[2, 0, 0, 0], "outside it is the host"
    assert found[0, 0, 3, 3] == images[2, 0, 3, 3], "where it was, the host is seen too"
    assert not (found[0] == 0.5).any(), "of the host's lesion nothing is left"
    assert torch.equal(found[1:], images[1:])
    assert labels[0].isnan().tolist() == [True, False, False]
    assert labels[0, 1:].tolist() == [1.0, 0.0], "the labels are the lesion's, not the host's"
    assert torch.equal(labels[1:], targets[1:])
    nothing = plan_paste(torch.zeros(4, dtype=torch.bool), masks, ROWS)
    assert paste(images, targets, masks, nothing, relative=RELATIVE)[0] is images


def test_no_picture_brings_its_other_side_along() -> None:
    images, masks = torch.zeros(2, 1, 12, 12), torch.zeros(2, 12, 12, dtype=torch.bool)
    images[1] = 0.5
    images[0, :, -1] = 1.0  # the last line would come in from above
    masks[0, 0:6, 3:9], masks[1, 7:10, 4:8] = True, True
    plan = plan_paste(torch.tensor([True, False]), masks, ROWS[:2])
    assert plan.shifts.tolist() == [[6, 0]]
    found, _ = paste(images, torch.zeros(2, 3), masks, plan, relative=RELATIVE)
    assert found[0].max() == 0.5
    assert (found[0, 0, :6] == 0.5).all(), "nothing comes in with the lesion's soft edge, not even darkness"
    assert (found[0, 0, 7:11, 4:8] == 0.0).all()


def test_rows_whose_rare_labels_are_relative_are_not_pasted() -> None:
    config = TailMixConfig(probability=1.0, mixed=0.0, paste=1.0)
    labels = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0], [0, 0, 1.0]])
    plan = plan_tail_mix(
        labels, torch.ones(4, dtype=torch.int64), ROWS, is_rare=torch.tensor([True, True, False]), config=config,
        random=np.random.default_rng(0), is_relative=RELATIVE,
    )  # fmt: skip
    assert plan.pasted.tolist() == [False, True, True, False]
    assert plan.strong.tolist() == [True, False, False, False]
    assert not plan.mixed.any()


def test_pasting_as_often_as_asked_leaves_the_other_draws_as_they_are() -> None:
    labels, streams = torch.ones(40, 1), torch.ones(40, dtype=torch.int64)
    rows = torch.arange(40)

    def drawn(paste_share: float, seed: int):  # type: ignore[no-untyped-def]
        return plan_tail_mix(
            labels, streams, rows, is_rare=torch.tensor([True]), random=np.random.default_rng(seed),
            config=TailMixConfig(probability=1.0, mixed=0.4, paste=paste_share),
        )  # fmt: skip

    counts = torch.stack([drawn(0.3, seed).pasted.double().mean() for seed in range(200)])
    assert counts.mean().item() == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 8000))
    for seed in range(5):
        without, with_paste = drawn(0.0, seed), drawn(0.3, seed)
        assert not without.pasted.any()
        assert torch.equal(without.mixed, with_paste.mixed)
        assert torch.equal(without.shares, with_paste.shares)
        assert torch.equal(without.strong, with_paste.strong | with_paste.pasted)
    with pytest.raises(MedtailError, match=r"mixed 0.8 and paste 0.3: expected shares that add up to at most 1"):
        TailMixConfig(mixed=0.8, paste=0.3)


def test_on_phantoms_no_echogenicity_is_made_and_the_lesion_keeps_its_texture(tmp_path: Path) -> None:
    table = phantom_manifest(tmp_path / "phantom", images=24, config=PhantomConfig(size_px=64, seed=3))
    store = open_store(table, PixelConfig(size_px=48), cache=tmp_path / "cache")
    rows = np.arange(len(table))
    masks = torch.from_numpy(open_masks(table, store, rows=rows, cache=tmp_path / "cache").masks(rows))
    images = to_float(torch.from_numpy(store.images(rows)))
    targets = torch.from_numpy(table.targets.astype(np.float32))
    relative = relative_labels(table.labels, TailMixConfig().relative)
    emptied = [name for name, is_one in zip(table.labels.class_names, relative.tolist(), strict=True) if is_one]
    assert emptied == [*(name for name in LABELS.class_names if name.startswith("echo_")), "margin_ete"]
    plan = plan_paste(torch.ones(len(rows), dtype=torch.bool), masks, torch.from_numpy(rows))
    assert len(plan.rows) > 5
    found, labels = paste(images, targets, masks, plan, relative=relative)
    for row, host, (down, right) in zip(plan.rows.tolist(), plan.hosts.tolist(), plan.shifts.tolist(), strict=True):
        assert labels[row, relative].isnan().all()
        assert torch.equal(labels[row, ~relative], targets[row, ~relative])
        moved = torch.roll(masks[row], (down, right), dims=(0, 1))
        core = -torch.nn.functional.max_pool2d(-moved[None, None].float(), 3, 1, 1)[0, 0] > 0
        expected = torch.roll(images[row], (down, right), dims=(1, 2))
        torch.testing.assert_close(found[row][:, core], expected[:, core])
        left = masks[host] & ~torch.nn.functional.max_pool2d(moved[None, None].float(), 3, 1, 1)[0, 0].bool()
        assert left.sum() <= 0.05 * masks[host].sum()
