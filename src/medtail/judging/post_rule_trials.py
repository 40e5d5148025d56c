"""Which rules on top of scores help: each is tried on the tune fold, and kept only if the gain is beyond noise.

Rules have no fitted numbers, so the tune fold judges them fairly; a rule is tried on top of those kept before it. A
rule that helped one system has hurt another: what is not shown to help is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

from medtail.config import build_config
from medtail.errors import MedtailError
from medtail.judging.comparison import ComparisonConfig, compare
from medtail.judging.thresholds import refuse_unless_tune
from medtail.runs import read_json, write_json
from medtail.tables.post_rules import AnyRule, RulesConfig, apply_rules
from medtail.tables.predictions import Predictions

TrialMetric = Literal["ap", "auroc"]


@final
@dataclass(frozen=True)
class RuleTrial:
    """What a rule changed on tune.

    Attributes:
        rule: The rule.
        before: Macro value without it.
        change: Macro value with it minus without.
        low: Lower end of the change's interval; NaN where it changes nothing.
        high: Upper end.
        better: Classes whose own value rose.
        worse: Classes whose own value fell.
        accepted: Whether the interval lies above 0.
    """

    rule: AnyRule
    before: float
    change: float
    low: float
    high: float
    better: tuple[str, ...]
    worse: tuple[str, ...]
    accepted: bool


@final
@dataclass(frozen=True)
class RuleTrials:
    """All trials, in order.

    Attributes:
        trials: One a rule.
        metric: What was judged.
        digest: Of the tune table.
        rows: Its rows.
    """

    trials: tuple[RuleTrial, ...]
    metric: TrialMetric
    digest: str
    rows: int

    @property
    def accepted(self) -> tuple[AnyRule, ...]:
        """The rules to apply, in order."""
        return tuple(trial.rule for trial in self.trials if trial.accepted)

    def text(self) -> str:
        """Return a line a rule."""
        lines = [f"macro {self.metric} on {self.rows:,} tune rows, a change with its 95 % interval over patients"]
        for trial in self.trials:
            interval = "no change" if trial.low != trial.low else f"[{trial.low:+.4f}, {trial.high:+.4f}]"
            verdict = "kept" if trial.accepted else "left out"
            lines.append(
                f"{trial.rule.kind:17s}{trial.before:.4f} {trial.change:+.4f} {interval}, {len(trial.better)} classes"
                f" better, {len(trial.worse)} worse: {verdict}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the accepted rules and the evidence as plain values."""
        trials = [
            {
                "rule": asdict(trial.rule),
                "before": trial.before,
                "change": trial.change,
                "low": None if trial.low != trial.low else trial.low,
                "high": None if trial.high != trial.high else trial.high,
                "better": list(trial.better),
                "worse": list(trial.worse),
                "accepted": trial.accepted,
            }
            for trial in self.trials
        ]
        return {
            "kind": "post rules",
            "rules": [asdict(rule) for rule in self.accepted],
            "tune": {"digest": self.digest, "rows": self.rows, "metric": self.metric},
            "trials": trials,
        }

    def write(self, path: Path | str) -> None:
        """Write as JSON. Atomic."""
        write_json(path, self.to_json())


def try_rules(
    predictions: Predictions,
    rules: Sequence[AnyRule],
    *,
    metric: TrialMetric = "ap",
    bootstrap: int = 1000,
    seed: int = 0,
    threads: int | None = None,
) -> RuleTrials:
    """Try each rule on the tune fold, on top of those kept before it.

    Args:
        predictions: Rows of the tune fold.
        rules: In the order they would apply.
        metric: `ap` or `auroc`, averaged over the classes with positives.
        bootstrap: Resamples of the patients, >= 1.
        seed: Of the resamples.
        threads: Worker threads; all usable cores if None. No effect on the result.

    Returns:
        What each rule changed, and which are kept.

    Raises:
        MedtailError: Rows outside the tune fold, a rule that does not fit the classes, or no rules.

    Example:
        >>> import numpy as np
        >>> from medtail.tables.labels import LabelSpace
        >>> from medtail.tables.post_rules import NormalGateConfig
        >>> random = np.random.default_rng(0)
        >>> ids, fold = np.array([f"i{n}" for n in range(400)], dtype=object), np.array(["tune"] * 400, dtype=object)
        >>> mass = (random.random(400) < 0.1).astype(float)
        >>> y = np.column_stack([1 - mass, mass])
        >>> scores = np.column_stack([np.where(mass == 1, 0.1, random.random(400)), random.random(400)])
        >>> table = Predictions(ids, ids, scores, y, LabelSpace(("Normal", "Mass")), fold)
        >>> [trial.accepted for trial in try_rules(table, [NormalGateConfig()], bootstrap=200).trials]
        [True]
    """
    if not rules:
        raise MedtailError("rules: none to try; expected normal_gate, exclusive_normal or hierarchy.")
    refuse_unless_tune(predictions, purpose="Rules kept")
    config = ComparisonConfig(metrics=(metric,), levels=("macro", "class"), bootstrap=bootstrap, seed=seed)
    kept: list[AnyRule] = []
    trials = []
    for rule in rules:
        without = apply_rules(predictions, kept)
        tried = apply_rules(predictions, [*kept, rule])
        found = compare({"with": tried, "without": without}, config=config, threads=threads)
        overall = (found.differences["class"] == "") & (found.differences["tail_group"] == "")
        macro, single = found.differences[overall].iloc[0], found.differences[found.differences["class"] != ""]
        values = found.systems[(found.systems["class"] == "") & (found.systems["tail_group"] == "")]
        before = float(values.loc[values["system"] == "without", "value"].iloc[0])
        change, low, high = (float(macro[name]) for name in ("difference", "low", "high"))
        accepted = low > 0.0
        trials.append(
            RuleTrial(
                rule=rule,
                before=before,
                change=change,
                low=low if change else float("nan"),
                high=high if change else float("nan"),
                better=tuple(single.loc[single["difference"] > 0, "class"]),
                worse=tuple(single.loc[single["difference"] < 0, "class"]),
                accepted=accepted,
            )
        )
        if accepted:
            kept.append(rule)
    return RuleTrials(tuple(trials), metric, predictions.digest, len(predictions))


def read_rules(path: Path | str) -> tuple[AnyRule, ...]:
    """Read the rules that `RuleTrials.write` kept.

    Raises:
        MedtailError: No such file, or it holds no rules.
    """
    record = read_json(path)
    if record.get("kind") != "post rules":
        raise MedtailError(f"{path}: holds no rules; expected what `medtail combine try-rules` writes.")
    return build_config(RulesConfig, {"rules": record.get("rules", [])}, where=str(path)).rules
