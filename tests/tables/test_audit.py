from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association

from medtail.tables.audit import Audit, audit_manifest
from medtail.tables.confounding import associations, cramers_v, holm
from medtail.tables.manifest import Manifest, manifest_from_frame


def read_with_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=np.float32) / 255


def make_manifest(rows: int = 60, *, root: Path | None = None, **columns: object) -> Manifest:
    """Sixty one-image patients: class `a` in every second, folds 40 / 10 / 10; `columns` override or add."""
    table: dict[str, object] = {
        "image_id": [f"i{n}" for n in range(rows)],
        "path": [f"{n}.png" for n in range(rows)],
        "patient_id": [f"p{n}" for n in range(rows)],
        "fold": ["train"] * (rows - 20) + ["tune"] * 10 + ["test"] * 10,
        "a": [n % 2 for n in range(rows)],
    }
    return manifest_from_frame(pd.DataFrame({**table, **columns}), name="toy.csv", root=root)


def audit_table(manifest: Manifest) -> Audit:
    return audit_manifest(manifest, check_images=False)


def messages(audit: Audit, code: str, level: str | None = None) -> list[str]:
    found = [f for f in audit.findings if f.code == code]
    assert level is None or all(f.level == level for f in found)
    return [f.message for f in found]


def one(audit: Audit, code: str, level: str) -> str:
    (message,) = messages(audit, code, level)
    return message


@pytest.fixture
def picture_manifest(tmp_path: Path) -> Manifest:
    random = np.random.default_rng(0)
    for n in range(60):
        coarse = Image.fromarray(random.integers(0, 200, (16, 16)).astype(np.uint8))
        coarse.resize((80, 64), Image.Resampling.BICUBIC).save(tmp_path / f"{n}.png")
    return make_manifest(root=tmp_path)


def test_a_clean_table_invalidates_nothing(picture_manifest: Manifest) -> None:
    audit = audit_manifest(picture_manifest, read=read_with_pillow)
    assert not audit.invalidates
    assert {f.code for f in audit.findings} <= {"few-patients", "unstable-intervals"}
    assert audit.sizes_px["width"] == {"smallest": 80, "median": 80.0, "largest": 80}
    assert "Nothing found that would invalidate results." in audit.text()


def test_a_patient_in_two_folds_is_an_error() -> None:
    patients = ["p0", *[f"p{n}" for n in range(1, 59)], "p0"]
    audit = audit_table(make_manifest(patient_id=patients))
    message = one(audit, "patient-across-folds", "error")
    assert re.search(
        r"patient 'p0': is in train and in test \(rows 2, 61\).*remake it with `medtail data split`", message
    )
    assert audit.invalidates
    assert audit.findings[0].rows == (2, 61)


def test_many_patients_in_two_folds_are_counted_not_all_listed() -> None:
    patients = [f"p{n % 30}" for n in range(60)]
    found = messages(audit_table(make_manifest(patient_id=patients)), "patient-across-folds", "error")
    assert len(found) == 13
    assert found[-1] == "8 more patients are in several folds."


def test_synthetic_images_outside_train_are_an_error() -> None:
    origin = ["real"] * 59 + ["synthetic"]
    message = one(audit_table(make_manifest(origin=origin)), "synthetic-outside-train", "error")
    assert re.search(r"1 synthetic images are outside train \(rows 61\)", message)


def test_one_patient_only_is_an_error() -> None:
    audit = audit_table(make_manifest(patient_id=["p"] * 60, fold=[""] * 60))
    assert re.search(
        r"all 60 images are of one patient \('p'\); they cannot be split", one(audit, "one-patient", "error")
    )


def test_unknown_patients_are_a_warning() -> None:
    assert "every image counts as a patient" in one(
        audit_table(make_manifest(patient_id=[""] * 60)), "patients-unknown", "warning"
    )


def test_rows_without_a_fold_are_noted_only_where_others_have_one() -> None:
    some = audit_table(make_manifest(fold=["train"] * 50 + [""] * 10))
    assert "10 images have none" in one(some, "no-fold", "note")
    assert messages(audit_table(make_manifest(fold=[""] * 60)), "no-fold") == []


