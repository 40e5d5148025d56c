"""The audit's checks of the classes: what can be learnt and estimated, and what gives a class away.

Counts are of real rows, and of patients beside images, because ten images of one person are one witness.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medtail.errors import listing
from medtail.tables.audit_checks import Finding, Level
from medtail.tables.confounding import ACQUISITION, Association, distinct
from medtail.tables.manifest import FOLDS, Manifest

ClassTable = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Class → fold (or "all") → `images`, `patients` showing it, `assessed` images, `without` (patients lacking it)."""

HOPELESS_PATIENTS = 10
"""Under this many positive patients an interval spans most of [0, 1]."""
UNSTABLE_PATIENTS = 20
"""Under this many, patient bootstrap intervals are too short (measured coverage .90 where .95 is promised)."""
MOSTLY = 0.9
_SHOWN = 12


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
                "patients": distinct(codes[inside & (label == 1)]),
                "assessed": int((inside & ~np.isnan(label)).sum()),
                "without": distinct(codes[inside & (label == 0)]),
            }
            for fold, inside in masks.items()
        }
    return table


def class_findings(table: ClassTable) -> Iterator[Finding]:
    """Check what can be learnt and estimated about each class of `class_table`."""
    counts = {name: folds["all"] for name, folds in table.items()}
    constant = {n for n, c in counts.items() if c["images"] in (0, c["assessed"])}
    if len(constant) == len(counts):
        shown = listing([f"{n!r}: {c['images']} of {c['assessed']}" for n, c in counts.items()], limit=_SHOWN)
        yield Finding(
            "error",
            "nothing-to-learn",
            f"no class has both images that show it and images that do not (images showing {shown}), so there is"
            " nothing to tell apart. Add images of another class.",
        )
        return
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
    yield from _about(
        [n for n, c in counts.items() if 0 < c["images"] == c["assessed"]],
        "warning",
        "no-negatives",
        "every assessed image shows it, so nothing sets it apart. Add images without it",
        "every assessed image shows them, so nothing sets them apart. Add images without them",
    )
    folds = [fold for fold in ("train", "tune", "test", "reward") if any(fold in row for row in table.values())]
    judged = [name for name in table if name not in constant]
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
        subject = f"classes {first!r} and {second!r} {verb}" if mutual else f"class {first!r} {verb} {second!r}"
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
            f"a model may learn the {column} instead of the finding. Look at results for each {column}, and do not"
            f" trust them where the {column} is new"
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
