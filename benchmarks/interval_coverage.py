"""How often a 95 % interval holds the truth, by number of positive patients, by patient and by image.

    python benchmarks/interval_coverage.py [--repeats 600] [--out coverage.csv]

Draws data sets whose answers are known: a long tail of classes with 60, 20, 10, 5 and 2 positive patients of 400, three
images a patient that resemble each other (intraclass correlation .5), and scores that are a known distortion of the
exact posterior. AP, AUROC, F1, ECE and mAP have true values then, by integration and not by simulation. Each data set
is judged twice by `evaluate`: resampling patients, as medtail does, and resampling images, as is common. Prints a
table of coverages with their Monte Carlo error and writes every figure as CSV. About three minutes on one free core;
Ctrl-C prints what is done so far.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.intervals import IntervalMethod
from medtail.runs import atomic_path
from medtail.seeding import stream
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

METRICS = ("ap", "auroc", "f1", "ece")
UNITS = ("patient", "image")
GRID = np.linspace(-9.0, 12.0, 400_001)
"""Latent values over which truths are integrated."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A clinic whose true answers are known.

    A patient has class c or not, in all images alike. An image shows z = d·y + √ρ·(the patient's own) + √(1-ρ)·(noise),
    so that z | y is normal with mean d·y and variance 1, and images of a patient correlate by ρ. The posterior of one
    image is then exactly logit P(y | z) = d·z - d²/2 + logit π, and the score is σ(slope · that + shift).

    Attributes:
        patients: K.
        images: Of each patient.
        positives: Positive patients of each class; its prevalence is that number over K.
        separation: d, between the means of positives and negatives in standard deviations.
        icc: ρ in [0, 1).
        slope: Distortion of the logit; 1 with shift 0 gives calibrated scores.
        shift: Added to the logit.
        fixed: Exactly these numbers of positive patients in every data set, else on average.
    """

    patients: int = 400
    images: int = 3
    positives: tuple[int, ...] = (60, 20, 10, 5, 2)
    separation: float = 1.5
    icc: float = 0.5
    slope: float = 1.0
    shift: float = 1.0
    fixed: bool = True

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"{count} positive patients" for count in self.positives)

    def score(self, latent: np.ndarray, prevalence: np.ndarray | float) -> np.ndarray:
        """Return the score of latent values."""
        return expit(self.slope * self.posterior_logit(latent, prevalence) + self.shift)

    def posterior_logit(self, latent: np.ndarray, prevalence: np.ndarray | float) -> np.ndarray:
        d = self.separation
        return d * latent - d * d / 2.0 + logit(prevalence)


@dataclass(frozen=True)
class Truth:
    """A class's answers in the whole population.

    Attributes:
        threshold: Score at or above which it is called: where the true F1 is highest.
        values: Metric → true value.
    """

    threshold: float
    values: Mapping[str, float]


def truth_of(world: World, positives: int, *, bins: int = 15) -> Truth:
    """Integrate a class's true AP, AUROC, best F1, ECE and net benefit."""
    prevalence = positives / world.patients
    true, false = norm.sf(GRID - world.separation), norm.sf(GRID)  # rates of a cut at each latent value
    called = prevalence * true + (1.0 - prevalence) * false
    precision = prevalence * true / called
    # from the highest cut down; the piece between two cuts has their mean precision
    ap = float(np.sum((true[:-1] - true[1:]) * (precision[:-1] + precision[1:]) / 2.0))
    f1 = 2.0 * prevalence * true / (prevalence + called)
    best = int(np.argmax(f1))
    score = world.score(GRID, prevalence)
    middle = (score[:-1] + score[1:]) / 2.0
    mass, seen = called[:-1] - called[1:], prevalence * (true[:-1] - true[1:])
    index = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], middle, side="left")
    gaps = [np.bincount(index, weights=part, minlength=bins) for part in (seen, mass * middle)]
    at = float(score[best])
    values = {
        "ap": ap,
        "auroc": float(norm.cdf(world.separation / np.sqrt(2.0))),
        "f1": float(f1[best]),
        "ece": float(np.abs(gaps[0] - gaps[1]).sum()),
        "net_benefit": float(prevalence * true[best] - (1.0 - prevalence) * false[best] * at / (1.0 - at)),
    }
    return Truth(at, values)


