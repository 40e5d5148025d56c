"""A patient a generator has learnt from is never judged, chosen by or rewarded with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.runs import write_json
from medtail.tables.audit import audit_manifest
from medtail.tables.generators import (
    GeneratorRecord,
    check_generator_leaks,
    find_leaks,
    find_records,
    generator_leaks,
    unrecorded,
)
from medtail.tables.manifest import Manifest, manifest_from_frame

DIGEST = "0123456789abcdef"


def table(root: Path, *, synthetic: int = 1, **changes: Any) -> Manifest:
    """Eight real patients in four folds, and images of a generator in `pool/images`."""
    rows: list[dict[str, Any]] = [
        {"image_id": f"r{n}", "path": f"{n}.png", "patient_id": f"p{n}", "fold": fold, "origin": "real"}
        for n, fold in enumerate(["train", "train", "reward", "reward", "tune", "tune", "test", "test"])
    ]
    rows += [
        {"image_id": f"s{n}", "path": f"pool/images/{n}.png", "patient_id": f"syn:{DIGEST[:12]}:{n}", "fold": "train",
         "origin": "synthetic"} for n in range(synthetic)
    ]  # fmt: skip
    labels = {"type=a": [n % 2 for n in range(len(rows))], "type=b": [1 - n % 2 for n in range(len(rows))]}
    return manifest_from_frame(pd.DataFrame(rows).assign(**labels, **changes), name="table.csv", root=root)


def write_record(folder: Path, patients: list[str], *, digest: str = DIGEST) -> None:
    write_json(folder / "record.json", {"generator_digest": digest, "train_patients": patients})


@pytest.mark.parametrize(("fold", "patient", "row"), [("reward", "p2", 4), ("tune", "p5", 7), ("test", "p6", 8)])
def test_a_patient_the_generator_knows_is_refused_in_every_shut_fold(
    tmp_path: Path, fold: str, patient: str, row: int
) -> None:
    write_record(tmp_path / "pool", ["p0", "p1", patient])
    manifest = table(tmp_path)
    leaks = find_leaks(manifest, find_records(manifest))
    assert [(leak.fold, leak.patients, leak.rows) for leak in leaks] == [(fold, (patient,), (row,))]
    with pytest.raises(
        MedtailError, match=rf"(?s)table.csv.*{DIGEST[:12]} \(pool/record.json\).*'{patient}'.*{fold} \(rows {row}"
    ):
        check_generator_leaks(manifest)
    audit = audit_manifest(manifest, check_images=False)
    assert audit.invalidates
    assert [(f.level, f.rows) for f in audit.findings if f.code == "generator-leak"] == [("error", (row,))]


def test_train_patients_may_be_known(tmp_path: Path) -> None:
    write_record(tmp_path / "pool", ["p0", "p1", "someone else"])
    manifest = table(tmp_path)
    check_generator_leaks(manifest)
    codes = [finding.code for finding in audit_manifest(manifest, check_images=False).findings]
    assert not {"generator-leak", "generator-unknown", "generator-record"} & set(codes)


def test_all_leaks_of_all_generators_are_told_at_once(tmp_path: Path) -> None:
    records = [
        GeneratorRecord("one", "aa", frozenset({"p4", "p5", "p6"})), GeneratorRecord("two", "bb", frozenset({"p7"}))
    ]  # fmt: skip
    told = generator_leaks(table(tmp_path), records)
    assert len(told) == 3
    assert "2 patients ('p4', 'p5')" in told[0]
    assert told[2].startswith("generator bb (two)")


def test_records_are_found_above_the_images_beside_them_and_beside_the_table(tmp_path: Path) -> None:
    manifest = table(tmp_path)
    assert find_records(manifest) == ()
    write_record(tmp_path, ["p0"], digest="a")
    write_record(tmp_path / "pool", ["p0"], digest="b")
    write_record(tmp_path / "pool" / "images", ["p0"], digest="c")
    assert [record.digest for record in find_records(manifest)] == ["c", "b", "a"]


def test_a_table_of_real_images_looks_for_no_record(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", {"something": "else"})
    assert find_records(table(tmp_path, synthetic=0)) == ()


def test_without_patient_ids_images_are_the_patients(tmp_path: Path) -> None:
    manifest = table(tmp_path, patient_id="")
    leaks = find_leaks(manifest, [GeneratorRecord("gen", DIGEST, frozenset({"r6", "s0"}))])
    assert [(leak.fold, leak.rows) for leak in leaks] == [("test", (8,))]


def test_an_unknown_generator_is_a_warning(tmp_path: Path) -> None:
    manifest = table(tmp_path, synthetic=2)
    assert unrecorded(manifest, ()).nonzero()[0].tolist() == [8, 9]
    write_record(tmp_path / "pool", ["p0"], digest="another one")
    found = [f for f in audit_manifest(manifest, check_images=False).findings if f.code == "generator-unknown"]
    assert [(f.level, f.rows) for f in found] == [("warning", (10, 11))]


def test_a_damaged_record_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "pool" / "record.json", {"generator_digest": DIGEST})
    with pytest.raises(
        MedtailError, match=r"pool/record.json: found the keys generator_digest; expected .*train_patients"
    ):
        check_generator_leaks(table(tmp_path))
    audit = audit_manifest(table(tmp_path), check_images=False)
    assert [f.code for f in audit.findings if f.level == "error"] == ["generator-record"]


def test_a_generators_own_record_reads_as_its_pools() -> None:
    assert GeneratorRecord.from_json({"digest": "a", "train_patients": [1]}) == GeneratorRecord.from_json(
        {"generator_digest": "a", "train_patients": ["1"], "digest": "of the pool"}
    )
