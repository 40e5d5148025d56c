"""The learning curve: one training on growing shares of its patients, and how many more would be needed.

    base: ../nih_cxr.yaml
    fractions: [0.25, 0.5, 0.75, 1.0]
    targets: {recall: 0.8, ap: 0.5}
    seeds: [0, 1, 2]

Each share holds the smaller ones, and every class in proportion; tune and test stay as they are. Every size takes the
same number of steps, so that it is the patients that differ and not the length of the training. Each seed deals the
patients out anew: the spread over seeds is also that of which patients one happened to have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from filelock import FileLock
from pydantic import Field

from medtail.config import CLOSED, apply_overrides, build_config, read_yaml
from medtail.errors import MedtailError, UsageError
from medtail.judging.bootstrap import number_patients
from medtail.judging.paired_draws import draw_systems
from medtail.judging.questions import ask
from medtail.runs import atomic_path
from medtail.seeding import stream_seed
from medtail.studies.ablation import StudyOutcome, Watch, begin_study, judge_study
from medtail.studies.arms import Arm, Change
from medtail.studies.cells import Cell
from medtail.studies.config import (
    CrossValidationFolds,
    FixedFolds,
    FoldsConfig,
    JudgeConfig,
    StudyConfig,
    training_of,
)
from medtail.studies.power_law import Growth, measure_growth
from medtail.studies.protocol import Study, fold_tables
from medtail.studies.ray_cells import Cluster
from medtail.studies.running import run_cells
from medtail.studies.scores import ScoredSet, final_sets, tune_set, whole_seeds
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.splits import assign_groups
from medtail.training.config import TrainConfig, merge, select_classes, train_config

JUDGE: Mapping[str, Any] = {
    "metrics": ["ap", "recall"],
    "levels": ["macro", "class"],
    "thresholds": {"objective": {"kind": "specificity", "at_least": 0.9}, "shrink_to": "half"},
}
"""How a curve is judged unless its file says otherwise: a sensitivity means little without the specificity it has."""
CurveMetric = Literal["ap", "auroc", "recall", "f1"]
RESAMPLES = 1000
Goal = Annotated[float, Field(gt=0.0, lt=1.0)]


@final
@dataclass(frozen=True, kw_only=True)
class CurveConfig:
    """A learning curve's file.

    Attributes:
        base: A training's YAML file, relative to the curve's.
        train: Keys of a training, laid over `base` where both are given.
        fractions: Shares of the train patients, rising, the last 1; at least three for a law to be fitted.
        targets: Figure → what is wanted of it: `recall` (sensitivity), `ap`, `auroc`, `f1`.
        budget: `steps`: every size takes as many as the whole; `epochs`: every size sees its images as often.
        seeds: Training seeds; each deals the patients out anew.
        folds: `fixed` or `cross_validation`.
        judge: How to judge; see `JUDGE` for what differs from other studies.
        title: Of the page; the file's name if None.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    base: str | None = None
    train: Mapping[str, Any] | None = None
    fractions: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (0.25, 0.5, 0.75, 1.0)
    targets: Mapping[CurveMetric, Goal] = field(default_factory=lambda: {"recall": 0.8, "ap": 0.5})
    budget: Literal["steps", "epochs"] = "steps"
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: FoldsConfig = field(default_factory=FixedFolds)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    title: str | None = None

    def __post_init__(self) -> None:
        problems = []
        given = list(self.fractions)
        if len(given) < 2 or given != sorted(set(given)) or given[-1] != 1.0:
            problems.append(f"fractions: found {given}; expected rising shares that end with 1, such as 0.25, 0.5, 1.")
        if not self.targets:
            problems.append("targets: found none; expected a figure and what is wanted of it, such as recall: 0.8.")
        missing = [metric for metric in self.targets if metric not in self.judge.metrics]
        if missing:
            problems.append(f"targets: {', '.join(missing)} is not among judge.metrics {list(self.judge.metrics)}.")
        if problems:
            raise MedtailError(" ".join(problems))


@final
@dataclass(frozen=True)
class Curve:
    """A learning curve, resolved.

    Attributes:
        study: Its arms are the shares; the whole is the reference.
        fractions: Arm → share.
        targets: Figure → goal.
        budget: What every size has alike.
    """

    study: Study
    fractions: Mapping[str, float]
    targets: Mapping[CurveMetric, float]
    budget: str