def draw(world: World, *, seed: int) -> Predictions:
    """Draw a data set: `patients · images` rows, a column a class."""
    random = stream(seed, "coverage")
    classes, rows = len(world.positives), world.patients * world.images
    share = np.array(world.positives) / world.patients
    if world.fixed:
        order = np.argsort(random.random((world.patients, classes)), axis=0).argsort(axis=0)
        sick = order < np.array(world.positives)
    else:
        sick = random.random((world.patients, classes)) < share
    owner = np.repeat(np.arange(world.patients), world.images)
    own, noise = random.normal(size=(world.patients, classes))[owner], random.normal(size=(rows, classes))
    latent = world.separation * sick[owner] + np.sqrt(world.icc) * own + np.sqrt(1.0 - world.icc) * noise
    return Predictions(
        image_ids=np.array([f"image {row}" for row in range(rows)], dtype=object),
        patients=np.array([f"patient {number}" for number in owner], dtype=object),
        scores=world.score(latent, share),
        targets=sick[owner].astype(np.float64),
        labels=LabelSpace(world.class_names),
        folds=np.array(["test"] * rows, dtype=object),
    )


@dataclass
class Tally:
    """How the intervals of one metric of one class in one unit fared."""

    truth: float
    drawn: int = 0
    defined: int = 0
    too_high: int = 0
    too_low: int = 0
    width: float = 0.0

    def add(self, low: float, high: float) -> None:
        self.drawn += 1
        if np.isnan(low) or np.isnan(high):
            return
        self.defined += 1
        self.too_high += int(self.truth < low)
        self.too_low += int(self.truth > high)
        self.width += high - low

    @property
    def coverage(self) -> float:
        """Share of the defined intervals that hold the truth."""
        return 1.0 - (self.too_high + self.too_low) / self.defined if self.defined else float("nan")

    @property
    def error(self) -> float:
        """Monte Carlo standard error of the coverage."""
        share = self.coverage
        return float(np.sqrt(share * (1.0 - share) / self.defined)) if self.defined else float("nan")


Key = tuple[str, str, str]
"""Metric, class ("" for the mean over classes), unit."""


class Study:
    """Judges one data set after another and keeps the tallies."""

    def __init__(self, world: World) -> None:
        self.world = world
        counts = zip(world.class_names, world.positives, strict=True)
        self.truths = {name: truth_of(world, count) for name, count in counts}
        self.thresholds = {name: truth.threshold for name, truth in self.truths.items()}
        mean = float(np.mean([truth.values["ap"] for truth in self.truths.values()]))
        self.tallies: dict[Key, Tally] = {("ap", "", unit): Tally(mean) for unit in UNITS}
        for name, truth in self.truths.items():
            self.tallies |= {(metric, name, unit): Tally(truth.values[metric]) for metric in METRICS for unit in UNITS}

    def judge(self, *, seed: int, resamples: int, method: IntervalMethod) -> None:
        """Draw a data set, judge it by patient and by image, and note which intervals hold the truth."""
        predictions = draw(self.world, seed=seed)
        config = EvaluationConfig(bootstrap=resamples, interval_method=method, seed=seed)
        for unit in UNITS:
            owned = predictions if unit == "patient" else replace(predictions, patients=predictions.image_ids)
            found = ends(evaluate(owned, config=config, thresholds=self.thresholds, threads=1))
            for (metric, name, asked), tally in self.tallies.items():
                if asked != unit or (metric, name) not in found:
                    continue
                low, high, support = found[metric, name]
                # the true mean is of all classes: a mean of fewer has another truth
                if name or support == len(self.world.positives):
                    tally.add(low, high)


