"""The tests of the plan, fixed beforehand: what is asked, when the part would be said to work, and what came out.

Each row reads numbers that are there already: differences with their corrected p, records of generators, schedules of
levels. A row whose numbers a study did not make says so, and how to get them. A null result is a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from medtail.judging.comparison_words import interval_text
from medtail.runs import read_json
from medtail.sampling.replay import read_schedule
from medtail.studies.genaug_arms import AT, ORACLE, REAL, RL, GenaugPlan
from medtail.studies.genaug_cells import SCHEDULE
from medtail.studies.genaug_gates import QUALITY, drop_of, gate_file
from medtail.studies.genaug_material import Material, careless
from medtail.studies.genaug_scores import METRICS, TESTED, Contrast, Difference, Measured
from medtail.studies.genaug_tracks import overlaps
from medtail.tables.generators import RECORD
from medtail.tables.labels import short_name
from medtail.tables.manifest import read_manifest
from medtail.tables.pools import MANIFEST

Verdict = Literal["works", "does not work", "not shown", "not measured here"]
MAIN, TAIL = TESTED
HEAD_LOSS = 0.01
"""Loss of head recall that the stability term must prevent."""
MOST_DROP = 0.03
"""Macro-F1 that an autoencoder may cost."""
RIGHT_WAY = 0.9
"""Share of seeds in which the learnt levels must go the right way."""


@final
@dataclass(frozen=True)
class Finding:
    """A row of the plan.

    Attributes:
        part: What is tested.
        test: How.
        works_if: Fixed beforehand.
        found: Numbers.
        verdict: One of `Verdict`.
    """

    part: str
    test: str
    works_if: str
    found: str
    verdict: Verdict


@final
@dataclass(frozen=True)
class Evidence:
    """Everything the rows read.

    Attributes:
        plan: The arms.
        material: Generators, pools, tables.
        measured: The arms on test.
        curve: Trainings at one level for all, on test; None where there are none.
        differences: All contrasts.
        alpha: Share of false claims accepted.
    """

    plan: GenaugPlan
    material: Material
    measured: Measured
    curve: Measured | None
    differences: Sequence[Difference]
    alpha: float

    def difference(self, arm: str, against: str, metric: str) -> Difference | None:
        """Return a contrast's answer; None where it was not asked."""
        wanted = Contrast(arm, against, metric)
        return next((d for d in self.differences if d.contrast == wanted), None)

    def text(self, arm: str, against: str, metric: str) -> str:
        """Say a difference with its interval and corrected p."""
        d = self.difference(arm, against, metric)
        assert d is not None, "asked by the caller"
        told = interval_text(d.found.value, d.found.low, d.found.high)
        return f"{arm} − {against}, {metric.replace('_', ' ')}: {told}, p after Holm {d.p_holm:.3g}"

    def ahead(self, arm: str, against: str, metric: str) -> bool:
        """Return whether an arm is ahead after the correction."""
        d = self.difference(arm, against, metric)
        return d is not None and d.word(alpha=self.alpha) == "better"


def findings(evidence: Evidence) -> list[Finding]:
    """Answer every row of the plan.

    Args:
        evidence: What was measured.
    """
    rows: tuple[Callable[[Evidence], Finding], ...] = (
        _splits, _autoencoder, _class_control, _synthetic_alone, _sketch_kept, _generators, _no_copying,
        _synthesis_helps, _over_use, _sampler_learns, _sampler_worth, _dynamic, _stability, _reward_hacking, _whole,
    )  # fmt: skip
    return [row(evidence) for row in rows]


def _missing(part: str, test: str, works_if: str, arms: str) -> Finding:
    return Finding(part, test, works_if, f"needs {arms}", "not measured here")


def _splits(e: Evidence) -> Finding:
    counted: dict[str, int] = {"patients_in_two_folds": 0, "generator_leaks": 0}
    for plan in e.plan.trainings.values():
        for fold in range(e.material.tables.num_folds):
            for key, n in overlaps(read_manifest(e.material.table(plan, fold))).items():
                counted[key] = max(counted[key], n)
    found = f"patients in two folds: {counted['patients_in_two_folds']}; generator leaks: {counted['generator_leaks']}"
    verdict: Verdict = "works" if not any(counted.values()) else "does not work"
    return Finding("splits", "patients across folds, and between generator and shut folds", "none", found, verdict)


