"""Figures of a study hold what they are of, and draw undefined values as such."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medtail.studies.genaug_figures import contact_sheet, gap_forest, level_plot, use_curve
from medtail.studies.genaug_scores import Figure, Measured, Resampled
from medtail.tables.manifest import manifest_from_frame
from medtail.tables.tail import TailGroups


def test_every_arm_has_its_row_and_an_undefined_one_no_mark() -> None:
    nan = float("nan")
    drawn = gap_forest({"fill": Figure(0.3, 0.1, 0.5), "rl": Figure(nan, nan, nan)}, name="gap closed")
    assert "fill" in drawn
    assert "0.300 [0.100, 0.500]" in drawn
    assert drawn.count("whisker") == 1
    assert "nan" not in drawn


def test_the_curve_has_a_mark_a_level() -> None:
    arms = {
        f"level_{v:g}": Resampled({"macro_f1": np.array([0.5 + v / 10])}, {"macro_f1": np.linspace(0.4, 0.6, 20)})
        for v in (0.0, 1.0, 2.0)
    }
    found = Measured(arms, 0.95, 10, 20, ("a",), {})
    drawn = use_curve(found, [(v, f"level_{v:g}") for v in (0.0, 1.0, 2.0)], metric="macro_f1", name="Macro-F1")
    assert drawn.count("level 1:") == 1
    assert drawn.count('class="mark') == 3


def test_levels_are_drawn_a_run_a_line_and_their_mean() -> None:
    drawn = level_plot("t=a", np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]]), group="tail")
    assert drawn.count("curve thin") == 2
    assert drawn.count('class="curve tail"') == 1
    assert "mean 0.50 at first, 0.50 at last" in drawn


def test_a_contact_sheet_shows_train_images_and_the_pool_and_no_test_image(tmp_path: Path) -> None:
    rows = []
    for n in range(8):
        Image.fromarray(np.full((16, 24), 20 * n, dtype=np.uint8)).save(tmp_path / f"{n}.png")
        made = n >= 5
        rows.append(
            {"image_id": n, "path": f"{n}.png", "patient_id": n, "fold": "test" if n == 4 else "train",
             "origin": "synthetic" if made else "real", "meta_class": "t=a" if made else "", "t=a": 1.0, "t=b": 0.0}
        )  # fmt: skip
    table = manifest_from_frame(pd.DataFrame(rows), root=tmp_path)
    groups = TailGroups({"t=a": "head", "t=b": "tail"}, "relative", (0.5, 0.1))
    assert contact_sheet(table, groups).count("<image") == 4 + 3
    assert contact_sheet(table, groups, per_class=2).count("<image") == 2 + 2
