"""The audit of a manifest: what would invalidate results, what would mislead, what to know.

Runs every check of `audit_checks` and `class_checks` on the table and, if a reader is given, on the image files, each
read once. The answer is plain data, a text for the terminal and a JSON object; `Audit.invalidates` is the verdict that
a script needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.tables import audit_checks, class_checks
from medtail.tables.audit_checks import Finding
from medtail.tables.confounding import Association, associations, distinct
from medtail.tables.duplicates import Fingerprints, Reader, fingerprint_images, group_fingerprints
from medtail.tables.manifest import FOLDS, Manifest
from medtail.tables.presence import absent
from medtail.tables.tail import count_classes, tail_groups

_LEVELS = ("error", "warning", "note")
_VERDICTS = {
    True: "Results from this table would be invalid: mend the errors.",
    False: "Nothing found that would invalidate results.",
}
_INDENT = "  "


@final
@dataclass(frozen=True)
class Audit:
    """What was found about a manifest, as plain data.

    Attributes:
        name: The table's name.
        digest: The table's digest.
        images: Number of rows.
        patients: Number of patients; of images where patients are unknown.
        folds: Fold → `images` and `patients`, folds in use only ("" for rows without).
        findings: Errors first, then warnings, then notes.
        classes: Class → fold or "all" → positive `images` and `patients`, `assessed` images, patients `without` it.
        tail: Class → `head`, `medium` or `tail`.
        tail_rule: How they were told apart, in words.
        sites: A row a class and site: `class, site, images, patients`, and `studies` where studies are known.
        pairs: Classes that nearly always come together (see `class_checks.cooccurrence`).
        tests: Every descriptive column against every class, strongest first.
        sizes_px: `height` and `width`, each `smallest, median, largest`, and how many `different`; empty if not read.
    """

    name: str
    digest: str
    images: int
    patients: int
    folds: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]
    classes: class_checks.ClassTable
    tail: Mapping[str, str]
    tail_rule: str
    sites: tuple[Mapping[str, Any], ...]
    pairs: tuple[Mapping[str, Any], ...]
    tests: tuple[Association, ...]
    sizes_px: Mapping[str, Any]

    @property
    def invalidates(self) -> bool:
        """Whether anything was found that would invalidate results."""
        return any(finding.level == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, strict JSON."""
        return {
            "name": self.name,
            "digest": self.digest,
            "images": self.images,
            "patients": self.patients,
            "folds": {fold or "none": dict(count) for fold, count in self.folds.items()},
            "invalidates": self.invalidates,
            "findings": [finding.to_json() for finding in self.findings],
            "classes": {
                name: {"tail_group": self.tail[name], **{fold: dict(count) for fold, count in counts.items()}}
                for name, counts in self.classes.items()
            },
            "tail_rule": self.tail_rule,
            "sites": [dict(row) for row in self.sites],
            "co_occurrence": [dict(pair) for pair in self.pairs],
            "associations": [test.to_json() for test in self.tests],
            "sizes_px": dict(self.sizes_px),
        }

    def text(self) -> str:
        """Return a plain text of at most a few screens: findings, classes by fold, sites, sizes, verdict."""
        parts = [self._headline()]
        for level in _LEVELS:
            found = [finding for finding in self.findings if finding.level == level]
            if found:
                lines = [_INDENT + "- " + finding.message.replace("\n", "\n  ") for finding in found]
                parts.append("\n".join([f"{level.capitalize()}s ({len(found)})", *lines]))
        parts.append(self._class_text())
        if self.sites:
            parts.append(self._site_text())
        if self.sizes_px:
            parts.append(self._size_text())
        parts.append(_VERDICTS[self.invalidates])
        return "\n\n".join(parts)

    def _headline(self) -> str:
        lines = [f"{self.name}: {self.images:,} images of {self.patients:,} patients, {len(self.classes)} classes"]
        for fold, count in self.folds.items():
            lines.append(f"{_INDENT}{fold or 'no fold'}: {count['images']:,} images of {count['patients']:,} patients")
        return "\n".join(lines)

    def _class_text(self) -> str:
        folds = ["all", *[fold for fold in self.folds if fold]]
        rows = [["class", "group", "assessed", *folds]]
        ordered = sorted(self.classes, key=lambda name: -self.classes[name]["all"]["images"])
        for name in ordered:
            counts = self.classes[name]
            shown = [f"{counts[fold]['images']:,} / {counts[fold]['patients']:,}" for fold in folds]
            rows.append([name, self.tail[name], f"{counts['all']['assessed']:,}", *shown])
        return f"Images / patients that show each class ({self.tail_rule})\n{_table(rows)}"

    def _site_text(self) -> str:
        places = list(dict.fromkeys(str(row["site"]) for row in self.sites))
        count = {(row["class"], row["site"]): f"{row['images']:,} / {row['patients']:,}" for row in self.sites}
        rows = [["class", *places]]
        rows += [[name, *[count.get((name, place), "0 / 0") for place in places]] for name in self.classes]
        return f"Images / patients that show each class, by site\n{_table(rows)}"

    def _size_text(self) -> str:
        spans = [
            f"{side} {span['smallest']} to {span['largest']} px (median {span['median']:g})"
            for side, span in ((side, self.sizes_px[side]) for side in ("width", "height"))
        ]
        return f"Image sizes: {', '.join(spans)}; {self.sizes_px['different']} different"


