"""What a file says of itself comes back as it was, and nothing else is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from medtail.errors import MedtailError, UsageError
from medtail.exchange.onnx_record import KEY, OnnxRecord
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.tail import ClassCounts

NAMES = ("zebra", "shape=oval", "shape=round")
RECORD = OnnxRecord(
    labels=LabelSpace.from_columns(NAMES),
    pixels=PixelConfig(size_px=64, crop="roi"),
    thresholds=dict.fromkeys(NAMES, 0.25),
    raw_thresholds=None,
    train_counts=ClassCounts(NAMES, (5, 4, 3), (2, 2, 1), (9, 9, 9)),
    digests={"model": "ab", "calibration": "cd"},
    needs_content=True,
    members=3,
    mirrored=True,
    differences={"1": 1e-7},
    note="research",
    versions={"medtail": "0"},
)


def test_a_record_comes_back_as_it_was() -> None:
    metadata = RECORD.to_metadata()
    assert OnnxRecord.from_metadata(metadata, where="a.onnx") == RECORD
    assert json.loads(metadata["class_names"]) == list(NAMES)
    assert json.loads(metadata["thresholds"]) == dict(RECORD.thresholds or {})
    none = replace(RECORD, thresholds=None, train_counts=None)
    assert OnnxRecord.from_metadata(none.to_metadata(), where="a.onnx") == none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "medtail-onnx/9"}, "format 'medtail-onnx/9' is unknown"),
        ({"thresholds": {"zebra": 0.5}}, "thresholds: are not of the file's classes"),
        ({"precision": "int3"}, "precision"),
        ({"pixels": {"size_px": 0}}, "size_px"),
        ({"runs": "rm -rf"}, "runs"),
        ({"labels": {"class_names": ["a", "a"]}}, "labels|class"),
    ],
    ids=str,
)
def test_a_damaged_record_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    value = json.loads(RECORD.to_metadata()[KEY]) | change
    with pytest.raises(MedtailError, match=message) as caught:
        OnnxRecord.from_metadata({KEY: json.dumps(value)}, where="a.onnx")
    assert not isinstance(caught.value, UsageError), "a damaged file is no misuse of the command line"
    assert "a.onnx" in str(caught.value) or "labels" in change


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(MedtailError, match=r"a\.onnx, metadata 'medtail'"):
        OnnxRecord.from_metadata({KEY: text}, where="a.onnx")
    with pytest.raises(MedtailError, match="has no metadata 'medtail'; expected a file written by `medtail export"):
        OnnxRecord.from_metadata({}, where="a.onnx")