def _class_control(e: Evidence) -> Finding:
    test, works_if = "filling with the pool, against the same images under shuffled labels", "ahead in macro-F1"
    if e.difference("fill", "shuffled", MAIN) is None:
        return _missing("class control", test, works_if, "the arms fill and shuffled")
    behind = _no_better(e, "fill", "shuffled")
    found = e.text("fill", "shuffled", MAIN) + (f"; recall no higher for {', '.join(behind)}" if behind else "")
    verdict: Verdict = "works" if e.ahead("fill", "shuffled", MAIN) else "not shown"
    return Finding("class control", test, works_if, found, verdict)


def _synthetic_alone(e: Evidence) -> Finding:
    test = "trained on the pool alone, tested on real images, against shuffled labels"
    works_if = "ahead in macro-F1, recall higher in every class"
    one, other = "synthetic_only", "synthetic_shuffled"
    if e.difference(one, other, MAIN) is None:
        return _missing("synthetic to real", test, works_if, f"the arms {one} and {other}")
    behind = _no_better(e, one, other)
    found = e.text(one, other, MAIN) + (f"; recall no higher for {', '.join(behind)}" if behind else "")
    verdict: Verdict = "works" if e.ahead(one, other, MAIN) and not behind else "not shown"
    return Finding("synthetic to real", test, works_if, found, verdict)


def _no_better(e: Evidence, arm: str, against: str) -> list[str]:
    """Return the classes in which an arm's recall is no higher than another's."""
    return [
        short_name(name)
        for name in e.measured.classes
        if e.measured.figure(arm, f"recall:{name}").value <= e.measured.figure(against, f"recall:{name}").value
    ]


def _synthesis_helps(e: Evidence) -> Finding:
    test, works_if = "filling against over-sampling at identical class counts", "ahead in tail recall"
    if e.difference("fill", "oversampling", TAIL) is None:
        return _missing("synthesis helps", test, works_if, "the arms fill and oversampling")
    verdict: Verdict = "works" if e.ahead("fill", "oversampling", TAIL) else "not shown"
    return Finding("synthesis helps", test, works_if, e.text("fill", "oversampling", TAIL), verdict)


def _over_use(e: Evidence) -> Finding:
    test, works_if = "macro-F1 against one level for all", "largest inside the range; else the sampler has no job"
    if e.curve is None or len(e.curve.arms) < 3:
        return _missing("over-use is real", test, works_if, "`curve: true`")
    points = [(level, e.curve.figure(name, MAIN).value) for level, name in e.plan.curve()]
    best = max(range(len(points)), key=lambda i: points[i][1])
    told = ", ".join(f"{level:g}: {value:.3f}" for level, value in points)
    inside = 0 < best < len(points) - 1
    found = f"{told}. Largest at {points[best][0]:g}" + ("" if inside else ": the sampler has no job here")
    return Finding("over-use is real", test, works_if, found, "works" if inside else "does not work")


def schedules(e: Evidence, training: str) -> dict[tuple[int, int], np.ndarray]:
    """Read the levels a training's policy learnt: (seed, fold) → float64 [rounds, classes]."""
    found = {}
    for seed in e.material.config.seeds:
        for fold in range(e.material.tables.num_folds):
            path = e.material.root / "cells" / training / f"seed_{seed}" / f"fold_{fold}" / SCHEDULE
            if path.exists():
                schedule = read_schedule(path)
                order = [schedule.class_names.index(name) for name in e.measured.classes]
                found[seed, fold] = schedule.levels[:, order]
    return found


def _sampler_learns(e: Evidence) -> Finding:
    test = "perfect pools for some classes, careless ones for the others"
    works_if = f"higher levels for the perfect ones in at least {RIGHT_WAY:.0%} of the seeds"
    learnt = schedules(e, "rl_mixed")
    if not learnt:
        return _missing("sampler learns", test, works_if, "the arm rl_mixed")
    bad = np.isin(e.measured.classes, careless(e.material.tables.manifest(0)))
    apart = [float(levels[:, ~bad].mean() - levels[:, bad].mean()) for levels in learnt.values()]
    right = sum(value > 0 for value in apart)
    found = f"{right} of {len(apart)} the right way; mean level perfect − careless {np.mean(apart):+.3f}"
    return Finding("sampler learns", test, works_if, found, "works" if right >= RIGHT_WAY * len(apart) else "not shown")


def _sampler_worth(e: Evidence) -> Finding:
    test, works_if = "the policy against every baseline at equal steps", "ahead of all in macro-F1"
    rivals = [d.contrast.against for d in e.differences if d.contrast.arm == RL and d.contrast.metric == MAIN]
    if not rivals:
        return _missing("sampler worth it", test, works_if, "the arm rl and baselines")
    beaten = [name for name in rivals if e.ahead(RL, name, MAIN)]
    rest = [name for name in rivals if name not in beaten]
    found = f"ahead of {len(beaten)} of {len(rivals)}" + (f"; not of {', '.join(rest)}" if rest else "")
    return Finding("sampler worth it", test, works_if, found, "works" if not rest else "not shown")


