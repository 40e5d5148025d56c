"""From members' scores to a system's, in one fold: views, then the ensemble, then rules. Tune chooses, test follows.

Whatever is chosen (weights, which rules help) is chosen on the tune rows, after the views have been put together there
too, and done to the test rows unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from medtail.errors import MedtailError, listing
from medtail.judging.ensemble_fitting import EnsembleConfig, fit_ensemble
from medtail.judging.ensemble_record import EnsembleWeights
from medtail.judging.post_rule_trials import RuleTrials, try_rules
from medtail.studies.systems_config import SystemConfig
from medtail.tables.combine import combine_predictions, switch_predictions
from medtail.tables.manifest import Manifest
from medtail.tables.post_rules import apply_rules
from medtail.tables.predictions import Predictions
from medtail.tables.views import combine_views


@final
@dataclass(frozen=True, eq=False)
class Pair:
    """Scores of one fold's tune and test rows.

    Attributes:
        tune: What choices are made on.
        test: What they are done to.
    """

    tune: Predictions
    test: Predictions


@final
@dataclass(frozen=True, eq=False)
class Assembled:
    """A system's scores in one fold, and how they came about.

    Attributes:
        scores: Of the system.
        parts: Training → its scores with its views put together, before the ensemble.
        weights: Chosen on tune; None where nothing was.
        trials: Rules tried on tune; None where there are none.
        notes: What was done otherwise than asked, and why.
    """

    scores: Pair
    parts: Mapping[str, Pair]
    weights: EnsembleWeights | None
    trials: RuleTrials | None
    notes: tuple[str, ...]


def assemble(
    name: str,
    system: SystemConfig,
    members: Mapping[str, Sequence[Pair]],
    manifest: Manifest,
    *,
    seed: int = 0,
    threads: int | None = None,
) -> Assembled:
    """Make a system's scores of its members' in one fold.

    Args:
        name: The system's.
        system: How.
        members: Member → scores of each repeat; as many of them as the system asks for are taken.
        manifest: Names studies and views.
        seed: Of resamples and folds in what tune is asked.
        threads: Worker threads; no effect on the scores.

    Returns:
        The system's scores and those of its parts.

    Raises:
        MedtailError: Scores do not fit each other, or a rule does not fit the classes.
    """
    notes: list[str] = []
    raw = {
        member if k == 0 else f"{member}, repeat {k + 1}": pairs[k]
        for member, pairs in members.items()
        for k in range(system.repeats)
    }
    parts = _with_views(raw, system, manifest, notes)
    weights = None
    if system.switch_below is not None:
        scores = _switched(system, list(parts.values()), notes)
    elif system.fit is not None:
        config = EnsembleConfig(method=system.fit, how=system.how, seed=seed)
        weights = fit_ensemble([part.tune for part in parts.values()], config=config, names=list(parts),
                               threads=threads)  # fmt: skip
        scores = Pair(*(weights.combine([getattr(p, side) for p in parts.values()]) for side in ("tune", "test")))
        if weights.method != system.fit:
            notes.append(f"weights by {system.fit} were not shown to beat equal ones on patients not seen: equal ones")
    elif len(parts) > 1:
        scores = _pooled(list(parts.values()), system)
    else:
        scores = next(iter(parts.values()))
    trials = None
    if system.rules:
        trials = try_rules(scores.tune, system.rules, seed=seed, threads=threads)
        scores = Pair(apply_rules(scores.tune, trials.accepted), apply_rules(scores.test, trials.accepted))
        left = [trial.rule.kind for trial in trials.trials if not trial.accepted]
        if left:
            notes.append(f"{listing(left)} not shown to help on tune: left out")
    named = Pair(replace(scores.tune, name=name), replace(scores.test, name=name))
    return Assembled(named, parts, weights, trials, tuple(notes))


def _with_views(raw: Mapping[str, Pair], system: SystemConfig, manifest: Manifest, notes: list[str]) -> dict[str, Pair]:
    if system.views is None:
        return dict(raw)
    several, frontal = _views_known(manifest)
    if not several:
        notes.append(f"views: every study has one image, so {system.views} changes nothing")
        return dict(raw)
    rule = system.views
    if rule == "frontal" and not frontal:
        notes.append("views: no image is known to be frontal; the mean of a study's images instead")
        rule = "mean"

    def of(table: Predictions) -> Predictions:
        return combine_views(table, manifest, rule=rule, frontal_weight=system.frontal_weight)[0]

    return {name: Pair(of(pair.tune), of(pair.test)) for name, pair in raw.items()}


def _views_known(manifest: Manifest) -> tuple[bool, bool]:
    """Return whether a study has several images, and whether one of all images is known to be frontal."""
    from medtail.tables.views import view_kind

    frame = manifest.frame
    if "study_id" not in frame.columns:
        return False, False
    studies = frame.loc[frame["study_id"].astype(str) != "", "study_id"].astype(str)
    codes = set(frame["view"].astype(str)) if "view" in frame.columns else set()
    return bool(studies.duplicated().any()), any(view_kind(code) == "frontal" for code in codes)


def _pooled(parts: Sequence[Pair], system: SystemConfig) -> Pair:
    return Pair(*(combine_predictions([getattr(p, side) for p in parts], how=system.how) for side in ("tune", "test")))


def _switched(system: SystemConfig, parts: Sequence[Pair], notes: list[str]) -> Pair:
    """Take common classes from the first member's repeats and rare ones from the second's."""
    assert system.switch_below is not None, "asked where it is"
    counts = parts[0].tune.train_counts
    if counts is None:
        raise MedtailError(f"{parts[0].tune.name}: carries no train counts, so nobody knows which classes are rare.")
    share = np.array(counts.images) / np.maximum(np.array(counts.assessed), 1)
    rare = [name for name, value in zip(counts.class_names, share, strict=True) if value < system.switch_below]
    head, tail = parts[: system.repeats], parts[system.repeats :]
    first, second = (_pooled(side, system) if len(side) > 1 else side[0] for side in (head, tail))
    if not rare:
        notes.append(f"switch: no class is below {system.switch_below:g} of the train images; the first member alone")
        return first
    return Pair(
        switch_predictions(first.tune, second.tune, rare_classes=rare),
        switch_predictions(first.test, second.test, rare_classes=rare),
    )
