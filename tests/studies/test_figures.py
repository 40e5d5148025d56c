"""The pictures of a study: curves with honest bands, and nothing drawn of what is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from medtail.judging.curves import roc_curve
from medtail.judging.metrics import auroc
from medtail.studies.figures import (
    GRID,
    banded_curve,
    called_plot,
    confusion_plots,
    curves_plot,
    lead_forest,
    site_plot,
    sites_of,
)


def test_a_curve_over_the_grid_has_the_area_of_the_curve(whole: Any) -> None:
    tables = whole.scored.tables["full"]
    found = banded_curve(tables, 0, kind="roc")
    # a staircase read at 51 places
    assert np.trapezoid(found.mean, GRID) == pytest.approx(
        np.mean([auroc(t.scores[:, 0], t.targets[:, 0]) for t in tables]), abs=0.02
    )
    assert (np.diff(found.mean) >= 0).all()
    assert (found.low <= found.mean + 1e-9).all()
    assert (found.mean <= found.high + 1e-9).all()
    curve = roc_curve(tables[0].scores[:, 0], tables[0].targets[:, 0])
    alone = banded_curve(tables[:1], 0, kind="roc").mean
    points = list(zip(curve.x, curve.y, strict=True))
    assert alone.tolist() == [max(y for x, y in points if x <= at + 1e-12) for at in GRID]


def test_precision_at_full_recall_is_that_of_the_last_positive(whole: Any) -> None:
    table = whole.scored.tables["full"][0]
    scores, targets = table.scores[:, 0], table.targets[:, 0]
    called = scores >= scores[targets == 1].min()
    assert banded_curve([table], 0, kind="pr").mean[-1] == pytest.approx(targets[called].mean())


def test_a_class_without_positives_has_no_curve(whole: Any) -> None:
    table = whole.scored.tables["full"][0]
    empty = replace(table, targets=np.zeros_like(table.targets))
    assert not banded_curve([empty], 0, kind="roc").is_defined
    assert "not defined" in curves_plot("FTC", [empty])
    assert 'class="band' not in curves_plot("FTC", [empty])


def test_every_drawing_is_whole_and_says_what_it_shows(whole: Any) -> None:
    tables = whole.scored.tables["full"]
    sites = sites_of(whole.study.manifest, tables[0])
    assert sites is not None
    drawings = [
        curves_plot("FTC", tables), called_plot(tables[0]), site_plot("FTC", tables, sites),
        lead_forest(whole.judged, reference="full"), *(svg for _, svg in confusion_plots(tables[0], prefix="p")),
    ]  # fmt: skip
    for svg in drawings:
        root = ElementTree.fromstring(str(svg))
        assert root.attrib["aria-label"]
    assert "poor" in str(drawings[3])
    assert [name for name, _ in confusion_plots(tables[0], prefix="p")] == ["FTC", "MTC", "ATC"]


def test_sites_are_drawn_only_where_there_are_several(whole: Any) -> None:
    manifest, table = whole.study.manifest, whole.scored.truth
    sites = sites_of(manifest, table)
    assert sites is not None
    where = dict(zip(manifest.frame["image_id"], manifest.frame["site"], strict=True))
    assert sites.tolist() == [where[image_id] for image_id in table.image_ids]
    one = replace(manifest, frame=manifest.frame.assign(site="north"))
    assert sites_of(one, table) is None
    assert sites_of(replace(manifest, frame=manifest.frame.drop(columns="site")), table) is None


def test_calls_are_counted_over_assessed_images(whole: Any) -> None:
    table = whole.scored.tables["full"][0]
    known = ~np.isnan(table.targets[:, 2])
    told = int((table.scores[known, 2] >= table.threshold_array[2]).sum())
    assert f"{int((table.targets[:, 2] == 1).sum())} / {told}" in called_plot(table)
