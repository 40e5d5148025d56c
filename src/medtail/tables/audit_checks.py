"""The audit's checks of patients, folds and files, each from tables and fingerprints to findings.

A finding is an error if results made from the table would be invalid, a warning if they would mislead, a note if a
person should know. Row numbers are those a spreadsheet shows (the header is row 1). Those of the
classes are in `class_checks`; `audit` calls all in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, listing
from medtail.tables.duplicates import Fingerprints, exact_duplicate_groups
from medtail.tables.frames import spreadsheet_rows
from medtail.tables.generators import find_leaks, find_records, unrecorded
from medtail.tables.manifest import FOLDS, Manifest

Level = Literal["error", "warning", "note"]
_SHOWN = 12
# what spreadsheets take for a formula, numbers aside
_FORMULA = r"^\s*(?:[=@]|[+-](?![\d.,]+(?:[eE][+-]?\d+)?\s*$))."
_DIRECTION = "[\u200e\u200f\u202a-\u202e\u2066-\u2069]"


@final
@dataclass(frozen=True)
class Finding:
    """One thing a person should know.

    Attributes:
        level: `error` invalidates results, `warning` misleads, `note` informs.
        code: Its kind, stable for machines, such as `patient-across-folds`.
        message: What was found, why it matters, what to do.
        rows: The rows concerned, as a spreadsheet numbers them; empty if it concerns no particular rows.
    """

    level: Level
    code: str
    message: str
    rows: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"level": self.level, "code": self.code, "message": self.message, "rows": list(self.rows)}


def fold_findings(manifest: Manifest) -> Iterator[Finding]:
    """Check patients and folds: leaks, synthetic rows, unknown patients, rows without a fold."""
    patients, folds = manifest.patients.astype(str), manifest.folds.astype(str)
    if not manifest.has_patients:
        yield Finding(
            "warning",
            "patients-unknown",
            "column 'patient_id': empty, so every image counts as a patient of its own; images of one person can leak"
            " from train to test unseen, and intervals will be too short. Fill the column if the ids can be had.",
        )
    elif len(manifest) > 1 and len(set(patients)) == 1:
        yield Finding(
            "error",
            "one-patient",
            f"column 'patient_id': all {len(manifest)} images are of one patient ({str(patients[0])!r}); they cannot be"
            " split honestly, and nothing measured on them holds for anyone else. Add patients.",
        )
    spread = _across(patients, folds)
    for patient, rows in spread[:_SHOWN]:
        named = " and in ".join(sorted(set(folds[rows]), key=FOLDS.index))
        shown = _numbers(rows)
        yield Finding(
            "error",
            "patient-across-folds",
            f"patient {patient!r}: is in {named} (rows {listing(shown, limit=6)}), so the model is tested on a person"
            " it knows. Empty the fold column and remake it with `medtail data split`.",
            shown,
        )
    if len(spread) > _SHOWN:
        rest = np.concatenate([rows for _, rows in spread[_SHOWN:]])
        yield Finding(
            "error",
            "patient-across-folds",
            f"{len(spread) - _SHOWN} more patients are in several folds.",
            _numbers(np.sort(rest)),
        )
    outside = ~manifest.is_real & ~np.isin(folds, ("train", ""))
    if outside.any():
        shown = tuple(spreadsheet_rows(outside))
        yield Finding(
            "error",
            "synthetic-outside-train",
            f"column 'fold': {len(shown)} synthetic images are outside train (rows {listing(shown, limit=8)}); a result"
            " on images no patient had says nothing. Put them in train or remove them.",
            shown,
        )
    without = (folds == "") & manifest.is_real
    if without.any() and not without.all():
        shown = tuple(spreadsheet_rows(without))
        yield Finding(
            "note",
            "no-fold",
            f"column 'fold': {len(shown)} images have none (rows {listing(shown, limit=8)});"
            " `medtail data split` deals them out and keeps the others where they are.",
            shown,
        )


def generator_findings(manifest: Manifest) -> Iterator[Finding]:
    """Check the generators of synthetic images: whom they have learnt from, and whether anybody can tell."""
    if manifest.is_real.all():
        return
    try:
        records = find_records(manifest)
    except MedtailError as error:
        yield Finding("error", "generator-record", str(error))
        return
    for leak in find_leaks(manifest, records):
        yield Finding("error", "generator-leak", leak.text(), leak.rows)
    unknown = unrecorded(manifest, records)
    if unknown.any():
        shown = tuple(spreadsheet_rows(unknown))
        yield Finding(
            "warning",
            "generator-unknown",
            f"column 'origin': {len(shown)} synthetic images (rows {listing(shown, limit=8)}) come from a generator of"
            " which there is no record beside them, so nobody can tell whether it has learnt from patients in reward,"
            " tune or test. Keep the pool's record.json with its images.",
            shown,
        )


def text_findings(manifest: Manifest) -> Iterator[Finding]:
    """Check names and cells for what a spreadsheet would run, or a screen would show otherwise than it is written."""
    texts = {"class": pd.Series(manifest.labels.class_names, dtype=str)}
    cells = manifest.frame.drop(columns=list(manifest.labels.class_names))
    texts |= {str(name): cells[name] for name in cells.columns if cells[name].dtype.kind not in "fiub"}
    for code, pattern, said in (
        ("formula", _FORMULA, "starts as a formula does; medtail writes text as it is, and a spreadsheet that opens"
         " such a table runs it. Import the column as text there, or rename."),
        ("direction", _DIRECTION, "holds marks that turn the direction of writing, so that it is shown otherwise than"
         " it reads. Remove them."),
    ):  # fmt: skip
        for name, column in texts.items():
            found = column.astype(str).str.contains(pattern, regex=True).to_numpy(dtype=bool)
            if found.any():
                rows = () if name == "class" else _numbers(np.flatnonzero(found))
                where = "class names" if name == "class" else f"column {name!r}"
                first = str(column.iloc[int(np.argmax(found))])
                yield Finding("note", code, f"{where}: {int(found.sum())} like {first!r}: it {said}", rows)


def file_findings(manifest: Manifest, fingerprints: Fingerprints, missing: np.ndarray) -> Iterator[Finding]:
    """Check the files: missing, unreadable, blank; every one is listed.

    Args:
        manifest: The table.
        fingerprints: Of every row's file.
        missing: True [images] where there is no file.
    """
    paths = manifest.frame["path"].astype(str).to_numpy(dtype=object)
    if missing.any():
        shown = tuple(spreadsheet_rows(missing))
        lines = "".join(f"\n  row {n}: {paths[n - 2]}" for n in shown)
        yield Finding(
            "error",
            "missing-file",
            f"column 'path': {len(shown)} of {len(manifest)} files do not exist (relative paths start at"
            f" {str(manifest.root)!r}). Correct the paths or remove the rows.{lines}",
            shown,
        )
    broken = np.array(sorted(row for row in fingerprints.failures if not missing[row]), dtype=int)
    if len(broken):
        lines = "".join(f"\n  row {row + 2}: {_failure(paths[row], fingerprints.failures[int(row)])}" for row in broken)
        yield Finding(
            "error",
            "unreadable-file",
            f"column 'path': {len(broken)} files cannot be read as images. Replace them or remove the rows.{lines}",
            _numbers(broken),
        )
    if fingerprints.is_blank.any():
        shown = tuple(spreadsheet_rows(fingerprints.is_blank))
        lines = "".join(f"\n  row {n}: {paths[n - 2]}" for n in shown)
        yield Finding(
            "warning",
            "blank-image",
            f"{len(shown)} images are of one colour and show nothing. Replace them or remove the rows.{lines}",
            shown,
        )


def duplicate_findings(manifest: Manifest, fingerprints: Fingerprints, near: np.ndarray) -> Iterator[Finding]:
    """Check images that are the same picture: in several rows, across folds, with contradicting labels.

    Args:
        manifest: The table.
        fingerprints: Of every row's file.
        near: Near-duplicate group of each row, which takes in the exact ones.
    """
    usable = fingerprints.hashes != 0
    exact = exact_duplicate_groups(np.where(usable, fingerprints.digests, ""))
    near_only = [rows for rows in _members(near) if len(set(exact[rows])) > 1]
    yield from _same_picture(manifest, _members(exact), code="exact-duplicate", how="byte for byte the same file")
    yield from _same_picture(manifest, near_only, code="near-duplicate", how="the same picture, saved differently")
    groups = _members(near)
    folds, patients = manifest.folds.astype(str), manifest.patients.astype(str)
    # one patient in two folds is said by the check of patients already
    leaks = [rows for rows in groups if len(set(folds[rows]) - {""}) > 1 and len(set(patients[rows])) > 1]
    for rows in leaks:
        placed = ", ".join(f"row {row + 2} in {folds[row]}" for row in rows if folds[row])
        yield Finding(
            "error",
            "duplicate-across-folds",
            f"the same picture is in several folds ({placed}), so the model is tested on an image it knows."
            " Remove the copies, or empty the fold column and remake it with `medtail data split`.",
            _numbers(rows),
        )
    targets = manifest.targets
    for rows in groups:
        values = targets[rows]
        torn = np.flatnonzero((values == 1).any(axis=0) & (values == 0).any(axis=0))
        if len(torn):
            names = [repr(manifest.labels.class_names[c]) for c in torn]
            first = torn[0]
            yield Finding(
                "warning",
                "contradicting-labels",
                f"rows {listing(_numbers(rows), limit=6)} show the same picture with contradicting labels for"
                f" {listing(names, limit=4)} (row {rows[values[:, first] == 1][0] + 2} says 1,"
                f" row {rows[values[:, first] == 0][0] + 2} says 0). Find out which is right.",
                _numbers(rows),
            )


def _same_picture(manifest: Manifest, groups: Sequence[np.ndarray], *, code: str, how: str) -> Iterator[Finding]:
    patients = manifest.patients.astype(str)
    tests: tuple[tuple[Level, Callable[[np.ndarray], bool], str], ...] = (
        ("warning", lambda rows: len(set(patients[rows])) > 1, "under different patients"),
        ("note", lambda rows: len(set(patients[rows])) == 1, "within one patient each"),
    )
    for level, belongs, whose in tests:
        chosen = [rows for rows in groups if belongs(rows)]
        if not chosen:
            continue
        shown = listing(["rows " + " = ".join(str(row + 2) for row in rows[:6]) for rows in chosen], limit=8)
        advice = (
            "Count them as one patient (`medtail data split` does) or remove the copies"
            if level == "warning"
            else "They weigh double in every count; remove the copies if that is not meant"
        )
        images = sum(len(rows) for rows in chosen)
        yield Finding(
            level,
            code,
            f"{images} images {whose} are {how} as another ({shown}). {advice}."
            if code == "exact-duplicate"
            else f"{images} images {whose} are {how} ({shown}). {advice}.",
            _numbers(np.concatenate(chosen)),
        )


def _across(patients: np.ndarray, folds: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return the patients in more than one fold with their rows, in order of appearance."""
    assigned = np.flatnonzero(folds != "")
    table = pd.DataFrame({"patient": patients[assigned], "fold": folds[assigned], "row": assigned})
    spread = table.groupby("patient", sort=False)["fold"].transform("nunique") > 1
    found = table[spread].groupby("patient", sort=False)["row"]
    return [(str(patient), rows.to_numpy()) for patient, rows in found]


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """Return the rows of every group of two or more."""
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return [part for part in parts if len(part) > 1]


def _numbers(rows: np.ndarray) -> tuple[int, ...]:
    return tuple(int(row) + 2 for row in rows)


def _failure(path: str, words: str) -> str:
    """Return a reader's complaint in one line that names the file once."""
    line = " ".join(words.split())
    return line if path in line else f"{path}: {line}"