@final
@dataclass(frozen=True)
class GrowthOf:
    """How one figure of one class grows.

    Attributes:
        metric: The figure.
        class_name: The class; "" for the mean over all.
        unit: What its sizes count: `patients with it`, or `patients` for the mean.
        growth: Values, law and laws.
        has_few_patients: Whether fewer than five patients with (or without) it are there to judge by.
    """

    metric: CurveMetric
    class_name: str
    unit: str
    growth: Growth
    has_few_patients: bool = False


@final
@dataclass(frozen=True)
class CurveOutcome:
    """What a learning curve came to.

    Attributes:
        curve: The curve.
        outcome: As of any study.
        grown: Figure by figure, class by class; empty where no size is finished.
        judged: The set of images it is about, `tune` or `test`.
        summary: The short version for a terminal.
    """

    curve: Curve
    outcome: StudyOutcome
    grown: tuple[GrowthOf, ...]
    judged: str
    summary: str


def load_curve(
    path: Path | str,
    *,
    overrides: Sequence[str] = (),
    fractions: Sequence[float] | None = None,
    targets: Mapping[str, float] | None = None,
    seeds: Sequence[int] | None = None,
) -> Curve:
    """Read a learning curve's file: one of its own, or simply a training's.

    Args:
        path: The YAML file.
        overrides: Texts such as `judge.fold=test`, laid over its keys.
        fractions: Shares instead of the file's.
        targets: Goals instead of the file's.
        seeds: Training seeds instead of the file's.

    Raises:
        UsageError: The file or its training has mistakes; all are named.
    """
    path = Path(path)
    values = read_yaml(path)
    if "manifest" in values or not {"base", "train"} & values.keys():  # a training's own file
        values = {"base": path.name}
    values = apply_overrides(values, overrides)
    given: dict[str, Any] = {"fractions": fractions, "seeds": seeds}
    values |= {key: list(value) for key, value in given.items() if value}
    if targets:
        values["targets"] = dict(targets)
    if isinstance(values.get("judge") or {}, Mapping):
        judge = merge(JUDGE, values.get("judge") or {})
        wanted = values.get("targets")
        if "metrics" not in (values.get("judge") or {}) and isinstance(wanted, Mapping):
            judge["metrics"] = list(wanted) or judge["metrics"]
        values["judge"] = judge
    config = build_config(CurveConfig, values, where=path.name)
    return resolve_curve(config, name=path.name, folder=path.parent)


def resolve_curve(config: CurveConfig, *, name: str, folder: Path) -> Curve:
    """Make an arm of every share.

    Args:
        config: The curve.
        name: For messages.
        folder: Where relative paths start.

    Raises:
        UsageError: Mistakes of the training.
        MedtailError: The table cannot be read.
    """
    base = training_of(StudyConfig(base=config.base, train=config.train, arms={"all": {}}), folder=folder)
    whole = train_config(base, where=name)
    if config.budget == "steps":
        manifest = select_classes(read_manifest(whole.manifest, groups=whole.groups), whole.classes)
        rows = _train_rows(manifest, config.folds)
        epoch_rows = whole.optimizer.epoch_rows or rows
        whole = replace(whole, optimizer=replace(whole.optimizer, epoch_rows=epoch_rows))
    shares = {arm_name(share): share for share in config.fractions}
    if len(shares) < len(config.fractions):
        raise UsageError(f"{name}, fractions: found {list(config.fractions)}; two of them round to the same percent.")
    study = Study(
        name=name,
        title=config.title or f"Learning curve: {Path(name).stem.replace('_', ' ')}",
        kind="learning_curve",
        arms={arm: _arm(arm, share, whole) for arm, share in shares.items()},
        reference=arm_name(config.fractions[-1]),
        seeds=config.seeds,
        folds=config.folds,
        judge=config.judge,
    )
    return Curve(study, shares, config.targets, config.budget)