def _dynamic(e: Evidence) -> Finding:
    test, works_if = "the schedule against its average and its reversal", "ahead of both in macro-F1"
    if any(e.difference(RL, name, MAIN) is None for name in ("frozen", "reversed")):
        return _missing("dynamic", test, works_if, "the arms rl, frozen and reversed")
    found = "; ".join(e.text(RL, name, MAIN) for name in ("frozen", "reversed"))
    both = all(e.ahead(RL, name, MAIN) for name in ("frozen", "reversed"))
    return Finding("dynamic", test, works_if, found, "works" if both else "not shown")


def _stability(e: Evidence) -> Finding:
    test, works_if = "head recall with and without the stability term", f"with it, no loss above {HEAD_LOSS:g}"
    if RL not in e.measured.arms:
        return _missing("stability", test, works_if, "the arm rl")
    real = e.measured.figure(REAL, "head_recall").value
    told = [f"real only {real:.3f}", f"with it {e.measured.figure(RL, 'head_recall').value:.3f}"]
    if "no_stability" in e.measured.arms:
        told.append(f"without {e.measured.figure('no_stability', 'head_recall').value:.3f}")
    apart, _ = e.measured.difference(RL, REAL, "head_recall")
    told.append(f"rl − real {interval_text(apart.value, apart.low, apart.high)}")
    verdict: Verdict = "works" if apart.low >= -HEAD_LOSS else "not shown"
    verdict = "does not work" if apart.high < -HEAD_LOSS else verdict
    return Finding("stability", test, works_if, "; ".join(told), verdict)


def _reward_hacking(e: Evidence) -> Finding:
    test, works_if = "reward score minus tune score, by round", "the gap does not grow"
    gaps = reward_gaps(e)
    if not gaps:
        return _missing("reward hacking", test, works_if, "the arm rl, with tune scores of its rounds")
    slopes = [float(np.polyfit(np.linspace(0, 1, len(gap)), gap, 1)[0]) for gap in gaps if len(gap) > 1]
    mean, spread = float(np.mean(slopes)), float(np.std(slopes, ddof=1)) if len(slopes) > 1 else float("nan")
    error = 2 * spread / np.sqrt(len(slopes))
    grows = mean > 0 and not mean - error <= 0
    found = f"gap grows by {mean:+.3f} (± {error:.3f}, two standard errors) over the rounds, {len(slopes)} runs"
    return Finding("reward hacking", test, works_if, found, "does not work" if grows else "works")


def reward_gaps(e: Evidence) -> list[np.ndarray]:
    """Return for each run of the policy the gap between its reward and its tune score by round, where both are kept."""
    import pandas as pd

    found = []
    for seed in e.material.config.seeds:
        for fold in range(e.material.tables.num_folds):
            path = e.material.root / "cells" / RL / f"seed_{seed}" / f"fold_{fold}" / "policy" / "rounds.csv"
            if path.exists():
                table = pd.read_csv(path)
                if {"team", "team_tune"} <= set(table.columns):
                    kept = table[table["kept"] == 1] if "kept" in table.columns else table
                    gap = (kept["team"] - kept["team_tune"]).to_numpy(dtype=float)
                    found.append(gap[np.isfinite(gap)])
    return [gap for gap in found if len(gap)]


def _generators(e: Evidence) -> Finding:
    test, works_if = "arms of other generators against the same arms of the first", "ahead, or say: no effect"
    asked = [d.contrast for d in e.differences if AT in d.contrast.arm]
    pairs = [c for c in asked if c.arm.partition(AT)[0] == c.against]
    if not pairs:
        return _missing("generators (A, B)", test, works_if, "a second generator and arms such as fill@NAME")
    found = "; ".join(e.text(c.arm, c.against, c.metric) for c in pairs if c.metric == MAIN)
    any_effect = any(e.ahead(c.arm, c.against, c.metric) for c in pairs)
    return Finding("generators (A, B)", test, works_if, found, "works" if any_effect else "not shown")


def _whole(e: Evidence) -> Finding:
    test, works_if = "the policy against real images only", "ahead in macro-F1 and in tail recall"
    if e.difference(RL, REAL, MAIN) is None:
        return _missing("whole", test, works_if, "the arm rl")
    told = [e.text(RL, REAL, metric) for metric in TESTED]
    if ORACLE in e.measured.arms:
        gap = e.measured.gap_closed(RL, real=REAL, oracle=ORACLE)
        told.append(f"gap closed {interval_text(gap.value, gap.low, gap.high)}")
    both = all(e.ahead(RL, REAL, metric) for metric in TESTED)
    return Finding("whole", test, works_if, "; ".join(told), "works" if both else "not shown")


