"""MedMNIST: AUC and ACC as the official evaluator defines them, with honest numbers beside them.

The official numbers are reproduced to the last digit, oddities included: labels and scores are squeezed, decisions are
score > 0.5, the AUC of a binary set looks at the last column, and one class absent from a split makes the AUC NaN. They
say little about rare classes, so the same scores are judged by `judging.evaluation` too. The collection publishes no
patients: those intervals resample images and are called so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from medtail.challenges.medmnist_files import (
    SMALLEST_PX,
    SPLITS,
    ResultName,
    Split,
    parse_result_name,
    read_scores,
    result_name,
    write_result_file,
)
from medtail.challenges.medmnist_official import official_acc, official_auc, official_class_auc
from medtail.challenges.medmnist_sets import MedmnistSet, medmnist_set
from medtail.errors import MedtailError, Problems, UsageError, did_you_mean, listing
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.runs import new_folder, write_json
from medtail.sources.medmnist import FOLDS, read_medmnist_labels
from medtail.tables.predictions import Predictions, ScoreKind, scores_from_logits
from medtail.tables.results import Results
from medtail.tables.tail import ClassCounts


@final
@dataclass(frozen=True, eq=False)
class MedmnistScore:
    """What the official evaluator says of a score file, and what medtail adds.

    Attributes:
        dataset: The data set.
        split: `train`, `val` or `test`.
        size_px: Side of the images in pixels.
        auc: Official AUC; NaN where a class is absent.
        acc: Official ACC.
        class_auc: AUC of each score column that the official mean runs over, float64 [columns].
        trivial_acc: Official ACC of calling nothing (multi-label) or always the most frequent class.
        scores: The file's numbers, float64 [N, columns], in the archive's order.
        cautions: What a reader could misread, in words.
        predictions: The scores in medtail's table; None where they are no probabilities.
        results: medtail's own numbers with image-level intervals; None where `predictions` is.
    """

    dataset: MedmnistSet
    split: Split
    size_px: int
    auc: float
    acc: float
    class_auc: np.ndarray
    trivial_acc: float
    scores: np.ndarray
    cautions: tuple[str, ...]
    predictions: Predictions | None
    results: Results | None

    def file_name(self, run: str | int) -> str:
        """Return the official name of a result file holding these scores."""
        return result_name(
            self.dataset.flag, split=self.split, auc=self.auc, acc=self.acc, run=run, size_px=self.size_px
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN becomes None."""
        columns = self.dataset.class_names if len(self.class_auc) > 1 else self.dataset.class_names[-1:]
        return {
            "flag": self.dataset.flag,
            "task": self.dataset.task,
            "split": self.split,
            "size_px": self.size_px,
            "num_rows": len(self.scores),
            "official": {"AUC": _plain(self.auc), "ACC": _plain(self.acc)},
            "class_auc": {name: _plain(value) for name, value in zip(columns, self.class_auc, strict=True)},
            "trivial_acc": self.trivial_acc,
            "cautions": list(self.cautions),
        }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def score_medmnist(
    scores_file: Path | str,
    *,
    truth: Path | str,
    flag: str | None = None,
    split: str | None = None,
    scores: ScoreKind = "probability",
    config: EvaluationConfig | None = None,
) -> MedmnistScore:
    """Score a file of scores against a MedMNIST archive.

    Args:
        scores_file: Official layout (no header, row number first) or a medtail table of scores with `image_id`.
        truth: The data set's `.npz`, such as `chestmnist.npz` or `chestmnist_64.npz`; only its labels are read.
        flag: Data set; from the name of `scores_file` or of `truth` if None.
        split: `train`, `val` or `test`; from the name of `scores_file`, else `test`, if None.
        scores: What the numbers are, for medtail's own numbers. The official ones never transform anything.
        config: How medtail judges; the defaults if None.

    Returns:
        Official and own numbers.

    Raises:
        UsageError: The data set cannot be told, or is none of the collection.
        MedtailError: The archive or the score file is faulty; all mistakes of a file at once.

    References:
        yang2023.
    """
    truth, scores_file = Path(truth), Path(scores_file)
    said = parse_result_name(scores_file)
    dataset, size_px, told = _dataset(flag, truth, said)
    chosen = _split(split, said)
    labels = read_medmnist_labels(truth, splits=[chosen])[chosen]
    _check_labels(labels, dataset, truth, chosen)
    numbers = read_scores(scores_file, dataset=dataset, split=chosen, labels=labels)
    auc = official_auc(labels, numbers, task=dataset.task)
    acc = official_acc(labels, numbers, task=dataset.task)
    trivial = official_acc(labels, _trivial_scores(labels, dataset), task=dataset.task)
    own, excuse = _own_scores(numbers, dataset, scores)
    predictions = None
    if own is not None:
        predictions = _predictions(own, labels, dataset, truth, chosen, name=scores_file.name)
    cautions = [
        *told,
        *_differing_figures(said, auc, acc),
        *([] if excuse is None else [excuse]),
        *_set_cautions(dataset, labels, trivial=trivial, auc=auc),
    ]
    return MedmnistScore(
        dataset=dataset,
        split=chosen,
        size_px=size_px,
        auc=auc,
        acc=acc,
        class_auc=official_class_auc(labels, numbers, task=dataset.task),
        trivial_acc=trivial,
        scores=numbers,
        cautions=tuple(cautions),
        predictions=predictions,
        results=None if predictions is None else evaluate(predictions, config=config),
    )


