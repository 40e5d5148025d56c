"""How a study turns scores into decisions: by the judge's own rule, or by that of a benchmark.

The judge's: the highest score of an exclusive group, elsewhere a threshold chosen on tune. Thyro-LMD's: the same inside
groups, thresholds of the foci shrunken toward one half, and `foci_none` only where no focus outscores it, so that every
decision is a valid report. Its column at 0.5 is raw, without any rule. Beside F1 its reports have numbers of their own,
such as the kappa of the TI-RADS level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from medtail.challenges.thyro_lmd_decoding import call_at_half, decode, foci_thresholds, invalid_groups
from medtail.challenges.thyro_lmd_labels import GROUPS, LABELS, group_columns, head_body_tail
from medtail.challenges.thyro_lmd_levels import level_rows, nodule_context
from medtail.errors import MedtailError, listing
from medtail.judging.bootstrap import PatientWeights, patient_sums, resample_sums
from medtail.judging.counts import ratio
from medtail.judging.decisions import Decider, decide
from medtail.judging.paired_draws import Further
from medtail.judging.questions import Question
from medtail.judging.thresholds import fit_thresholds
from medtail.studies.config import JudgeConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TailGroups

COMPARED = "level_kappa_quadratic"
"""The number of whole reports that is compared between arms; the others are only shown."""
SHOWN = (COMPARED, "level_accuracy", "fna_accuracy", "invalid_report_rate")
EXACT = "exact_match"


@final
@dataclass(frozen=True)
class Decoding:
    """From scores to decisions.

    Attributes:
        choose: Thresholds, from rows of tune.
        call: Decisions at those.
        call_at_half: Decisions at 0.5.
        questions: What is asked of whole reports; none for the judge's own rule.
        further: Their numbers.
    """

    choose: Callable[[Predictions], Mapping[str, float]]
    call: Decider
    call_at_half: Decider
    questions: tuple[Question, ...] = ()
    further: Further | None = None

    @property
    def compared(self) -> tuple[Question, ...]:
        """Those of its questions in which arms are compared."""
        return tuple(question for question in self.questions if question.metric == COMPARED)


def chooser(config: JudgeConfig) -> Callable[[Predictions], Mapping[str, float]]:
    """Return how thresholds are chosen.

    Args:
        config: How the study is judged.
    """
    if config.protocol is None:
        return lambda tune: fit_thresholds(tune, config.thresholds).values
    return _report_thresholds


def decoding_of(config: JudgeConfig, manifest: Manifest, labels: LabelSpace) -> Decoding:
    """Return how a study decides.

    Args:
        config: How the study is judged.
        manifest: Rows with what the numbers of whole reports need beside the labels.
        labels: The classes that are judged.
    """
    if config.protocol is None:
        return Decoding(chooser(config), decide, lambda table: decide(replace(table, thresholds=None)))
    everywhere = tuple(range(labels.num_classes))
    asked = [Question(metric, "macro", "", "", everywhere) for metric in SHOWN]
    asked += [Question(EXACT, "macro", group, "", _columns(labels, group)) for group in GROUPS]

    def further(table: Predictions, patients: np.ndarray, weights: PatientWeights) -> Mapping[tuple[str, str], Any]:
        return report_numbers(table, manifest, patients=patients, weights=weights)

    return Decoding(chooser(config), call_reports, _call_raw, tuple(asked), further)


def check_protocol(config: JudgeConfig, labels: LabelSpace) -> None:
    """Check that a protocol's labels are those that are judged.

    Args:
        config: How the study is judged.
        labels: The classes that are learnt.

    Raises:
        MedtailError: Labels are missing or unknown, or only some are to be judged.
    """
    if config.protocol is None:
        return
    differing = sorted(set(LABELS.class_names) ^ set(labels.class_names))
    if differing:
        raise MedtailError(
            f"judge.protocol {config.protocol!r}: expected the twenty labels of Thyro-LMD; missing or unknown here:"
            f" {listing(differing)}."
        )
    if config.classes is not None and set(config.classes) != set(LABELS.class_names):
        raise MedtailError(f"judge.classes: the protocol {config.protocol!r} decides whole reports; leave the key out.")


def protocol_groups(config: JudgeConfig, truth: Predictions) -> TailGroups | None:
    """Return the protocol's head, body and tail; None where it has no say."""
    if config.protocol is None or config.tail_rule != "auto" or config.tail_cuts is not None:
        return None
    return None if truth.train_counts is None else head_body_tail(truth.train_counts.select(truth.labels.class_names))