def _train_rows(manifest: Manifest, folds: FoldsConfig) -> int:
    known = manifest.folds.astype(str)
    if not isinstance(folds, CrossValidationFolds):
        return max(1, int((known == "train").sum()))
    dealt = int((~np.isin(known, ("test", "reward"))).sum())
    return max(1, dealt - dealt // folds.num_folds)


def arm_name(share: float) -> str:
    """Return the name of a share.

    Example:
        >>> arm_name(0.25), arm_name(0.125)
        ('share_25', 'share_12.5')
    """
    return f"share_{round(100 * share, 2):g}"


def _arm(name: str, share: float, config: TrainConfig) -> Arm:
    return Arm(name, config, () if share == 1.0 else (Change("share of the train patients", 1.0, share),))


# --- who is in which share --------------------------------------------------------------------------------------------


def patient_shares(manifest: Manifest, fractions: Sequence[float], *, seed: int) -> np.ndarray:
    """Deal the train patients out, so that each share holds the smaller ones and every class in proportion.

    Args:
        manifest: The table; rows outside train are in every share.
        fractions: Rising, the last 1.
        seed: Of the deal.

    Returns:
        Number of the smallest share each row is in, int64 [rows].

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": range(8), "path": "x", "patient_id": range(8),
        ...     "fold": "train", "Hernia": [1, 1, 1, 1, 0, 0, 0, 0]}))
        >>> first = patient_shares(table, [0.5, 1.0], seed=0) == 0
        >>> int(first.sum()), int(table.targets[first].sum())
        (4, 2)
    """
    rows = np.flatnonzero((manifest.folds == "train") & manifest.is_real)
    steps = np.diff([0.0, *fractions])
    dealt = assign_groups(
        manifest.targets[rows].astype(float),
        manifest.patients[rows],
        fractions=[float(step) for step in steps],
        seed=seed,
        min_positives=0,
    )
    found = np.zeros(len(manifest), dtype=np.int64)
    found[rows] = dealt
    # synthetic rows are made from all train patients: only the whole may have them
    found[(manifest.folds == "train") & ~manifest.is_real] = len(fractions) - 1
    return found


def share_file(root: Path, cell: Cell) -> Path:
    """Return the table of a cell: its fold's, with the patients outside its share taken out of train."""
    return root / "shares" / cell.arm / f"seed_{cell.seed}" / f"fold_{cell.fold}.csv"


def curve_cells(curve: Curve, root: Path) -> list[Cell]:
    """Return every cell of a begun curve with the table of its share; tables that are not there yet are written.

    Args:
        curve: The curve.
        root: Its folder.

    Raises:
        MedtailError: A table cannot be read or written.
    """
    study = curve.study
    tables = fold_tables(study, root)
    names = study.arms[study.reference].config.classes
    cells = []
    dealt: dict[tuple[int, int], np.ndarray] = {}
    order = list(curve.fractions)
    with FileLock(str(root / ".shares.lock")):
        for cell in study.cells(root):
            path = share_file(root, cell)
            if curve.fractions[cell.arm] == 1.0:
                path = Path(cell.config.manifest)
            elif not path.exists():
                table = tables[cell.fold]
                key = (cell.seed, cell.fold)
                if key not in dealt:
                    chosen = select_classes(table, names)
                    dealt[key] = patient_shares(
                        chosen, list(curve.fractions.values()), seed=stream_seed(cell.seed, "shares") % 2**31
                    )
                is_out = (table.folds == "train") & (dealt[key] > order.index(cell.arm))
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(path) as draft:
                    table.with_folds(np.where(is_out, "", table.folds)).rebased(path.parent).write(draft)
            cells.append(replace(cell, config=replace(cell.config, manifest=str(path))))
    return cells


# --- running and measuring --------------------------------------------------------------------------------------------


def run_curve(
    curve: Curve,
    out: Path | str,
    *,
    workers: int = 1,
    cluster: Cluster | None = None,
    quiet: bool = False,
    watch: Watch | None = None,
) -> CurveOutcome:
    """Train on every share, judge, fit the laws and write.

    Args:
        curve: What is to be done.
        out: A new folder, or the one in which it was begun.
        workers: Processes to spread the cells over.
        cluster: A Ray cluster to spread them over instead; None stays on this machine.
        quiet: Show no progress.
        watch: Given what is being done, returns what is told (done, total), or None.

    Returns:
        What it came to.

    Raises:
        UsageError: It is not the curve begun in the folder.
        MedtailError: Its tables are not usable.
        KeyboardInterrupt: It was interrupted; the folder is consistent.
    """
    from medtail.studies.curve_tables import curve_text, write_curve

    study = curve.study
    root = begin_study(study, out, watch=watch)
    cells = curve_cells(curve, root)
    tally = run_cells(cells, workers=workers, cluster=cluster, quiet=quiet)
    outcome = judge_study(study, root, tally, watch=watch)
    if not outcome.judged:
        return CurveOutcome(curve, outcome, (), "", outcome.summary)
    scored = _scored(curve, root, is_whole=len(tally.finished) == len(cells))
    grown = tuple(growths(curve, scored, positive_patients(curve, cells)))
    found = CurveOutcome(curve, outcome, grown, scored.name, "")
    found = replace(found, summary=curve_text(found))
    write_curve(found)
    return found


def _scored(curve: Curve, root: Path, *, is_whole: bool) -> ScoredSet:
    """Return the set the curve is about; test has been opened by the judging before, where everything is finished."""
    tune = tune_set(curve.study, root, whole_seeds(curve.study, root))
    if curve.study.judge.fold == "test" and is_whole:
        return final_sets(curve.study, root, tune)[0]
    return tune


def positive_patients(curve: Curve, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
    """Return each arm's train patients with each class, and at last all of them, mean over seeds and folds, [C + 1]."""
    counted: dict[str, list[np.ndarray]] = {arm: [] for arm in curve.fractions}
    known: dict[str, np.ndarray] = {}
    for cell in cells:
        path = cell.config.manifest
        if path not in known:
            table = select_classes(read_manifest(path, groups=cell.config.groups), cell.config.classes)
            train = table.take((table.folds == "train") & table.is_real)
            positive = train.targets == 1
            counts = [len(set(train.patients[positive[:, c]])) for c in range(positive.shape[1])]
            known[path] = np.array([*counts, len(set(train.patients))], dtype=float)
        counted[cell.arm].append(known[path])
    return {arm: np.mean(found, axis=0) for arm, found in counted.items()}


def growths(curve: Curve, scored: ScoredSet, sizes: Mapping[str, np.ndarray]) -> list[GrowthOf]:
    """Fit a law to every figure of every class, and to the means.

    Args:
        curve: The curve.
        scored: The scores of every share, on the same images.
        sizes: Arm → train patients with each class, and all, [C + 1]; from `positive_patients`.
    """
    study, truth = curve.study, scored.truth
    names = study.manifest.labels.class_names
    arms = [arm for arm in curve.fractions if arm in scored.tables]
    patients, _ = number_patients(truth.patients)
    found = []
    config = study.judge.comparison(resamples=1)
    questions = ask(truth, metrics=list(curve.targets), levels=["macro", "class"], patients=patients, groups=None)
    drawn = draw_systems(
        {arm: scored.tables[arm] for arm in arms}, questions, patients=patients, resamples=RESAMPLES,
        scheme=config.scheme, seed=study.judge.seed, seed_draw="fixed", ece_mode=config.ece_mode,
        ece_bins=config.ece_bins,
    )  # fmt: skip
    for question in questions:
        answer = drawn.answer(question)
        column = names.index(question.class_name) if question.class_name else len(names)
        # shares may have unequally many whole seeds while a curve is being run
        seeds = min(len(points) for points, _ in answer.by_seed)
        by_seed = np.stack([points[:seeds] for points, _ in answer.by_seed])
        resampled = np.stack([draws[:seeds].mean(axis=0) for _, draws in answer.by_seed])
        at = np.array([sizes[arm][column] for arm in arms])
        growth = measure_growth(at, by_seed, resampled, level=study.judge.interval, seed=study.judge.seed)
        unit = "patients with it" if question.class_name else "patients"
        is_few = question.obstacle == "too_few_patients"
        found.append(GrowthOf(question.metric, question.class_name, unit, growth, is_few))  # type: ignore[arg-type] # of `targets`
    return found


def sizes_to_draw(growth: Growth, *, reach: float) -> np.ndarray:
    """Return sizes from the smallest measured to `reach` times the largest, for a figure, [60]."""
    return np.geomspace(float(growth.sizes.min()), growth.now * reach, 60) if growth.now > 0 else np.array([math.nan])
