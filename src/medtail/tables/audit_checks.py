"""The single checks of the audit, each from tables and fingerprints to findings.

A finding is an error if results made from the table would be invalid, a warning if they would mislead, a note if a
person should know. Row numbers are those a spreadsheet shows (the header is row 1). `audit` calls these in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from medtail.errors import listing
from medtail.tables.confounding import ACQUISITION, Association
from medtail.tables.duplicates import Fingerprints, exact_duplicate_groups
from medtail.tables.frames import spreadsheet_rows
from medtail.tables.manifest import FOLDS, Manifest

Level = Literal["error", "warning", "note"]
ClassTable = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Class → fold (or "all") → `images`, `patients` showing it, `assessed` images, `without` (patients lacking it)."""

HOPELESS_PATIENTS = 10
"""Under this many positive patients an interval spans most of [0, 1]."""
UNSTABLE_PATIENTS = 20
"""Under this many, patient bootstrap intervals are too short (measured coverage .90 where .95 is promised)."""
MOSTLY = 0.9
_SHOWN = 12


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
            f"column 'patient_id': all {len(manifest)} images are of one patient ({patients[0]!r}); they cannot be"
            " split honestly, and nothing measured on them holds for anyone else. Add patients.",
        )
    spread = _across(patients, folds)
    for patient, rows in spread[:_SHOWN]:
        named = " and in ".join(sorted(set(folds[rows]), key=FOLDS.index))
        shown = _numbers(rows)
        yield Finding(
            "error",
            "patient-across-folds",
            f"patient {patient!r}: is in {named} (rows {listing(shown, limit=6)}), so the model is tested on a person it"
            " knows. Empty the fold column and remake it with `medtail data split`.",
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


def class_table(manifest: Manifest) -> dict[str, dict[str, dict[str, int]]]:
    """Count, on real rows, each class's positive images and patients by fold and in all (see `ClassTable`)."""
    real = manifest.take(manifest.is_real)
    codes, _ = pd.factorize(pd.Series(real.patients.astype(str)))
    folds = real.folds.astype(str)
    named = [fold for fold in FOLDS if (folds == fold).any()]
    masks = {"all": np.ones(len(real), dtype=bool), **{fold: folds == fold for fold in named}}
    table: dict[str, dict[str, dict[str, int]]] = {}
    for c, class_name in enumerate(real.labels.class_names):
        label = real.targets[:, c]
        table[class_name] = {
            fold: {
                "images": int((inside & (label == 1)).sum()),
                "patients": len(np.unique(codes[inside & (label == 1)])),
                "assessed": int((inside & ~np.isnan(label)).sum()),
                "without": len(np.unique(codes[inside & (label == 0)])),
            }
            for fold, inside in masks.items()
        }
    return table


def class_findings(table: ClassTable, *, exclusive: bool) -> Iterator[Finding]:
    """Check what can be learnt and estimated about each class.

    Args:
        table: From `class_table`.
        exclusive: Whether all classes form one exclusive group.
    """
    counts = {name: folds["all"] for name, folds in table.items()}
    constant = [n for n, c in counts.items() if c["images"] == 0 or c["images"] == c["assessed"]]
    if len(constant) == len(counts):
        shown = listing([repr(name) for name in constant], limit=_SHOWN)
        yield Finding(
            "error",
            "nothing-to-learn",
            f"no class has both images that show it and images that do not ({shown}); there is nothing to tell apart."
            " Add images of another class.",
        )
    yield from _about(
        [n for n, c in counts.items() if c["assessed"] == 0],
        "warning",
        "never-assessed",
        "was not assessed in any image. Fill the column or remove it",
        "were not assessed in any image. Fill the columns or remove them",
    )
    yield from _about(
        [n for n, c in counts.items() if c["images"] == 0 < c["assessed"]],
        "warning",
        "no-positives",
        "no image shows it; it can be neither learnt nor judged. Add images of it or leave it out",
        "no image shows them; they can be neither learnt nor judged. Add images of them or leave them out",
    )
    if not (exclusive and len(counts) == 1):
        yield from _about(
            [n for n, c in counts.items() if 0 < c["images"] == c["assessed"]],
            "warning",
            "no-negatives",
            "every assessed image shows it, so nothing sets it apart. Add images without it",
            "every assessed image shows them, so nothing sets them apart. Add images without them",
        )
    hopeless = {n for n, c in counts.items() if c["images"] == 0 or c["images"] == c["assessed"]}
    folds = [fold for fold in ("train", "tune", "test", "reward") if any(fold in row for row in table.values())]
    judged = [name for name in table if name not in hopeless]
    for fold in folds:
        yield from _fold_estimates({name: table[name][fold] for name in judged}, fold=fold)
    if not folds:
        few = {n: counts[n]["patients"] for n in judged if counts[n]["patients"] < HOPELESS_PATIENTS}
        yield from _few(few, where="in all", so="no split leaves enough of them in test to conclude anything")


def _fold_estimates(counts: Mapping[str, Mapping[str, int]], *, fold: str) -> Iterator[Finding]:
    cannot = {
        "train": "cannot be learnt",
        "tune": "gets no threshold of its own",
        "test": "cannot be judged",
        "reward": "cannot reward the policy",
    }[fold]
    yield from _about(
        [name for name, count in counts.items() if count["images"] == 0],
        "warning",
        f"no-positives-in-{fold}",
        f"no image in {fold} shows it; it {cannot}",
        f"no image in {fold} shows them; each {cannot}",
    )
    if fold != "test":
        return
    yield from _about(
        [name for name, count in counts.items() if count["images"] > 0 and count["without"] == 0],
        "warning",
        "no-negatives-in-test",
        "every assessed image in test shows it; false alarms cannot be counted",
        "every assessed image in test shows them; false alarms cannot be counted",
    )
    few = {n: c["patients"] for n, c in counts.items() if 0 < c["patients"] < HOPELESS_PATIENTS}
    yield from _few(few, where="in test", so="the interval will be too wide to conclude anything")
    some = {n: c["patients"] for n, c in counts.items() if HOPELESS_PATIENTS <= c["patients"] < UNSTABLE_PATIENTS}
    if some:
        shown = listing([f"{name!r} ({count})" for name, count in some.items()], limit=_SHOWN)
        yield Finding(
            "note",
            "unstable-intervals",
            f"fewer than {UNSTABLE_PATIENTS} patients in test show {shown}: bootstrap intervals come out too short.",
        )


def _few(patients: Mapping[str, int], *, where: str, so: str) -> Iterator[Finding]:
    if not patients:
        return
    ordered = sorted(patients.items(), key=lambda item: (item[1], item[0]))
    if len(ordered) == 1:
        name, count = ordered[0]
        text = f"class {name!r}: {count} {'patient' if count == 1 else 'patients'} {where}: {so}."
    else:
        shown = listing([f"{name!r} ({count})" for name, count in ordered], limit=_SHOWN)
        text = f"{len(ordered)} classes have fewer than {HOPELESS_PATIENTS} patients {where}: {shown}: {so}."
    yield Finding("warning", "few-patients", text)


def _about(names: Sequence[str], level: Level, code: str, one: str, several: str) -> Iterator[Finding]:
    if len(names) == 1:
        yield Finding(level, code, f"class {names[0]!r}: {one}.")
    elif names:
        yield Finding(
            level, code, f"{len(names)} classes ({listing([repr(n) for n in names], limit=_SHOWN)}): {several}."
        )


def cooccurrence(manifest: Manifest) -> list[dict[str, Any]]:
    """Find ordered pairs of classes where the first nearly always comes with the second.

    Counted are patients with the first class, where both were assessed. A pair is listed from ten such patients, if at
    least 90 % of them show the second class and that is at least twice its share among all.

    Returns:
        `first, second, patients` (with the first), `both`, `share`, `share_overall`; highest share first.
    """
    real = manifest.take(manifest.is_real)
    by_patient = pd.DataFrame(real.targets).groupby(real.patients, sort=True).max().to_numpy(dtype=float)
    positive, assessed = (by_patient == 1).astype(float), (~np.isnan(by_patient)).astype(float)
    both = positive.T @ positive
    first = positive.T @ assessed
    overall = np.divide(positive.sum(0), assessed.sum(0), out=np.zeros(positive.shape[1]), where=assessed.sum(0) > 0)
    share = np.divide(both, first, out=np.zeros_like(both), where=first > 0)
    chosen = (first >= HOPELESS_PATIENTS) & (share >= MOSTLY) & (share >= 2 * overall[None, :])
    np.fill_diagonal(chosen, False)
    names = real.labels.class_names
    pairs = [
        {
            "first": names[i],
            "second": names[j],
            "patients": int(first[i, j]),
            "both": int(both[i, j]),
            "share": round(float(share[i, j]), 4),
            "share_overall": round(float(overall[j]), 4),
        }
        for i, j in np.argwhere(chosen)
    ]
    return sorted(pairs, key=lambda pair: (-pair["share"], -pair["patients"], pair["first"], pair["second"]))


def cooccurrence_findings(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Say which classes cannot be told apart by what comes with them."""
    known = {(pair["first"], pair["second"]) for pair in pairs}
    for pair in pairs:
        first, second = pair["first"], pair["second"]
        mutual = (second, first) in known
        if mutual and second < first:
            continue
        verb = "nearly always come together" if mutual else "nearly always comes with"
        subject = f"classes {first!r} and {second!r} {verb}" if mutual else f"class {first!r}: {verb} {second!r}"
        yield Finding(
            "note",
            "co-occurrence",
            f"{subject} ({pair['both']} of {pair['patients']} patients); a model can score well on the one by seeing"
            " the other.",
        )


def confounding_findings(tests: Sequence[Association]) -> Iterator[Finding]:
    """Word the strong associations, one finding a column."""
    strong = [test for test in tests if test.is_strong]
    for column in dict.fromkeys(test.column for test in strong):
        of_column = [test for test in strong if test.column == column]
        top = of_column[0]
        common = [level for level in top.levels if level[1] >= HOPELESS_PATIENTS] or list(top.levels)
        high, low = max(common, key=lambda level: level[2]), min(common, key=lambda level: level[2])
        others = [f"{test.class_name!r} (V {test.cramers_v:.2f})" for test in of_column[1:]]
        also = f" It also predicts {listing(others, limit=6)}." if others else ""
        acquired = column in ACQUISITION
        so = (
            f"a model may learn the {column} instead of the finding. Look at results for each {column}, and do not trust"
            f" them where the {column} is new"
            if acquired
            else f"if {column!r} says how or where an image was made, a model may learn that instead of the finding"
        )
        yield Finding(
            "warning" if acquired else "note",
            "confounding",
            f"column {column!r} predicts class {top.class_name!r}: {high[2]:.0%} of {high[1]} patients with"
            f" {high[0]!r} show it, {low[2]:.0%} of {low[1]} with {low[0]!r} (Cramér's V {top.cramers_v:.2f} over"
            f" {top.patients} patients, {_p_text(top.p_value)}); {so}.{also}",
        )


def _p_text(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


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