def audit_manifest(
    manifest: Manifest,
    *,
    read: Reader | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    check_images: bool = True,
) -> Audit:
    """Look for what would spoil a study made from this table.

    Args:
        manifest: The table, with or without folds.
        read: Image file → float array [H, W] or [H, W, 3] in [0, 1]; None looks at the table only.
        workers: Threads that read at once.
        progress: Called after each image with (done, in all), or None.
        check_images: Whether to look at the files at all: missing, unreadable, blank, duplicates.

    Returns:
        The findings and the tables behind them. Nothing is raised for bad data: that is what the findings are for.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "patient_id": ["1", "1", "2"],
        ...                       "fold": ["train", "test", "test"], "Hernia": [1, 0, 1]})
        >>> audit = audit_manifest(manifest_from_frame(table), check_images=False)
        >>> audit.invalidates, audit.findings[0].code, audit.findings[0].rows
        (True, 'patient-across-folds', (2, 3))
    """
    table = class_checks.class_table(manifest)
    pairs = class_checks.cooccurrence(manifest)
    tests = associations(manifest)
    found = [
        *audit_checks.fold_findings(manifest),
        *audit_checks.generator_findings(manifest),
        *audit_checks.text_findings(manifest),
        *class_checks.class_findings(table),
        *class_checks.cooccurrence_findings(pairs),
        *class_checks.confounding_findings(tests),
    ]
    sizes: Mapping[str, Any] = {}
    if check_images and read is not None:
        fingerprints = fingerprint_images(manifest.image_paths(), read=read, workers=workers, progress=progress)
        missing = np.array([isinstance(e, FileNotFoundError) for e in absent(manifest.image_paths())], dtype=bool)
        found += audit_checks.file_findings(manifest, fingerprints, missing)
        found += audit_checks.duplicate_findings(manifest, fingerprints, group_fingerprints(fingerprints))
        sizes = _sizes(fingerprints)
    folds = manifest.folds.astype(str)
    # without a train fold the groups are those of the whole table, as a preview
    learnt = manifest if (folds == "train").any() else manifest.with_folds(np.full(len(manifest), "train"))
    groups = tail_groups(count_classes(learnt), labels=manifest.labels)
    return Audit(
        name=manifest.name,
        digest=manifest.digest,
        images=len(manifest),
        patients=len(set(manifest.patients)),
        folds=_fold_counts(manifest),
        findings=tuple(sorted(found, key=lambda finding: _LEVELS.index(finding.level))),
        classes=table,
        tail=dict(groups.group_of),
        tail_rule=groups.describe() if learnt is manifest else groups.describe().replace("train ", ""),
        sites=tuple(_site_rows(manifest)),
        pairs=tuple(pairs),
        tests=tuple(tests),
        sizes_px=sizes,
    )


def _fold_counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    folds = manifest.folds.astype(str)
    return {
        fold: {"images": int((folds == fold).sum()), "patients": len(set(manifest.patients[folds == fold]))}
        for fold in (*FOLDS, "")
        if (folds == fold).any()
    }


def _site_rows(manifest: Manifest) -> list[dict[str, Any]]:
    if "site" not in manifest.frame.columns or manifest.frame["site"].nunique() < 2:
        return []
    site_codes, names = pd.factorize(manifest.frame["site"].astype(str), sort=True)
    patients, _ = pd.factorize(pd.Series(manifest.patients).astype(str))
    studies = None
    if "study_id" in manifest.frame.columns:
        studies = pd.factorize(manifest.frame["study_id"].astype(str).replace("", None))[0]  # -1 where not given
    is_real = manifest.is_real
    rows = []
    for c, class_name in enumerate(manifest.labels.class_names):
        shows = (manifest.targets[:, c] == 1) & is_real
        for code, site in enumerate(names):
            shown = shows & (site_codes == code)
            row: dict[str, Any] = {"class": class_name, "site": site or "not given", "images": int(shown.sum())}
            row["patients"] = distinct(patients[shown])
            if studies is not None:
                row["studies"] = distinct(studies[shown & (studies >= 0)])
            rows.append(row)
    return rows


def _sizes(fingerprints: Fingerprints) -> dict[str, Any]:
    sizes = fingerprints.sizes_px[fingerprints.sizes_px[:, 0] > 0]
    if not len(sizes):
        return {}
    spans: dict[str, Any] = {
        side: {"smallest": int(values.min()), "median": float(np.median(values)), "largest": int(values.max())}
        for side, values in (("height", sizes[:, 0]), ("width", sizes[:, 1]))
    }
    return {**spans, "different": len(np.unique(sizes, axis=0))}


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns, the first to the left and the others to the right."""
    first, *others = (max(len(row[k]) for row in rows) for k in range(len(rows[0])))
    lines = []
    for name, *cells in rows:
        counts = [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
        lines.append(_INDENT + "  ".join([name.ljust(first), *counts]))
    return "\n".join(lines)
