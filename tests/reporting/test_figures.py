"""The figures across classes: right places, right marks, and words for those who cannot see them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pandas as pd
import pytest

from medtail.reporting.facts import UNKNOWN, ClassFacts, Estimate, class_facts
from medtail.reporting.figures import forest_plot, frequency_plot, legend, training_plot


@pytest.fixture
def classes(judged) -> list[ClassFacts]:
    return class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)


def with_class(drawing: ET.Element, name: str) -> list[ET.Element]:
    return [item for item in drawing.iter() if name in item.get("class", "").split()]


def texts(drawing: ET.Element) -> list[str]:
    return ["".join(item.itertext()) for item in drawing.iter("text")]


def test_forest_plot_has_a_row_a_class_and_says_where_nothing_is_defined(classes) -> None:
    drawing = ET.fromstring(forest_plot(classes))
    defined = sum(facts.ap.is_defined for facts in classes)
    assert len(with_class(drawing, "mark")) == len(with_class(drawing, "whisker")) == defined == len(classes) - 2
    assert sum("no positives among" in text for text in texts(drawing)) == 2
    assert f"{defined} of {len(classes)} classes" in drawing.get("aria-label")
    assert drawing.get("role") == "img"


def test_forest_plot_puts_value_interval_and_chance_on_one_scale(classes) -> None:
    one = replace(classes[0], ap=Estimate(0.5, 0.25, 0.75), ap_chance=0.5, tail_group="head")
    drawing = ET.fromstring(forest_plot([one]))
    mark, whisker, chance = (with_class(drawing, name)[0] for name in ("mark", "whisker", "chance"))
    assert float(mark.get("cx")) == float(chance.get("x1")) == pytest.approx((268 + 560) / 2, abs=0.1)
    assert float(whisker.get("x1")) == pytest.approx(268 + 0.25 * 292, abs=0.1)
    assert float(whisker.get("x2")) == pytest.approx(268 + 0.75 * 292, abs=0.1)


def test_tail_groups_differ_in_shape_not_only_in_colour(classes) -> None:
    tags = {}
    for group in ("head", "medium", "tail"):
        one = replace(classes[0], tail_group=group)
        tags[group] = with_class(ET.fromstring(forest_plot([one])), "mark")[0].tag
    assert tags == {"head": "circle", "medium": "rect", "tail": "polygon"}
    assert [with_class(ET.fromstring(legend([group])), "mark")[0].tag for group in tags] == list(tags.values())


def test_frequency_plot_is_logarithmic_and_uses_judged_counts_where_training_is_unknown(classes) -> None:
    amounts = (1, 10, 100)
    three = [replace(classes[0], name=str(n), train_images=n, tail_group="head") for n in amounts]
    drawing = ET.fromstring(frequency_plot(three))
    across = [float(item.get("cx")) for item in with_class(drawing, "mark")]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    unknown = frequency_plot([replace(facts, train_images=UNKNOWN) for facts in three])
    assert "positive judged images" in unknown


def test_frequency_plot_stands_classes_never_trained_and_nothing_defined(classes) -> None:
    never = replace(classes[0], train_images=0)
    assert len(with_class(ET.fromstring(frequency_plot([never])), "mark")) == 1
    assert with_class(ET.fromstring(frequency_plot([replace(never, ap=Estimate())])), "mark") == []


def test_training_plot_reads_a_log_whose_epochs_span_rows() -> None:
    log = pd.DataFrame(
        {"epoch": [0, 0, 1, 1, 2, 2], "train_loss": [1.0, None, 0.5, None, 0.4, None],
         "tune_map": [None, 0.2, None, 0.6, None, 0.5]}
    )  # fmt: skip
    drawing = ET.fromstring(training_plot(log))
    curves = with_class(drawing, "curve")
    assert [len(curve.get("points").split()) for curve in curves] == [3, 3]
    assert "best epoch 1: 0.600" in texts(drawing)


def test_training_plot_is_left_out_without_figures() -> None:
    assert training_plot(pd.DataFrame({"epoch": [0], "seconds": [3]})) is None
    assert training_plot(pd.DataFrame({"epoch": [0], "train_loss": [float("nan")]})) is None


def test_training_plot_stands_one_epoch() -> None:
    assert training_plot(pd.DataFrame({"epoch": [0], "train_loss": [0.3]})) is not None