def _dataset(flag: str | None, truth: Path, said: ResultName | None) -> tuple[MedmnistSet, int, list[str]]:
    found = re.fullmatch(r"([a-z0-9]+?)(?:_(\d+))?\.npz", truth.name.lower())
    archive, size = (found[1], int(found[2] or SMALLEST_PX)) if found else (None, SMALLEST_PX)
    named = flag or (said.flag if said is not None else None) or archive
    if named is None:
        raise UsageError(f"{truth}: its name does not tell the data set. Give it with --flag, such as chestmnist.")
    try:
        dataset = medmnist_set(named)
    except UsageError as error:
        if flag is not None:
            raise
        raise UsageError(f"{error} Read from a file's name; give the data set with --flag.") from error
    cautions = []
    if said is not None and said.flag != dataset.flag:
        cautions.append(f"The score file's name says {said.flag}; scored as {dataset.flag}.")
    try:
        other = archive is not None and medmnist_set(archive).flag != dataset.flag
    except UsageError:
        other = False
    if other:
        cautions.append(f"The archive is called {truth.name}; scored as {dataset.flag}.")
    if said is not None and found is not None and said.size_px != size:
        cautions.append(f"The score file's name says {said.size_px} px images, the archive's {size} px.")
    return dataset, size, cautions


def _split(split: str | None, said: ResultName | None) -> Split:
    if split is None:
        return said.split if said is not None else "test"
    chosen = next((name for name in SPLITS if name == split), None)
    if chosen is None:
        raise UsageError(f"split {split!r}: expected train, val or test{did_you_mean(split, SPLITS)}.")
    return chosen


def _check_labels(labels: np.ndarray, dataset: MedmnistSet, truth: Path, split: Split) -> None:
    problems = Problems(truth.name)
    columns, highest = (len(dataset.class_names), 1) if dataset.is_multilabel else (1, len(dataset.class_names) - 1)
    if labels.shape[1] != columns:
        problems.add(f"array '{split}_labels': found {labels.shape[1]} columns; {dataset.flag} has {columns}.")
    if len(labels) < 2:
        problems.add(f"array '{split}_labels': found {len(labels)} rows; the official evaluator needs at least two.")
    elif labels.min() < 0 or labels.max() > highest:
        problems.add(
            f"array '{split}_labels': found labels from {labels.min()} to {labels.max()}; {dataset.flag} has 0 to"
            f" {highest}. Give the right data set with --flag."
        )
    problems.raise_if_any()


def _trivial_scores(labels: np.ndarray, dataset: MedmnistSet) -> np.ndarray:
    """Return scores that look at no image: nothing called, or always the split's most frequent class."""
    if dataset.is_multilabel:
        return np.zeros(labels.shape)
    frequent = int(np.bincount(labels[:, 0]).argmax())
    return np.tile(np.eye(len(dataset.class_names))[frequent], (len(labels), 1))


def _own_scores(numbers: np.ndarray, dataset: MedmnistSet, kind: ScoreKind) -> tuple[np.ndarray | None, str | None]:
    """Return a probability a class, float64 [N, C], or None and why not."""
    groups = () if dataset.is_multilabel else (tuple(range(len(dataset.class_names))),)
    if numbers.shape[1] < len(dataset.class_names):  # a binary set's single column
        numbers = np.column_stack([np.zeros(len(numbers)) if kind != "probability" else 1.0 - numbers, numbers])
    if kind != "probability":
        return scores_from_logits(numbers, (tuple(range(numbers.shape[1])),) if kind == "softmax" else groups), None
    outside = (numbers < 0.0) | (numbers > 1.0)
    if not outside.any():
        return numbers, None
    found = float(numbers[outside][0])
    half = (
        " ACC was taken at score > 0.5 of them all the same, as the official evaluator does."
        if dataset.task in ("multi-label, binary-class", "binary-class")
        else ""
    )
    return None, (
        f"Scores are no probabilities (found {found:g}), so only the official numbers are given.{half} If they are"
        f" logits, say --scores logits or, for classes that exclude each other, --scores softmax."
    )


def _predictions(
    scores: np.ndarray, labels: np.ndarray, dataset: MedmnistSet, truth: Path, split: Split, *, name: str
) -> Predictions:
    ids = np.array([f"{split}_{row:06d}" for row in range(len(labels))], dtype=object)
    return Predictions(
        image_ids=ids,
        patients=ids,
        scores=scores,
        targets=_one_column_a_class(labels, dataset),
        labels=dataset.labels,
        folds=np.full(len(labels), FOLDS[split], dtype=object),
        has_patients=False,
        train_counts=_train_counts(dataset, truth),
        name=name,
    )


