"""Files that platforms take: their form, and bytes that repeat."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.cxr_lt_submission import read_submission, validate_submission
from medtail.challenges.cxr_lt_writing import pack_submission, submission_csv, write_submission, write_template
from medtail.errors import MedtailError


def ids(world) -> np.ndarray:
    return world.truth["dicom_id"].to_numpy(dtype=object)


def test_the_same_scores_make_the_same_bytes_whenever_and_wherever(world):
    (world.folder / "code").mkdir()
    for name in ("b.py", "a.py"):
        (world.folder / "code" / name).write_text(name)
    first = submission_csv(ids(world), world.values, edition=world.edition)
    write_submission(world.folder / "one.zip", first, code=world.folder / "code")
    os.utime(world.folder / "code" / "a.py", (1, 1))
    (world.folder / "code" / "a.py").chmod(0o755)
    write_submission(world.folder / "two.zip", first, code=world.folder / "code")
    assert (world.folder / "one.zip").read_bytes() == (world.folder / "two.zip").read_bytes()
    with zipfile.ZipFile(world.folder / "one.zip") as archive:
        assert archive.namelist() == ["submission.csv", "code/a.py", "code/b.py"]
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_is_written_is_valid_and_reads_back_as_float32_exactly(world):
    scores = world.values.astype(np.float32).astype(float) ** 5
    scores = scores.astype(np.float32).astype(float)
    write_submission(world.folder / "s.zip", submission_csv(ids(world), scores, edition=world.edition))
    assert validate_submission(world.folder / "s.zip", edition=world.edition, ids=ids(world)).is_valid
    read = read_submission(world.folder / "s.zip", edition=world.edition)
    assert np.array_equal(read.scores.astype(np.float32), scores.astype(np.float32))
    assert read.joined == ()


def test_pack_mends_order_and_names_aloud(world):
    shuffled = world.scores.sample(frac=1, random_state=1).rename(columns={"Normal": "No Finding"})
    shuffled = shuffled[["dicom_id", *sorted(shuffled.columns[1:])]]
    out = world.folder / "out.zip"
    said = pack_submission(world.write(shuffled), out, edition=world.edition, ids=ids(world))
    assert any("columns out of order" in line for line in said)
    assert any("found 'No Finding'; expected the name 'Normal'" in line for line in said)
    assert any("rows were put into the test set's order" in line for line in said)
    assert validate_submission(out, edition=world.edition, ids=ids(world)).is_valid
    read = read_submission(out, edition=world.edition)
    assert read.image_ids.tolist() == ids(world).tolist()
    assert np.allclose(read.scores, world.values, rtol=1e-8)


def test_packing_what_was_packed_changes_nothing(world):
    out, again = world.folder / "out.zip", world.folder / "again.zip"
    pack_submission(world.write(world.scores), out, edition=world.edition, ids=ids(world))
    assert pack_submission(out, again, edition=world.edition, ids=ids(world)) == ()
    assert out.read_bytes() == again.read_bytes()


def test_pack_writes_nothing_where_scores_are_faulty(world):
    with pytest.raises(MedtailError, match="column 'Hernia': missing"):
        pack_submission(world.write(world.scores.drop(columns="Hernia")), world.folder / "o.zip", edition=world.edition)
    assert not (world.folder / "o.zip").exists()


def test_code_leaves_links_and_caches_out(world):
    code = world.folder / "src"
    (code / "__pycache__").mkdir(parents=True)
    (code / "__pycache__" / "x.pyc").write_text("x")
    (code / "run.py").write_text("pass")
    (code / "passwd").symlink_to("/etc/passwd")
    write_submission(world.folder / "s.zip", b"dicom_id\n", code=code)
    with zipfile.ZipFile(world.folder / "s.zip") as archive:
        assert archive.namelist() == ["submission.csv", "code/run.py"]
    with pytest.raises(MedtailError, match="no such folder"):
        write_submission(world.folder / "t.zip", b"dicom_id\n", code=world.folder / "nowhere")
    with pytest.raises(MedtailError, match="a CSV cannot hold code"):
        write_submission(world.folder / "t.csv", b"dicom_id\n", code=code)
    with pytest.raises(MedtailError, match="unknown ending"):
        write_submission(world.folder / "t.rar", b"dicom_id\n")


@pytest.mark.parametrize(("task", "classes"), [(1, 40), (2, 26), (3, 5)])
def test_a_template_has_the_form_that_validate_wants(tmp_path, task, classes):
    pd.DataFrame({"dicom_id": ["b", "a"], "fpath": ["x", "y"]}).to_csv(tmp_path / "test.csv", index=False)
    assert write_template(tmp_path / "test.csv", tmp_path / "s.csv", edition="2024", task=task) == 2
    table = pd.read_csv(tmp_path / "s.csv")
    assert table.shape == (2, classes + 1)
    assert table["dicom_id"].tolist() == ["b", "a"]
    found = validate_submission(tmp_path / "s.csv", edition="2024", task=task, ids=np.array(["a", "b"], dtype=object))
    assert found.is_valid
    assert "The same score in every row" in found.warnings[0]


def test_scores_that_are_no_probabilities_are_not_written(world):
    for values in (world.values + 1, np.where(world.values > 0.9, np.nan, world.values)):
        with pytest.raises(MedtailError, match=r"outside \[0, 1\]"):
            submission_csv(ids(world), values, edition=world.edition)
    with pytest.raises(MedtailError, match="found shape"):
        submission_csv(ids(world), world.values[:, :3], edition=world.edition)