def ends(results: Results) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Return metric and class → lower end, upper end, support."""
    frame = results.frame
    frame = frame[frame["metric"].isin(METRICS) & ((frame["class"] != "") | (frame["tail_group"] == ""))]
    columns = (frame[name] for name in ("metric", "class", "low", "high", "support"))
    return {(metric, name): (low, high, support) for metric, name, low, high, support in zip(*columns, strict=True)}


def table(world: World, tallies: Mapping[Key, Tally]) -> str:
    """Lay the coverages out, a line a class, `by patient / by image` in each cell."""
    lines = [
        f"{'':22s}" + "".join(f"{metric.upper():>18s}" for metric in METRICS),
        f"{'':22s}" + f"{'patient/image':>18s}" * 4,
    ]
    for name in (*world.class_names, ""):
        cells = []
        for metric in METRICS:
            pair = [tallies.get((metric, name, unit)) for unit in UNITS]
            cells.append("/".join(f"{tally.coverage:.3f}" for tally in pair if tally is not None))
        lines.append(f"{name or 'mean (mAP)':22s}" + "".join(f"{cell:>18s}" for cell in cells))
    return "\n".join(lines)


def write(path: Path, world: World, tallies: Mapping[Key, Tally]) -> None:
    """Write every tally as a line of CSV."""
    count_of = dict(zip(world.class_names, world.positives, strict=True))
    fields = (
        "metric", "positive_patients", "unit", "truth", "coverage", "monte_carlo_error",
        "interval_above_truth", "interval_below_truth", "mean_width", "defined", "repeats",
    )  # fmt: skip
    with atomic_path(path) as temporary, Path(temporary).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        for (metric, name, unit), tally in tallies.items():
            shares = [
                count / tally.defined if tally.defined else float("nan")
                for count in (tally.too_high, tally.too_low, tally.width)
            ]
            numbers = [tally.truth, tally.coverage, tally.error, *shares]
            counts = [tally.defined, tally.drawn]
            place = [metric if name else f"mean {metric}", count_of.get(name, ""), unit]
            writer.writerow([*place, *(f"{number:.6g}" for number in numbers), *counts])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=600, help="data sets to draw")
    parser.add_argument("--resamples", type=int, default=400, help="of each")
    parser.add_argument("--method", choices=("percentile", "bca"), default="percentile")
    parser.add_argument("--icc", type=float, default=0.5, help="how alike images of a patient are")
    parser.add_argument("--images", type=int, default=3, help="of each patient")
    parser.add_argument("--vary", action="store_true", help="let the number of positive patients vary about its mean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="CSV to write")
    given = parser.parse_args()
    if given.repeats < 1 or given.resamples < 1:
        parser.error("--repeats and --resamples must be at least 1")
    world = World(icc=given.icc, images=given.images, fixed=not given.vary)
    started = time.perf_counter()
    study = Study(world)
    done = 0
    try:
        while done < given.repeats:
            study.judge(seed=given.seed + done, resamples=given.resamples, method=given.method)
            done += 1
            spent = time.perf_counter() - started
            left = spent / done * (given.repeats - done)
            now = f"{done} of {given.repeats} data sets, {spent:.0f} s, about {left:.0f} s left "
            print(f"\r{now}", end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("\nstopped: what follows is of the data sets judged so far.", end="", file=sys.stderr)
    if not done:
        return 1
    print(file=sys.stderr)
    how = "exactly" if world.fixed else "on average"
    print(
        f"coverage of {given.method} 95 % intervals, {done} data sets of {world.patients} patients x"
        f" {world.images} images, ICC {world.icc}, {given.resamples} resamples, seed {given.seed}; positive patients"
        f" {how} as named"
    )
    print(table(world, study.tallies))
    worst = 0.5 / np.sqrt(done)
    print(f"Monte Carlo standard error: {np.sqrt(0.05 * 0.95 / done):.3f} at .95, at most {worst:.3f}")
    if given.out is not None:
        write(given.out, world, study.tallies)
        print(f"{given.out}: written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