def _autoencoder(e: Evidence) -> Finding:
    test = "classifiers trained on real images, on tune and on its reconstructions"
    works_if = f"macro-F1 drops by no more than {MOST_DROP:g}"
    drops = {
        f"{name}, fold {fold}": drop_of(path)
        for name in e.material.config.generators
        for fold in range(e.material.tables.num_folds)
        if (path := gate_file(e.material, name, fold)).exists()
    }
    if not drops:
        return _missing("autoencoder", test, works_if, "a generator")
    found = "; ".join(f"{name}: {drop:+.3f}" for name, drop in drops.items())
    verdict: Verdict = "works" if max(drops.values()) <= MOST_DROP else "does not work"
    return Finding("autoencoder", test, works_if, found, verdict)


def _answers(e: Evidence, question: str) -> dict[str, list[str]]:
    """Return what inspection answered, pool → an answer a class."""
    found = {}
    for name in e.material.config.generators:
        for fold in range(e.material.tables.num_folds):
            path = e.material.pool("pool", name, fold) / QUALITY
            if path.exists():
                classes = read_json(path)["classes"]
                place = f"{name}, fold {fold}" if e.material.tables.num_folds > 1 else name
                found[place] = [str(part["findings"].get(question, "unknown")) for part in classes.values()]
    return found


def _counted(answers: Mapping[str, Sequence[str]]) -> str:
    order = ("good", "fair", "bad", "unknown")
    return "; ".join(
        f"{name}: " + ", ".join(f"{list(own).count(word)} {word}" for word in order if word in own)
        for name, own in answers.items()
    )


def _no_copying(e: Evidence) -> Finding:
    test, works_if = "nearest train images, against those of other patients", "no class is copied"
    answers = _answers(e, "copying")
    if not answers:
        return _missing("no copying", test, works_if, "`inspect: true`")
    everything = [word for own in answers.values() for word in own]
    verdict: Verdict = "does not work" if "bad" in everything else "not shown" if "unknown" in everything else "works"
    return Finding("no copying", test, works_if, f"classes {_counted(answers)}", verdict)


def _sketch_kept(e: Evidence) -> Finding:
    test, works_if = "the asked sketch against another one, in generated images", "kept in every class"
    answers = {name: own for name, own in _answers(e, "sketch").items() if set(own) != {"unknown"}}
    if not answers:
        return _missing("Reading A", test, works_if, "a generator with the condition branch, and `inspect: true`")
    everything = [word for own in answers.values() for word in own if word != "unknown"]
    verdict: Verdict = "does not work" if "bad" in everything else "not shown"
    verdict = "works" if set(everything) == {"good"} else verdict
    return Finding("Reading A", test, works_if, f"classes {_counted(answers)}", verdict)


def generator_rows(e: Evidence) -> list[tuple[str, ...]]:
    """Return a row a generator and fold: size, branches, how well its autoencoder does, how long it took."""
    rows: list[tuple[str, ...]] = []
    for name in e.material.config.generators:
        for fold in range(e.material.tables.num_folds):
            path = e.material.generator(name, fold) / RECORD
            if not path.exists():
                continue
            value = read_json(path)
            pool = e.material.pool("pool", name, fold)
            images = int((~read_manifest(pool / MANIFEST).is_real).sum()) if (pool / MANIFEST).exists() else 0
            branches = [word for word, key in (("A", "condition_branch"), ("B", "perception_branch"))
                        if value["denoiser"][key]]  # fmt: skip
            rows.append(
                (
                    name, str(fold), str(value["size"]), "+".join(branches) or "class only",
                    f"{value['denoiser']['parameters']:,}", str(value["denoiser"]["steps"]),
                    f"{value['autoencoder']['l1']:.4f}", f"{value['autoencoder']['ssim']:.3f}", str(images),
                    f"{value['seconds'] / 60:.1f}",
                )
            )  # fmt: skip
    return rows


def pool_folders(e: Evidence) -> list[Path]:
    """Return the folders of the first generator's pools, one a fold, where they are there."""
    found = [e.material.pool("pool", e.material.config.main, k) for k in range(e.material.tables.num_folds)]
    return [folder for folder in found if (folder / MANIFEST).exists()]


__all__ = ["METRICS", "Evidence", "Finding", "findings", "generator_rows", "pool_folders", "schedules"]
