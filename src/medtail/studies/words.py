"""What a study shows, in plain words: of each arm whether it is better, worse, or not told apart; and what to mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from medtail.errors import listing
from medtail.judging.comparison_words import pair_statement, place_words
from medtail.studies.arms import Change
from medtail.studies.config import CrossValidationFolds
from medtail.studies.judged import Judged
from medtail.studies.protocol import Study

REFERENCE, BETTER, WORSE = "reference", "better", "worse"
SAME, FEW, PENDING = "no difference shown", "too few positives to say", "not finished"


@final
@dataclass(frozen=True)
class Verdict:
    """What is known of an arm.

    Attributes:
        arm: Its name.
        word: One of the words of this module.
        sentence: The lead metric's difference, with its interval.
        classes: In which classes and tail groups it is ahead or behind.
    """

    arm: str
    word: str
    sentence: str
    classes: str = ""


def verdicts(study: Study, judged: Judged) -> list[Verdict]:
    """Say of every arm what one set of images shows against the reference.

    The first metric over all classes decides (the first question there is, where means are not asked for), after
    Holm's correction.

    Args:
        study: The study.
        judged: The numbers of a set of images.
    """
    found = []
    there = set(judged.values["arm"])
    for arm in study.arms:
        if arm == study.reference:
            found.append(Verdict(arm, REFERENCE, "what the others are compared with"))
        elif arm not in there or judged.comparison is None:
            found.append(Verdict(arm, PENDING, "its cells, or the reference's, are not all finished"))
        else:
            found.append(_verdict(arm, judged))
    return found


def _verdict(arm: str, judged: Judged) -> Verdict:
    assert judged.comparison is not None
    rows = judged.differences[judged.differences["system_a"] == arm]
    lead = rows.iloc[0]
    word = {
        "a_ahead": BETTER, "b_ahead": WORSE, "too_few_patients": FEW, "undefined": FEW,
    }.get(str(lead["verdict"]), SAME)  # fmt: skip
    sentence = pair_statement(lead, judged.comparison).text
    others = rows[(rows["metric"] == lead["metric"]) & ((rows["class"] != "") | (rows["tail_group"] != ""))]
    return Verdict(arm, word, sentence, _elsewhere(others))


def _elsewhere(rows: Any) -> str:
    if not len(rows):
        return ""
    parts = []
    for verdict, word in (("a_ahead", "ahead in"), ("b_ahead", "behind in")):
        places = [_place(row) for _, row in rows[rows["verdict"] == verdict].iterrows()]
        parts.append(f"{word} {listing(places, limit=8)}" if places else f"{word} none")
    untested = int(rows["verdict"].isin(["too_few_patients", "undefined"]).sum())
    if untested == len(rows):
        return "no tail group or class has enough patients to be tested"
    text = f"{parts[0]}, {parts[1]} of {len(rows) - untested} tail groups and classes tested"
    return text + (f"; {untested} with too few patients" if untested else "")


def _place(row: Any) -> str:
    return str(row["class"]) or f"the {row['tail_group']} classes"


def change_words(changes: Sequence[Change]) -> list[str]:
    """Write an arm's changes for people: of a section that became another kind, the kind and what it is set to.

    Example:
        >>> change_words([Change("loss.kind", "bce", "focal"), Change("loss.gamma", None, 2.0)])
        ['loss.kind: bce → focal (gamma 2.0)']
        >>> change_words([Change("optimizer.epochs", 20, 2)])
        ['optimizer.epochs: 20 → 2']
    """
    replaced = [change.key.removesuffix("kind") for change in changes if change.key.endswith(".kind")]
    told = []
    for change in changes:
        section = next((s for s in replaced if change.key.startswith(s)), None)
        if section is None:
            told.append(change.text())
        elif change.key == f"{section}kind":
            parts = [c for c in changes if c.key.startswith(section) and c is not change and c.arm is not None]
            settings = ", ".join(f"{c.key.removeprefix(section)} {c.arm}" for c in parts)
            told.append(change.text() + (f" ({settings})" if settings else ""))
    return told


def lead_words(study: Study, judged: Judged) -> str:
    """Name what the verdicts are about."""
    if judged.comparison is None or not len(judged.differences):
        return study.judge.metrics[0]
    return place_words(judged.differences.iloc[0])


def set_words(study: Study, name: str) -> str:
    """Say what the images of a set are, and which models scored them.

    Example:
        >>> from medtail.studies.arms import resolve_arms
        >>> arms = resolve_arms({"manifest": "a.csv"}, {"full": {}}, where="s.yaml")
        >>> set_words(Study("s.yaml", "s", "ablation", arms, "full", (0,)), "test")
        'the test fold, opened once for all arms'
    """
    many = study.is_cross_validated
    if name == "tune":
        return (
            "tune, out of fold: each image scored by the model that did not learn from it" if many else "the tune fold"
        )
    told = f", scores averaged over the {study.num_folds} fold models" if many else ""
    if name == "test":
        return f"the test fold, opened once for all arms{told}"
    return f"external images {name.removeprefix('external_')!r}{told}"


def cautions(
    study: Study,
    judged: Sequence[Judged],
    *,
    failed: Mapping[str, str],
    unfinished: int,
    batch_dependent: Sequence[str] = (),
) -> list[str]:
    """Say what a reader of the tables must know.

    Args:
        study: The study.
        judged: The sets that were judged.
        failed: Cell → why it failed.
        unfinished: Cells that are neither finished nor failed.
        batch_dependent: Arms in which an image's scores depend on the other images of its batch.
    """
    said = []
    if failed:
        first = next(iter(failed.items()))
        said.append(f"{len(failed)} cells failed, such as {first[0]}: {first[1]}")
    if unfinished:
        said.append(f"{unfinished} cells are not finished; arms and seeds without all their folds are left out.")
    if batch_dependent:
        said.append(
            f"Scores of {listing(batch_dependent)} depend on which images share a batch: they are no function of the"
            " image, and change with the order of the rows."
        )
    names = [one.name for one in judged]
    if "tune" in names:
        keepers = [name for name, arm in study.arms.items() if arm.config.optimizer.keep != "last"]
        if keepers:
            said.append(
                f"Values on tune flatter {listing(keepers)}: the epoch that was kept is the best one on those very rows"
                " (`optimizer.keep: best` or `best_f1`). With `keep: last` nothing but thresholds is chosen there."
            )
        said.append(
            "Precision, recall, F1 and accuracy on tune stand at thresholds chosen on those very rows, alike for all"
            " arms; the columns at 0.5 do not."
        )
    if isinstance(study.folds, CrossValidationFolds):
        said.append(
            "The models of a cross-validation share most of their training images; the interval of a mean resamples"
            " patients and seeds, not folds. `p over folds` is the corrected t-test over folds and seeds."
        )
    if len(study.seeds) == 1:
        said.append("One training seed: what another training would have given is in no interval.")
    for one in judged:
        said += [f"{_title(one.name)}: {warning}" for warning in one.header.get("warnings", ())]
    return list(dict.fromkeys(said))


def _title(name: str) -> str:
    return name.replace("_", " ", 1)


def undefined_reason(row: Mapping[str, Any]) -> str:
    """Say why a value of a row of `tables.csv` is not there.

    Example:
        >>> undefined_reason({"class": "FTC", "images": 40, "positives": 0})
        'no positives'
    """
    if not row["images"]:
        return "not assessed"
    if not row["positives"]:
        return "no positives"
    if row["class"] and row["positives"] == row["images"]:
        return "no negatives"
    if str(row.get("metric", "")).startswith("precision"):
        return "nothing called"
    return "undefined"


def number_text(value: float, *, digits: int = 3) -> str:
    """Write a number, a NaN as a dash.

    Example:
        >>> number_text(0.12345), number_text(float("nan"))
        ('0.123', '–')
    """
    return "–" if np.isnan(value) else f"{value:.{digits}f}"
