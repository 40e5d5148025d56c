"""Example images: chosen by rule, small, and honest about what is missing."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from medtail.errors import MedtailError
from medtail.judging.decisions import decide
from medtail.reporting.examples import choose, encode, gather_examples
from medtail.reporting.facts import class_facts
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def small() -> Predictions:
    ids = np.array([f"i{n}" for n in range(8)], dtype=object)
    patients = np.array(["a", "a", "b", "c", "d", "e", "f", "g"], dtype=object)
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.1, 0.95, 0.6, 0.05])[:, None]
    targets = np.array([1, 1, 1, 1, 1, 0, 0, np.nan])[:, None]
    return Predictions(ids, patients, scores, targets, LabelSpace(("x",)), np.array(["test"] * 8, dtype=object))


def test_surest_hits_lowest_misses_and_loudest_false_alarms_one_a_patient() -> None:
    predictions = small()
    chosen = choose(predictions, decide(predictions)[:, 0], class_index=0)
    assert chosen == {"hits": [0, 2], "misses": [4, 3], "false alarms": [5, 6]}
    assert choose(predictions, decide(predictions)[:, 0], class_index=0, limit=1)["misses"] == [4]


def test_choice_does_not_depend_on_row_order() -> None:
    predictions = small()
    order = np.array([3, 1, 0, 7, 6, 5, 4, 2])
    shuffled = predictions.take(order)
    for title, rows in choose(shuffled, decide(shuffled)[:, 0], class_index=0).items():
        straight = choose(predictions, decide(predictions)[:, 0], class_index=0)[title]
        assert list(shuffled.image_ids[rows]) == list(predictions.image_ids[straight])


def test_picture_keeps_its_proportions_and_content() -> None:
    image = np.zeros((300, 150))
    image[:150] = 1.0
    uri, width, height = encode(image)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert (width, height) == picture.size == (96, 192)
    pixels = np.asarray(picture)
    assert pixels[:80].mean() > 250
    assert pixels[110:].mean() < 5
    assert encode(np.zeros((10, 20, 3)))[1:] == (20, 10)
    assert Image.open(io.BytesIO(base64.b64decode(encode(np.zeros((10, 20, 3)))[0].split(",")[1]))).mode == "RGB"


def test_unreadable_and_unknown_images_are_named_not_hidden(judged) -> None:
    def broken(path):
        raise MedtailError(f"{path}: truncated")

    predictions = judged.predictions
    facts = [f for f in class_facts(predictions, judged.results, counts=None) if f.name == "rare"]
    called = decide(predictions)
    (found,) = gather_examples(facts, predictions, called, manifest=judged.manifest, read_image=broken)
    pictures = [picture for row in found.rows.values() for picture in row]
    assert pictures
    assert {picture.note for picture in pictures} == {"could not be read"}
    few = judged.manifest.take(np.arange(10))
    (found,) = gather_examples(facts, predictions, called, manifest=few, read_image=broken)
    assert {picture.note for row in found.rows.values() for picture in row} == {"not in the manifest"}


def test_pictures_stop_at_the_budget(judged, read_gray) -> None:
    predictions = judged.predictions
    classes = class_facts(predictions, judged.results, counts=None)
    found = gather_examples(
        classes, predictions, decide(predictions), manifest=judged.manifest, read_image=read_gray, budget_bytes=60_000
    )
    pictures = [picture for item in found for row in item.rows.values() for picture in row]
    assert 0 < sum(len(picture.source) for picture in pictures) <= 60_000
    assert "left out to keep this file small" in {picture.note for picture in pictures}


def test_exclusive_group_names_what_was_called_instead_or_is_true(judged, read_gray) -> None:
    predictions = replace(judged.predictions, thresholds=None)
    classes = [f for f in class_facts(predictions, judged.results, counts=None) if f.name == "shape=round"]
    (found,) = gather_examples(
        classes, predictions, decide(predictions), manifest=judged.manifest, read_image=read_gray
    )
    assert {p.rival for p in found.rows["hits"]} == {"the highest of its group"}
    assert all(p.rival.startswith(("called “oval” at 0.", "called “odd” at 0.")) for p in found.rows["misses"])
    assert {p.rival for p in found.rows["false alarms"]} == {"labelled “oval”"}