def call_reports(table: Predictions) -> np.ndarray:
    """Decide valid thyroid reports, in the table's own order of labels.

    Args:
        table: Scores of the twenty labels, with thresholds of the foci (0.5 where it has none).

    Returns:
        bool [N, 20].

    Example:
        >>> ids = np.array(["a"], dtype=object)
        >>> table = Predictions(ids, ids, np.full((1, 20), 0.1), np.zeros((1, 20)), LABELS, ids)
        >>> int(call_reports(table).sum()), int(_call_raw(table).sum())
        (5, 0)
    """
    order = _protocol_order(table.labels)
    called = np.empty(table.scores.shape, dtype=bool)
    called[:, order] = decode(table.scores[:, order], thresholds=table.thresholds)
    return called


def report_numbers(
    table: Predictions, manifest: Manifest, *, patients: np.ndarray, weights: PatientWeights
) -> dict[tuple[str, str], tuple[float, np.ndarray]]:
    """Compute what is said of whole reports, on the rows and in every resample.

    Args:
        table: Scores and targets of the twenty labels.
        manifest: The rows' sizes and undetermined groups, in any order.
        patients: Patient numbers, int [N].
        weights: Of the patients.

    Returns:
        (metric, group of labels or "") → value and float64 [B]: kappa and accuracy of the TI-RADS level, accuracy of
        the needle advice (NaN where no size is known), exact matches a group, and the share of invalid reports at 0.5.
    """
    order = _protocol_order(table.labels)
    scores, targets = table.scores[:, order], table.targets[:, order]
    decoded = decode(scores, thresholds=table.thresholds)

    def sums(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        of_patients = patient_sums(columns.astype(np.float64), patients, weights.num_patients)
        return of_patients.sum(axis=0), resample_sums(of_patients, weights)

    def share(marked: np.ndarray, among: np.ndarray) -> tuple[float, np.ndarray]:
        point, drawn = sums(np.stack([marked & among, among], axis=1))
        return float(ratio(point[0], point[1])), ratio(drawn[0], drawn[1])

    rows, _ = level_rows(
        decoded,
        targets,
        np.zeros(len(scores), dtype=bool),
        nodule_context(manifest, table.image_ids),
        sums=sums,
        interval=lambda value, drawn: {"value": value, "drawn": drawn},
    )
    found = {(str(row["metric"]), ""): (float(row["value"]), np.asarray(row["drawn"])) for row in rows}
    everything = np.ones(len(scores), dtype=bool)
    invalid = np.any(list(invalid_groups(call_at_half(scores)).values()), axis=0)
    found["invalid_report_rate", ""] = share(invalid, everything)
    for group in GROUPS:
        columns = group_columns(group)
        assessed = ~np.isnan(targets[:, columns]).any(axis=1)
        found[EXACT, group] = share((decoded[:, columns] == (targets[:, columns] == 1)).all(axis=1), assessed)
    return found


def _report_thresholds(tune: Predictions) -> dict[str, float]:
    """Return 0.5, but for the foci: inside a group the highest score decides."""
    return dict.fromkeys(tune.labels.class_names, 0.5) | foci_thresholds(tune)


def _call_raw(table: Predictions) -> np.ndarray:
    return call_at_half(table.scores)


def _protocol_order(labels: LabelSpace) -> list[int]:
    return [labels.index(name) for name in LABELS.class_names]


def _columns(labels: LabelSpace, group: str) -> tuple[int, ...]:
    order: Sequence[int] = _protocol_order(labels)
    return tuple(order[column] for column in group_columns(group))
