"""Twelve histologies make a task; the rarer ones are images nobody has trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.sources.bus_bra import import_bus_bra
from medtail.sources.bus_bra_subtypes import GROUP, SUBTYPES, bus_bra_subtypes
from medtail.tables.manifest import manifest_from_frame
from medtail.tables.tail import count_classes, tail_groups


def test_known_and_unknown_rows_share_the_columns_and_no_image() -> None:
    names = [*SUBTYPES, "lymphoma"]
    frame = pd.DataFrame(
        {"image_id": range(26), "path": "x.png", "patient_id": range(26), "device": "d", "malignant": 0}
    )
    labels = {f"{GROUP}{name}": [float(n % 13 == c) for n in range(26)] for c, name in enumerate(names)}
    known, unknown = bus_bra_subtypes(manifest_from_frame(frame.assign(**labels)))
    assert (len(known), len(unknown)) == (24, 2)
    assert known.labels == unknown.labels
    assert known.labels.task == "multiclass"
    assert (known.targets.sum(axis=1) == 1).all()
    assert np.isnan(unknown.targets).all()
    assert unknown.frame["meta_histology"].tolist() == ["lymphoma"] * 2
    assert "malignant" not in known.frame.columns


def test_a_table_without_a_histology_is_refused_by_name() -> None:
    frame = pd.DataFrame({"image_id": ["a"], "path": "x.png", "patient_id": "p", "histology=cyst": 1, "histology=x": 0})
    with pytest.raises(MedtailError, match=r"(?s)'histology=fibroadenoma': missing.*'histology=mastitis': missing"):
        bus_bra_subtypes(manifest_from_frame(frame))


def test_the_shared_copy_counted(shared_data: Path) -> None:
    table = import_bus_bra(shared_data / "bus_bra")
    known, unknown = bus_bra_subtypes(table)
    counts = count_classes(known.with_folds(np.full(len(known), "train", dtype=object)))
    assert dict(zip(SUBTYPES, zip(counts.images, counts.patients, strict=True), strict=True)) == {
        "fibroadenoma": (671, 389), "invasive ductal carcinoma": (407, 228), "cyst": (117, 64),
        "fibrocystic changes": (86, 51), "invasive lobular carcinoma": (39, 24), "intraductal papilloma": (33, 19),
        "sclerosing adenosis": (28, 15), "hyperplasia": (21, 11), "lipoma": (9, 5), "phyllodes tumor": (9, 7),
        "papillary carcinoma": (9, 5), "mastitis": (6, 3),
    }  # fmt: skip
    assert (len(known), len(set(known.patients)), len(unknown), len(set(unknown.patients))) == (1435, 821, 57, 31)
    assert not set(known.patients) & set(unknown.patients)
    groups = tail_groups(counts, labels=known.labels, rule="relative")
    assert [len(groups.members(group)) for group in ("head", "medium", "tail")] == [2, 2, 8]
