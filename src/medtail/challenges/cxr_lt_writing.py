"""Submission files that come out the same byte for byte: templates, tables of scores, zips with code.

Rows and columns are put into the order of the sample, floats into one format, and files in an archive get one date,
so that the same scores always make the same file (with the same version of zlib).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medtail.challenges.cxr_lt_archive import IGNORED_FOLDERS
from medtail.challenges.cxr_lt_submission import read_submission
from medtail.challenges.cxr_lt_truth import as_edition, read_test_ids
from medtail.errors import MedtailError
from medtail.runs import atomic_path
from medtail.sources.cxr_lt import Edition

FLOAT_FORMAT = "%.9g"
"""Nine significant digits keep every float32 apart from its neighbours, however small."""
EPOCH = (1980, 1, 1, 0, 0, 0)
CSV_NAME = "submission.csv"
NOT_CODE = ("__pycache__", ".git", ".ipynb_checkpoints", ".DS_Store")


def submission_csv(image_ids: np.ndarray, scores: np.ndarray, *, edition: str | Edition, task: int = 1) -> bytes:
    """Write scores as the bytes of a submission CSV.

    Args:
        image_ids: Text [N].
        scores: float [N, C] in [0, 1], columns in the task's order.
        edition: `2023`, `2024`, `2026`, or an edition of one's own.
        task: Whose classes the columns are.

    Returns:
        UTF-8 text: the id column, then the classes in the sample's order.

    Raises:
        MedtailError: The shape does not fit, or a score is not in [0, 1].

    Example:
        >>> submission_csv(np.array(["a"]), np.full((1, 5), 1 / 3), edition="2024", task=3).splitlines()[1]
        b'a,0.333333333,0.333333333,0.333333333,0.333333333,0.333333333'
    """
    tables = as_edition(edition)
    names = tables.task(task).class_names
    if scores.shape != (len(image_ids), len(names)):
        raise MedtailError(f"scores: found shape {scores.shape}; expected {(len(image_ids), len(names))}.")
    if not np.all((scores >= 0.0) & (scores <= 1.0)):
        raise MedtailError("scores: found NaN or values outside [0, 1]; expected probabilities.")
    frame = pd.DataFrame(np.asarray(scores, dtype=np.float64), columns=list(names))
    frame.insert(0, tables.id_column, np.asarray(image_ids, dtype=object))
    text: str = frame.to_csv(index=False, lineterminator="\n", float_format=FLOAT_FORMAT)
    return text.encode("utf-8")


def write_submission(path: Path | str, content: bytes, *, code: Path | str | None = None) -> None:
    """Write a submission CSV, or a zip holding it, atomically; the bytes repeat.

    Args:
        path: `.csv` or `.zip`.
        content: From `submission_csv`.
        code: A folder to put under `code/` of the zip, as the final phase asks; links and caches are left out.

    Raises:
        MedtailError: Unknown ending, no such folder, or the place cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.zip", "b.zip"):
        ...     write_submission(folder / name, b"dicom_id,Hernia")
        >>> (folder / "a.zip").read_bytes() == (folder / "b.zip").read_bytes()
        True
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".zip"):
        raise MedtailError(f"{path}: unknown ending {path.suffix!r}; expected .csv or .zip.")
    if path.suffix.lower() == ".csv":
        if code is not None:
            raise MedtailError(f"{path}: a CSV cannot hold code; write a .zip.")
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return
    files = {} if code is None else _code_files(Path(code))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _add(archive, CSV_NAME, content)
        for name, file in files.items():
            _add(archive, name, file.read_bytes())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, content, compresslevel=6)


def _code_files(folder: Path) -> dict[str, Path]:
    """Return name in the archive → file, in the names' order."""
    if not folder.is_dir():
        raise MedtailError(f"--code {folder}: no such folder.")
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if name not in NOT_CODE]
        for name in names:
            file = Path(place) / name
            if name not in NOT_CODE and file.is_file() and not file.is_symlink():
                found[f"{IGNORED_FOLDERS[0]}/{file.relative_to(folder).as_posix()}"] = file
    return dict(sorted(found.items()))


def write_template(
    test: Path | str, out: Path | str, *, edition: str | Edition, task: int = 1, fill: float = 0.5
) -> int:
    """Write a sample submission for a test CSV: its ids, the task's classes, one score everywhere.

    Args:
        test: CSV with the id column, labelled or not.
        out: `.csv` or `.zip` to write.
        edition: `2023`, `2024`, `2026`, or an edition of one's own.
        task: Whose classes to write.
        fill: The score, in [0, 1].

    Returns:
        Number of rows.

    Raises:
        MedtailError: The id column is missing or repeats an id, or `fill` is outside [0, 1].
    """
    ids = read_test_ids(test, edition=edition)
    scores = np.full((len(ids), len(as_edition(edition).task(task).class_names)), fill)
    write_submission(out, submission_csv(ids, scores, edition=edition, task=task))
    return len(ids)


def pack_submission(
    scores: Path | str,
    out: Path | str,
    *,
    edition: str | Edition,
    task: int = 1,
    ids: np.ndarray | None = None,
    code: Path | str | None = None,
) -> Sequence[str]:
    """Put scores into the form the platform wants, and say what was changed.

    Args:
        scores: `.csv` or `.zip`, columns in any order or by alias; or a table that `medtail predict` wrote.
        out: `.zip` (or `.csv`) to write.
        edition: `2023`, `2024`, `2026`, or an edition of one's own.
        task: Whose classes the columns are.
        ids: The test set's images, in the order to write; the file's own rows and order if None.
        code: A folder for `code/`.

    Returns:
        What was changed and what looks odd, in words.

    Raises:
        MedtailError: Faults that reordering cannot mend; nothing is written then.
    """
    found = read_submission(scores, edition=edition, task=task, ids=ids)
    order = np.arange(len(found.image_ids)) if ids is None else pd.Index(found.image_ids).get_indexer(pd.Index(ids))
    content = submission_csv(found.image_ids[order], found.scores[order], edition=edition, task=task)
    write_submission(out, content, code=code)
    moved = [] if ids is None or np.array_equal(found.image_ids, ids) else ["rows were put into the test set's order."]
    return (*(f"changed: {message}" for message in found.joined), *(f"changed: {m}" for m in moved), *found.warnings)