def test_missing_unreadable_and_blank_files_are_all_listed(picture_manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "3.png").unlink()
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:200])
    (tmp_path / "5.png").write_text("this is text")
    Image.new("RGB", (30, 20), (7, 7, 7)).save(tmp_path / "6.png")
    audit = audit_manifest(picture_manifest, read=read_with_pillow)
    assert re.search(r"(?s)1 of 60 files do not exist.*row 5: 3\.png", one(audit, "missing-file", "error"))
    unreadable = one(audit, "unreadable-file", "error")
    assert re.search(r"(?s)2 files cannot be read as images.*row 6: .*4\.png.*\n  row 7: .*5\.png", unreadable)
    assert re.search(r"(?s)1 images are of one colour.*row 8: 6\.png", one(audit, "blank-image", "warning"))
    assert audit.invalidates


def test_files_are_not_looked_at_when_told_so(tmp_path: Path) -> None:
    audit = audit_manifest(make_manifest(root=tmp_path), read=read_with_pillow, check_images=False)
    assert messages(audit, "missing-file") == []


def copy_of(tmp_path: Path, source: int, target: int, *, changed: bool) -> None:
    with Image.open(tmp_path / f"{source}.png") as image:
        (image.resize((60, 48)) if changed else image.copy()).save(tmp_path / f"{target}.png")


@pytest.mark.parametrize(("changed", "code"), [(False, "exact-duplicate"), (True, "near-duplicate")])
def test_duplicates_are_named_by_rows(picture_manifest: Manifest, tmp_path: Path, changed: bool, code: str) -> None:
    copy_of(tmp_path, 0, 2, changed=changed)
    audit = audit_manifest(picture_manifest, read=read_with_pillow)
    assert "(rows 2 = 4)" in one(audit, code, "warning")
    assert [f.rows for f in audit.findings if f.code == code] == [(2, 4)]
    assert not audit.invalidates
    other = {"exact-duplicate", "near-duplicate"} - {code}
    assert messages(audit, other.pop()) == []


def test_duplicates_within_a_patient_are_only_noted(picture_manifest: Manifest, tmp_path: Path) -> None:
    copy_of(tmp_path, 0, 2, changed=False)
    same = make_manifest(root=tmp_path, patient_id=["p0", "p1", "p0", *[f"p{n}" for n in range(3, 60)]])
    assert "weigh double" in one(audit_manifest(same, read=read_with_pillow), "exact-duplicate", "note")


def test_a_duplicate_across_folds_is_an_error(picture_manifest: Manifest, tmp_path: Path) -> None:
    copy_of(tmp_path, 0, 58, changed=True)
    audit = audit_manifest(picture_manifest, read=read_with_pillow)
    assert "several folds (row 2 in train, row 60 in test)" in one(audit, "duplicate-across-folds", "error")
    assert audit.invalidates


def test_contradicting_labels_of_one_picture_are_named(picture_manifest: Manifest, tmp_path: Path) -> None:
    copy_of(tmp_path, 0, 1, changed=True)
    message = one(audit_manifest(picture_manifest, read=read_with_pillow), "contradicting-labels", "warning")
    assert "rows 2, 3 show the same picture with contradicting labels for 'a' (row 3 says 1, row 2 says 0)" in message


def test_a_label_not_assessed_contradicts_nothing(picture_manifest: Manifest, tmp_path: Path) -> None:
    copy_of(tmp_path, 0, 1, changed=True)
    partly = make_manifest(root=tmp_path, a=[np.nan, *[n % 2 for n in range(1, 60)]])
    assert messages(audit_manifest(partly, read=read_with_pillow), "contradicting-labels") == []


def test_images_and_patients_are_counted_by_class_and_fold() -> None:
    manifest = make_manifest(6, fold=["train"] * 3 + ["test"] * 3, patient_id=["p", "p", "q", "r", "r", "r"],
                             a=[1, 1, 0, 1, np.nan, 0], origin=["real"] * 6)  # fmt: skip
    assert audit_table(manifest).classes["a"] == {
        "all": {"images": 3, "patients": 2, "assessed": 5, "without": 2},
        "train": {"images": 2, "patients": 1, "assessed": 3, "without": 1},
        "test": {"images": 1, "patients": 1, "assessed": 2, "without": 1},
    }


def test_synthetic_rows_are_not_counted() -> None:
    manifest = make_manifest(origin=["synthetic"] * 10 + ["real"] * 50)
    assert audit_table(manifest).classes["a"]["all"]["images"] == 25


def test_three_patients_in_test_cannot_be_concluded_from() -> None:
    rare = [0] * 60
    for row in (0, 1, 2, 40, 57, 58, 59):
        rare[row] = 1
    audit = audit_table(make_manifest(Hernia=rare, a=[int(n != 53) for n in range(60)]))
    found = messages(audit, "few-patients", "warning")
    assert "2 classes have fewer than 10 patients in test: 'Hernia' (3), 'a' (9)" in found[0]
    assert "the interval will be too wide to conclude anything" in found[0]


