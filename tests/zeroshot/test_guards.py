from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.zeroshot.guards import check_unseen, tower_caution
from medtail.zeroshot.prompts import load_phrases


def table(*, tune: float, test: float) -> Manifest:
    frame = pd.DataFrame({"image_id": list("abc"), "path": "x", "patient_id": list("123"), "Mass": [1, 0, 1]})
    return manifest_from_frame(frame.assign(fold=["train", "tune", "test"], Effusion=[np.nan, tune, test]))


def test_class_trained_under_another_name_is_not_unseen() -> None:
    book = load_phrases("chest_xray")
    with pytest.raises(MedtailError, match="'Effusion': the model was trained on it, as 'pleural_effusion'"):
        check_unseen(["Bulla", "Effusion"], trained=["Mass", "pleural_effusion"], book=book)
    check_unseen(["Bulla", "Effusion"], trained=["Mass", "pleural_effusion"])  # nothing known of aliases


def test_labels_in_any_fold_that_teaches_or_chooses_are_found() -> None:
    book = load_phrases("chest_xray")
    with pytest.raises(MedtailError, match=r"'Pleural Effusion': 1 images .* column 'Effusion', in tune"):
        check_unseen(["Pleural Effusion"], manifest=table(tune=0, test=1), book=book)
    check_unseen(["Pleural Effusion"], manifest=table(tune=np.nan, test=1), book=book)
    with pytest.raises(MedtailError, match=r"'Mass': 2 images .* in train, tune"):
        check_unseen(["Mass"], manifest=table(tune=np.nan, test=1))


def test_tower_that_saw_the_test_set_is_told_apart_from_one_nobody_knows() -> None:
    known = {"tower": "chexzero-x", "trained_on": "MIMIC-CXR"}
    assert "flatter it" in tower_caution(known, test_set="mimic_cxr")
    assert "flatter it" not in tower_caution(known, test_set="NIH")
    assert "Check its card" in tower_caution({"tower": "a/b", "trained_on": "not known to medtail"})
