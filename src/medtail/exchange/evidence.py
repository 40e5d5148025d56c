"""What is known of a trained model besides its weights: classes, counts, thresholds, and how it did on the test fold.

Reads a run folder as plain JSON and tables, so that a report can be written without loading the network. What the run
does not hold is None or a caution, never a guess. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.calibration_record import CALIBRATION, read_calibration
from medtail.runs import read_json
from medtail.tables.labels import LabelSpace
from medtail.tables.results import Results, read_results
from medtail.tables.tail import ClassCounts, tail_groups

NOT_TESTED: Final = "not tested"
RARITY: Final = {"head": "common", "medium": "uncommon", "tail": "rare"}
CARD: Final = "card.json"


@final
@dataclass(frozen=True, eq=False)
class ModelEvidence:
    """A model's classes and how far each can be trusted.

    Attributes:
        name: The run's name.
        digest: SHA-256 of the weights; of an ensemble, of all of them.
        version: The medtail version that trained it, "" if not recorded.
        labels: The classes, in the order of the scores.
        thresholds: Class → threshold of the scores as `predict` makes them; None if never chosen.
        counts: Images and patients of each class in training; None if not recorded.
        calibrated: Whether a calibration is stored with the model.
        note: What the model may be used for, in its card's words; "" if it has none.
        results: Of the test fold; None where it was not judged.
        cautions: What is odd about the folder.
    """

    name: str
    digest: str
    version: str
    labels: LabelSpace
    thresholds: Mapping[str, float] | None
    counts: ClassCounts | None
    calibrated: bool
    note: str
    results: Results | None
    cautions: tuple[str, ...] = ()

    @property
    def tail(self) -> Mapping[str, str]:
        """Class → `head`, `medium` or `tail`: by the stored results, else by the counts; empty if neither is known."""
        header = {} if self.results is None else self.results.header.get("tail") or {}
        stored = header.get("groups") if isinstance(header, Mapping) else None
        if isinstance(stored, Mapping) and stored:
            return {str(name): str(group) for name, group in stored.items()}
        if self.counts is None:
            return {}
        return dict(tail_groups(self.counts, labels=self.labels).group_of)

    @property
    def trust(self) -> Mapping[str, str]:
        """Class → a plain sentence on how far it can be trusted."""
        groups = self.tail
        return {
            name: trust_sentence(name, counts=self.counts, tail_group=groups.get(name), results=self.results)
            for name in self.labels.class_names
        }


def trust_sentence(
    class_name: str, *, counts: ClassCounts | None, tail_group: str | None, results: Results | None
) -> str:
    """Say in a sentence how often a class was seen in training and how well it was found in the test fold.

    Args:
        class_name: The class.
        counts: Of the train fold; None if unknown.
        tail_group: `head`, `medium` or `tail`; None if unknown.
        results: Of the test fold; None if it was not judged.

    Returns:
        A sentence without a full stop, such as "rare: 4 patients in training; test AP 0.12 [0.02, 0.45] on 3 positive
        images".

    Example:
        >>> counts = ClassCounts(("Hernia",), (5,), (4,), (1000,))
        >>> trust_sentence("Hernia", counts=counts, tail_group="tail", results=None)
        'rare: 4 patients in training; not tested'
    """
    said = []
    if counts is not None and class_name in counts.class_names:
        patients = counts.patients[counts.class_names.index(class_name)]
        said.append("never seen in training" if not patients else f"{_counted(patients, 'patient')} in training")
    said.append(_tested(class_name, results))
    rarity = RARITY.get(tail_group or "", "")
    return (f"{rarity}: " if rarity else "") + "; ".join(said)


def _tested(class_name: str, results: Results | None) -> str:
    if results is None:
        return NOT_TESTED
    fold = str(results.header.get("fold") or "test")
    found = results.rows("ap", class_name=class_name)
    if not len(found):
        return NOT_TESTED
    value, low, high, support = (float(found.iloc[0][column]) for column in ("value", "low", "high", "support"))
    if np.isnan(value):
        return f"{NOT_TESTED} (no image of the {fold} fold shows it, or all do)"
    interval = "" if np.isnan(low) or np.isnan(high) else f" [{low:.2f}, {high:.2f}]"
    seen = "" if np.isnan(support) else f" on {_counted(int(support), 'positive image')}"
    return f"{fold} AP {value:.2f}{interval}{seen}"


def _counted(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def read_evidence(run: Path | str) -> ModelEvidence:
    """Read what a run folder, or the model folder inside it, says about its model. Loads no network.

    Args:
        run: A finished run. A bare model folder has no stored results, so its classes are "not tested".

    Returns:
        The evidence; results that belong to other weights are left out with a caution.

    Raises:
        MedtailError: There is no model card, or it is damaged.

    Example:
        >>> read_evidence("runs/nowhere")
        Traceback (most recent call last):
        medtail.errors.MedtailError: runs/nowhere: no card.json; expected a run of `medtail train`, or its model folder.
    """
    run = Path(run)
    folder = run / "model" if (run / "model").is_dir() else run
    if not (folder / CARD).exists():
        raise MedtailError(f"{run}: no {CARD}; expected a run of `medtail train`, or its model folder.")
    whole = read_json(folder / CARD)
    members = whole.get("members")
    first = read_json(folder / str(members[0]) / CARD) if isinstance(members, list) and members else whole
    missing = [key for key in ("labels",) if key not in first]
    digest = whole.get("weights") if members else (whole.get("digests") or {}).get("weights")
    if missing or not isinstance(digest, str):
        raise MedtailError(f"{folder / CARD}: lacks labels or the weights' digest; expected an untouched model card.")
    labels = LabelSpace.from_json(first["labels"])
    cautions: list[str] = []
    calibration = read_calibration(folder / CALIBRATION) if (folder / CALIBRATION).exists() else None
    if calibration is not None and calibration.model != digest:
        raise MedtailError(
            f"{folder / CALIBRATION}: was fitted for other weights. Remove it, or fit it again with `medtail"
            " calibrate RUN --fit tune --replace`."
        )
    thresholds = whole.get("thresholds")
    if calibration is not None:  # thresholds chosen on raw scores mean nothing on calibrated ones
        thresholds = None if calibration.thresholds is None else dict(calibration.thresholds.values)
    results = _stored_results(run, digest, None if calibration is None else calibration.digest, cautions)
    return ModelEvidence(
        name=run.name if folder != run else (run.parent.name if run.name == "model" else run.name),
        digest=digest,
        version=str((first.get("versions") or {}).get("medtail", "")),
        labels=labels,
        thresholds=thresholds,
        counts=_counts(first.get("train_counts"), labels),
        calibrated=calibration is not None,
        note=str(first.get("note", "")),
        results=results,
        cautions=tuple(cautions),
    )


def _counts(value: Any, labels: LabelSpace) -> ClassCounts | None:
    # JSON keeps no order of keys; the counts follow the classes
    if not isinstance(value, Mapping):
        return None
    return ClassCounts.from_json({name: value.get(name) for name in labels.class_names})


def _stored_results(run: Path, digest: str, calibration: str | None, cautions: list[str]) -> Results | None:
    path = run / "results" / "test.csv"
    if not path.exists() and run.name == "model":
        path = run.parent / "results" / "test.csv"
    if not path.exists():
        return None
    results = read_results(path)
    digests = results.header.get("digests") or {}
    if digests.get("model") not in (None, digest):
        cautions.append("The stored test results belong to other weights and are left out.")
        return None
    if digests.get("calibration") != calibration:
        cautions.append("The stored test results were made before the model's calibration changed.")
    return results