def test_one_class_with_few_patients_is_said_in_the_singular() -> None:
    rare = [0] * 40 + [1] * 20 + [0] * 57 + [1] * 3
    audit = audit_table(
        make_manifest(120, fold=["train"] * 60 + ["test"] * 60, a=[n % 2 for n in range(120)], Hernia=rare)
    )
    assert one(audit, "few-patients", "warning") == (
        "class 'Hernia': 3 patients in test: the interval will be too wide to conclude anything."
    )


def test_classes_missing_from_a_fold_are_named_with_the_consequence() -> None:
    audit = audit_table(make_manifest(rare=[1, 1] + [0] * 58))
    assert one(audit, "no-positives-in-test", "warning") == (
        "class 'rare': no image in test shows it; it cannot be judged."
    )
    assert "gets no threshold" in one(audit, "no-positives-in-tune", "warning")


def test_classes_nobody_everybody_or_no_one_assessed_are_named() -> None:
    audit = audit_table(make_manifest(none=[0] * 60, every=[1] * 60, blank=[np.nan] * 60))
    assert "class 'none': no image shows it" in one(audit, "no-positives", "warning")
    assert "class 'every': every assessed image shows it" in one(audit, "no-negatives", "warning")
    assert "class 'blank': was not assessed in any image" in one(audit, "never-assessed", "warning")
    assert not audit.invalidates


def test_one_class_only_is_an_error() -> None:
    audit = audit_table(make_manifest(a=[1] * 60))
    assert "no class has both images that show it and images that do not (images showing 'a': 60 of 60)" in one(
        audit, "nothing-to-learn", "error"
    )
    assert audit.invalidates


def test_classes_that_always_come_together_are_noted_in_both_directions_once() -> None:
    first = [int(n % 4 == 0) for n in range(60)]
    found = messages(audit_table(make_manifest(b=first, c=first)), "co-occurrence", "note")
    assert [m for m in found if "'b' and 'c' nearly always come together (15 of 15 patients)" in m]
    assert len([m for m in found if "'b'" in m and "'c'" in m]) == 1


def test_a_site_that_predicts_a_class_is_a_warning_in_words() -> None:
    label = [int(n % 2 == 0) for n in range(60)]
    site = ["north" if (n % 2 == 0) != (n % 15 == 0) else "south" for n in range(60)]
    message = one(audit_table(make_manifest(a=label, site=site)), "confounding", "warning")
    assert re.search(
        r"column 'site' predicts class 'a': 93% of 30 patients with 'north' show it, 7% of 30 with 'south'", message
    )
    assert "a model may learn the site instead of the finding" in message