def _one_column_a_class(labels: np.ndarray, dataset: MedmnistSet) -> np.ndarray:
    if dataset.is_multilabel:
        return labels.astype(np.float64)
    return np.asarray(labels == np.arange(len(dataset.class_names)), dtype=np.float64)


def _train_counts(dataset: MedmnistSet, truth: Path) -> ClassCounts | None:
    """Count the train split's classes; None where the archive was cut down to the scored split."""
    try:
        labels = read_medmnist_labels(truth, splits=["train"])["train"]
    except MedtailError:
        return None
    _check_labels(labels, dataset, truth, "train")
    positives = tuple(int(count) for count in _one_column_a_class(labels, dataset).sum(axis=0))
    return ClassCounts(dataset.labels.class_names, positives, positives, (len(labels),) * len(positives))


def _differing_figures(said: ResultName | None, auc: float, acc: float) -> list[str]:
    if said is None or not said.auc:
        return []
    differing = [
        f"{name} {claimed} (found {value:.3f})"
        for name, claimed, value in (("AUC", said.auc, auc), ("ACC", said.acc, acc))
        if claimed != f"{value:.3f}"
    ]
    return [f"The score file's name says {listing(differing)}: the name or the file was changed."] if differing else []


def _set_cautions(dataset: MedmnistSet, labels: np.ndarray, *, trivial: float, auc: float) -> list[str]:
    found = []
    if dataset.is_multilabel:
        found.append(
            f"ACC rewards predicting nothing: calling no finding in any image has ACC {trivial:.4f} here. Read AP and"
            f" recall of each finding instead."
        )
    else:
        found.append(f"Always calling the most frequent class has ACC {trivial:.4f} here.")
    if dataset.flag == "breastmnist":
        found.append(
            "Class 1 of BreastMNIST is 'normal, benign': the last score column, which the official AUC and ACC look"
            " at, is the score of NO cancer. Malignant is class 0."
        )
    if dataset.task == "ordinal-regression":
        found.append("The grades are ordered; the official numbers treat them as unordered, so near misses count full.")
    if np.isnan(auc):
        true = _one_column_a_class(labels, dataset)
        one_sided = (true.sum(axis=0) == 0) | (true.sum(axis=0) == len(true))
        names = [name for name, absent in zip(dataset.class_names, one_sided, strict=True) if absent]
        found.append(
            f"The official AUC is NaN because its mean includes classes of which the split has no positive or no"
            f" negative image: {listing(names, limit=12)}."
        )
    found.append(
        "MedMNIST publishes no patients: intervals resample images, and are too short where images share a patient."
    )
    return found


def write_score(score: MedmnistScore, folder: Path | str, *, run: str | int = 1) -> Path:
    """Write a score: the official result file, and medtail's `results.csv` and `predictions.parquet`.

    Args:
        score: From `score_medmnist`.
        folder: New or empty.
        run: What stands after `@` in the official name.

    Returns:
        The folder.

    Raises:
        UsageError: The folder holds something, or `run` does not fit a file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", str(run)):
        raise UsageError(f"run {run!r}: stands in a file name; expected letters, digits, '-' and '_' only.")
    folder = new_folder(folder)
    write_result_file(folder, score.file_name(run), score.scores)
    write_json(folder / "medmnist.json", score.to_json())
    if score.results is not None and score.predictions is not None:
        score.predictions.write(folder / "predictions.parquet")
        score.results.write(folder / "results.csv")
    return folder


def score_text(score: MedmnistScore) -> str:
    """Render the official numbers and the cautions for a terminal; medtail's own follow from `summary_text`.

    Args:
        score: From `score_medmnist`.

    Returns:
        Lines without a final line end.
    """
    dataset = score.dataset
    names: Sequence[str] = dataset.class_names if len(score.class_auc) > 1 else dataset.class_names[-1:]
    width = max(len(name) for name in names)
    lines = [
        f"{dataset.flag}, split {score.split}: {len(score.scores):,} images of {score.size_px} px, {dataset.task}",
        f"official AUC {score.auc!r}",
        f"official ACC {score.acc!r}",
        "",
        *(f"  {name:<{width}}  AUC {value:.4f}" for name, value in zip(names, score.class_auc, strict=True)),
        "",
        *(f"! {caution}" for caution in score.cautions),
    ]
    return "\n".join(lines)


def dumps(score: MedmnistScore) -> str:
    """Return the score and medtail's own results as a JSON text."""
    value = score.to_json()
    if score.results is not None:
        value["results"] = json.loads(score.results.frame.to_json(orient="records"))
        value["header"] = dict(score.results.header)
    return json.dumps(value, indent=1)
