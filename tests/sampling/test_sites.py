from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.losses.domain import domain_blocks
from medtail.sampling.build import CopiesSamplerConfig, SitesSamplerConfig, SquareRootSamplerConfig, build_sampler
from medtail.sampling.contract import train_fold
from medtail.sampling.sites import copy_factors, sitewise_shares
from medtail.tables.manifest import Manifest, manifest_from_frame


def table(columns: dict[str, list[float]], **metadata: list[str]) -> Manifest:
    """A manifest of rows, a patient each, in the train fold unless told."""
    count = len(next(iter(columns.values())))
    ids = [f"r{i}" for i in range(count)]
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": "train"})
    return manifest_from_frame(frame.assign(**metadata, **columns), name="t.csv")


def test_class_then_site_then_row_by_hand() -> None:
    # class a: 4 rows, three at site 0 and one at 1; class b: 1 row. Square roots: 2 and 1
    members = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0, 1]], dtype=bool)
    shares = sitewise_shares(members, np.array([0, 0, 0, 1, 1]), power=0.5)
    assert shares == pytest.approx([2 / 3 / 6, 2 / 3 / 6, 2 / 3 / 6, 2 / 3 / 2, 1 / 3])
    assert sitewise_shares(members, np.array([0, 0, 0, 1, 1]), power=0.0) == pytest.approx(
        [1 / 12, 1 / 12, 1 / 12, 1 / 4, 1 / 2]
    )


def test_a_row_of_two_classes_is_drawn_for_both() -> None:
    members = np.array([[1, 1], [1, 0], [0, 1]], dtype=bool)
    assert sitewise_shares(members, np.array([0, 0, 1]), power=0.0) == pytest.approx([1 / 4 + 1 / 4, 1 / 4, 1 / 4])


def test_rows_without_a_site_are_one_more_site_and_without_the_column_it_is_the_square_root() -> None:
    classes: dict[str, list[float]] = {"a": [1, 1, 1, 1, 0], "b": [0, 0, 0, 0, 1]}
    known = build_sampler(
        SitesSamplerConfig(), table(classes, site=["x", "x", "x", "", "y"]), seed=0, epochs=1
    ).frequencies(0)
    assert known == pytest.approx([2 / 3 / 6] * 3 + [2 / 3 / 2, 1 / 3])
    without = build_sampler(SitesSamplerConfig(), table(classes), seed=0, epochs=1).frequencies(0)
    rooted = build_sampler(SquareRootSamplerConfig(), table(classes), seed=0, epochs=1).frequencies(0)
    assert without == pytest.approx(rooted)


def test_another_column_can_name_the_site_and_must_be_there() -> None:
    classes: dict[str, list[float]] = {"a": [1, 1, 1], "b": [0, 0, 1]}
    manifest = table(classes, meta_scanner=["A", "A", "B"])
    sampler = build_sampler(SitesSamplerConfig(domain_column="meta_scanner", power=0.0), manifest, seed=0, epochs=1)
    assert sampler.frequencies(0) == pytest.approx([1 / 8, 1 / 8, 1 / 4 + 1 / 2])
    with pytest.raises(MedtailError, match=r"t.csv, column 'meta_scaner': is not there; .*did you mean 'meta_scanner'"):
        build_sampler(SitesSamplerConfig(domain_column="meta_scaner"), manifest, seed=0, epochs=1)


def test_rows_outside_the_train_fold_change_no_share() -> None:
    classes: dict[str, list[float]] = {"a": [1, 1, 0, 1], "b": [0, 0, 1, 1]}
    manifest = table(classes, site=["x", "y", "x", "y"])
    folds = np.array(["train", "train", "train", "test"], dtype=object)
    sampler = build_sampler(SitesSamplerConfig(power=0.0), manifest.with_folds(folds), seed=0, epochs=1)
    assert sampler.rows.tolist() == [0, 1, 2]
    assert sampler.frequencies(0) == pytest.approx([1 / 4, 1 / 4, 1 / 2])


def test_batches_have_sites_to_compare_where_plain_square_root_draws_have_few() -> None:
    """Three sites, one with a twelfth of the images: blocks a batch of 32 offers to MMD."""
    count = 240
    site = ["big" if row % 12 < 8 else "small" if row % 12 < 11 else "tiny" for row in range(count)]
    kind = [row // 12 % 10 for row in range(count)]
    classes: dict[str, list[float]] = {
        "rare": [float(k == 0) for k in kind],
        "other": [float(k == 1) for k in kind],
    }
    manifest = table(classes, site=site)
    numbers = np.unique(site, return_inverse=True)[1]

    def blocks(config: SitesSamplerConfig | SquareRootSamplerConfig) -> float:
        sampler = build_sampler(config, manifest, seed=1, epochs=1, epoch_rows=32)
        labels = manifest.targets[:, 0].astype(int)
        found = [
            len(domain_blocks(labels[rows].tolist(), numbers[rows].tolist()))
            for rows in (sampler.draw(epoch) for epoch in range(40))
        ]
        return float(np.mean(found))

    by_site, by_class = blocks(SitesSamplerConfig()), blocks(SquareRootSamplerConfig())
    assert by_site > 4.0, "of six: three pairs of sites for each side"
    assert by_site > 1.3 * by_class


# --- copies ----------------------------------------------------------------------------------------------------------


def test_an_epoch_long_enough_shows_every_row_once_and_each_copy_once() -> None:
    classes: dict[str, list[float]] = {"FTC": [1, 0, 0, np.nan, 0], "ATC": [0, 0, 1, 0, np.nan]}
    manifest = table(classes)
    config = CopiesSamplerConfig(classes=("*TC",), copies=9)
    sampler = build_sampler(config, manifest, seed=3, epochs=4, epoch_rows=3 + 2 * 10)
    for epoch in range(4):
        assert np.bincount(sampler.draw(epoch), minlength=5).tolist() == [10, 1, 10, 1, 1]
    assert not np.array_equal(sampler.draw(0), sampler.draw(1))


def test_an_epoch_of_the_usual_length_keeps_the_ratio() -> None:
    sampler = build_sampler(
        CopiesSamplerConfig(classes=("a",)), table({"a": [1, 0, 0], "b": [1, 1, 0]}), seed=0, epochs=1
    )
    assert len(sampler.draw(0)) == 3
    assert sampler.frequencies(0) == pytest.approx(np.array([10, 1, 1]) / 12)


def test_only_the_named_classes_are_copied_and_unknown_names_are_all_told() -> None:
    fold = train_fold(table({"type=FTC": [1, 0, 0], "type=benign": [0, 1, 1]}))
    assert copy_factors(fold, classes=("type=FTC",), copies=4).tolist() == [5.0, 1.0, 1.0]
    with pytest.raises(MedtailError) as caught:
        copy_factors(fold, classes=("type=FTK", "zz", "type=FTC"), copies=4)
    message = str(caught.value)
    assert "t.csv, sampler.classes: no class is called 'type=FTK'; did you mean 'type=FTC'?" in message
    assert "no class is called 'zz'; classes are type=FTC, type=benign" in message