def test_an_unrelated_site_is_not_mentioned() -> None:
    site = [("north", "south")[(n // 2) % 2] for n in range(60)]
    assert messages(audit_table(make_manifest(site=site)), "confounding") == []


def test_meta_columns_are_notes_and_long_ones_are_left_out() -> None:
    strong = [f"v{n % 2}" for n in range(60)]
    audit = audit_table(make_manifest(meta_reader=strong, meta_note=[f"note {n}" for n in range(60)]))
    assert "column 'meta_reader' predicts class 'a'" in one(audit, "confounding", "note")


def test_ten_images_of_a_patient_are_not_ten_witnesses() -> None:
    patients = [f"p{n // 10}" for n in range(300)]
    by_patient = {"a": [(n // 10) % 2 for n in range(300)], "site": [("x", "y")[(n // 10) % 2] for n in range(300)]}
    (test,) = associations(make_manifest(300, patient_id=patients, **by_patient))
    assert test.patients == 30
    few = make_manifest(100, patient_id=patients[:100], **{k: v[:100] for k, v in by_patient.items()})
    assert associations(few) == []


def test_a_patient_under_two_values_does_not_count_twice() -> None:
    patients = [f"p{n // 2}" for n in range(120)]
    view = ["left", "right"] * 60
    label = [int(n % 2 == 0 and n // 2 % 2 == 0) for n in range(120)]
    (test,) = associations(make_manifest(120, patient_id=patients, view=view, a=label))
    assert test.patients == 60
    _, single = cramers_v(np.array([[30.0, 30.0], [60.0, 0.0]]), observations=60)
    assert test.p_value == pytest.approx(single)


@pytest.mark.parametrize("seed", range(5))
def test_cramers_v_and_its_p_value_equal_scipy(seed: int) -> None:
    table = np.random.default_rng(seed).integers(3, 40, (4, 2)).astype(float)
    v, p = cramers_v(table)
    assert p == pytest.approx(chi2_contingency(table, correction=False).pvalue, rel=1e-9)
    n, plain = table.sum(), association(table.astype(int), method="cramer")
    corrected = max(0.0, plain**2 - 3 / (n - 1))
    assert v == pytest.approx(np.sqrt(corrected / (2 - 1 / (n - 1) - 1)))


def test_chance_associations_stay_silent() -> None:
    random = np.random.default_rng(0)
    strong = 0
    for _ in range(30):
        tests = associations(
            make_manifest(200, a=random.integers(0, 2, 200), site=random.choice(list("abcdefgh"), 200))
        )
        strong += any(test.is_strong for test in tests)
    assert strong == 0


def test_holm_never_lowers_a_p_value_and_keeps_the_order() -> None:
    assert holm([0.04, 0.001, 0.9, 0.02]) == pytest.approx([0.08, 0.004, 0.9, 0.06])
    assert holm([0.021, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([]) == []


def test_sites_are_counted_by_class() -> None:
    audit = audit_table(make_manifest(site=["n"] * 30 + ["s"] * 30, study_id=[f"s{n // 2}" for n in range(60)]))
    assert audit.sites == (
        {"class": "a", "site": "n", "images": 15, "patients": 15, "studies": 15},
        {"class": "a", "site": "s", "images": 15, "patients": 15, "studies": 15},
    )
    assert "by site" in audit.text()


def test_json_is_strict_and_text_is_aligned(picture_manifest: Manifest) -> None:
    audit = audit_manifest(picture_manifest, read=read_with_pillow)
    value = json.loads(json.dumps(audit.to_json(), allow_nan=False))
    assert value["classes"]["a"]["all"]["images"] == 30
    assert value["classes"]["a"]["tail_group"] == "head"
    assert value["digest"] == picture_manifest.digest
    lines = audit.text().splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  class"))
    assert len({len(line) for line in lines[at : at + 2]}) == 1


def test_progress_counts_every_image(picture_manifest: Manifest) -> None:
    seen: list[tuple[int, int]] = []
    audit_manifest(picture_manifest, read=read_with_pillow, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60)


def test_real_breast_ultrasound_has_no_duplicates_and_says_which_histologies_are_hopeless(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "bus_bra" / "labels.csv").iloc[:300]
    rare = (table["histology"] == "lymphoma").astype(int)
    manifest = manifest_from_frame(
        pd.DataFrame(
            {
                "image_id": table["image"],
                "path": "images/" + table["image"],
                "patient_id": table["patient"],
                "device": table["device"],
                "malignant": (table["pathology"] == "malignant").astype(int),
                "lymphoma": rare,
            }
        ),
        root=shared_data / "bus_bra",
    )
    audit = audit_manifest(manifest, read=read_with_pillow)
    assert not audit.invalidates
    assert not {"exact-duplicate", "near-duplicate"} & {f.code for f in audit.findings}
    assert {"few-patients", "no-positives"} & {f.code for f in audit.findings}


def test_what_a_spreadsheet_would_run_or_a_screen_would_turn_is_noted() -> None:
    table = pd.DataFrame(
        {
            "image_id": ["=1+1", "-b", "+1.5", "-12", "a=b", "-1e-3"],
            "path": ["x.png", "@cmd", "x.png", "x.png", "-", "a\u202egnp.exe"],
            "patient_id": list("abcdef"),
            "halo": [1, 0, 1, 0, 1, 0],
            "=HYPERLINK(1)": [0, 1, 0, 1, 0, 1],
        }
    )
    found = {(f.code, f.message.split(":")[0]): f for f in audit_manifest(manifest_from_frame(table)).findings}
    assert found["formula", "class names"].rows == ()
    assert "=HYPERLINK(1)" in found["formula", "class names"].message
    assert found["formula", "column 'image_id'"].rows == (2, 3)
    assert "2 like '=1+1': it starts as a formula does" in found["formula", "column 'image_id'"].message
    assert found["formula", "column 'path'"].rows == (3,)
    assert found["direction", "column 'path'"].rows == (7,)
    assert all(finding.level == "note" for key, finding in found.items() if key[0] in ("formula", "direction"))
    assert ("formula", "column 'patient_id'") not in found
