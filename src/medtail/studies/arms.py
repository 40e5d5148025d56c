"""Arms: one training changed in named keys, resolved to whole configs, and checked to be a fair comparison.

An ablation means something only if its arms differ in nothing but what is named. So each arm's resolved config is
compared with the base's, key by key, and the budgets (steps, batch, augmentation, networks) with the reference's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from medtail.config import config_to_dict
from medtail.errors import Problems, UsageError
from medtail.sampling.build import plan_epoch
from medtail.studies.config import BUDGETS, Budget, EqualConfig
from medtail.tables.manifest import Manifest
from medtail.training.config import TrainConfig, merge, select_classes, train_config
from medtail.training.fit import FREE_TO_CHANGE
from medtail.training.second import RetrainConfig

NOT_AN_ARMS_BUSINESS = {
    "manifest": "one study is about one table",
    "seed": "give `seeds:` of the study",
}
LEFT_OUT = (*FREE_TO_CHANGE, "manifest", "seed")
"""Keys in which a cell's config differs from its arm's, or that move no weights."""


@final
@dataclass(frozen=True)
class Change:
    """One key in which an arm differs from the base.

    Attributes:
        key: Dotted place.
        base: The base's value; None also where the base has no such key.
        arm: The arm's value.
    """

    key: str
    base: Any
    arm: Any

    def text(self) -> str:
        """Write it as `head.cbam: spatial → none`."""
        return f"{self.key}: {_word(self.base)} → {_word(self.arm)}"


@final
@dataclass(frozen=True)
class Arm:
    """A training to be judged.

    Attributes:
        name: Its name in tables and folders.
        config: Resolved; seed and manifest are filled in for each cell.
        changes: Where it differs from the base.
    """

    name: str
    config: TrainConfig
    changes: tuple[Change, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything in its config that can change a result, but seed and rows."""
        return {key: value for key, value in config_to_dict(self.config).items() if key not in LEFT_OUT}


def resolve_arms(
    base: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any] | None],
    *,
    where: str,
    folder: Path | None = None,
) -> dict[str, Arm]:
    """Lay each arm's keys over the base and resolve them.

    Args:
        base: Keys of a training.
        overrides: Arm → keys that differ, dotted (`head.cbam`) or in sections.
        where: The study's name, for messages.
        folder: Where relative paths start.

    Returns:
        The arms in the order given.

    Raises:
        UsageError: Unknown keys, wrong values, keys that are no arm's business, or two arms that are the same
            training; all arms' mistakes are named at once.

    Example:
        >>> arms = resolve_arms({"manifest": "a.csv"}, {"full": {}, "short": {"optimizer.epochs": 2}}, where="s.yaml")
        >>> [change.text() for change in arms["short"].changes]
        ['optimizer.epochs: 20 → 2']
    """
    problems: list[str] = []
    plain = train_config(base, where=where, folder=folder)
    arms: dict[str, Arm] = {}
    for name, given in overrides.items():
        place = f"{where}, arm {name!r}"
        try:
            keys = nested(given or {}, where=place)
            for key in keys:
                if key in NOT_AN_ARMS_BUSINESS:
                    raise UsageError(f"{place}, {key}: {NOT_AN_ARMS_BUSINESS[key]}.")
            config = train_config(merge(base, keys), where=place, folder=folder)
        except UsageError as error:
            problems.append(str(error))
            continue
        arm = Arm(name, config, differences(config_to_dict(plain), config_to_dict(config)))
        twin = next((other for other in arms.values() if other.settings == arm.settings), None)
        if twin is not None:
            problems.append(
                f"{place}: is the same training as arm {twin.name!r}; expected a key that differs. Check for values"
                " that are the default anyway."
            )
            continue
        arms[name] = arm
    if problems:
        raise UsageError("\n".join(problems))
    return arms


def nested(overrides: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Turn dotted keys into sections.

    Raises:
        UsageError: A key is empty, or runs through a value that is no section.

    Example:
        >>> nested({"loss.gamma": 1, "loss.kind": "focal", "seed": 3}, where="arm")
        {'loss': {'gamma': 1, 'kind': 'focal'}, 'seed': 3}
    """
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        parts = [part.strip() for part in str(key).split(".")]
        if not all(parts):
            raise UsageError(f"{where}, {key!r}: expected a key such as loss.gamma.")
        node = result
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UsageError(f"{where}, {key}: {part!r} is given a value elsewhere, so it is no section.")
        there = node.get(parts[-1])
        if isinstance(there, dict) and isinstance(value, Mapping):
            there.update(value)
        elif parts[-1] in node:
            raise UsageError(f"{where}, {key}: is given twice.")
        else:
            node[parts[-1]] = dict(value) if isinstance(value, Mapping) else value
    return result


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return every key in which two resolved configs differ, dotted; a section that only one of them has by its kind.

    Example:
        >>> [change.text() for change in differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": None}})]
        ['a.c: 2 → none']
        >>> [change.text() for change in differences({"mix": {"kind": "mixup", "alpha": 0.2}}, {"mix": None})]
        ['mix: mixup → none']
    """
    return tuple(_differences(before, after))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield Change(f"{prefix}{key}", _whole(old), _whole(new))


def _whole(value: Any) -> Any:
    """Return a value as it is, and a whole section by its kind: what is switched off needs no list of its settings."""
    return value.get("kind", "on") if isinstance(value, Mapping) and value else value


def _word(value: Any) -> str:
    return "none" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)


def budgets(config: TrainConfig, *, train_rows: int) -> dict[Budget, Any]:
    """Return what a training spends, in the units in which arms must be alike.

    Args:
        config: The training.
        train_rows: Rows of its train fold.
    """
    optimizer = config.optimizer
    _, steps_an_epoch = plan_epoch(
        config.sampler, train_rows=train_rows, epoch_rows=optimizer.epoch_rows, batch_size=optimizer.batch_size
    )
    steps = optimizer.epochs * steps_an_epoch
    if isinstance(config.second, RetrainConfig):
        _, later = plan_epoch(
            config.second.sampler,
            train_rows=train_rows,
            epoch_rows=optimizer.epoch_rows,
            batch_size=optimizer.batch_size,
        )
        steps += config.second.epochs * later
    patience = "" if optimizer.patience is None else f", stopped early after {optimizer.patience} epochs"
    found: dict[Budget, Any] = {
        "steps": f"{steps} steps{patience}",
        "batch": f"{optimizer.batch_size} images a step",
        "augmentation": {
            **config_to_dict(config.augment),
            "mix": None if config.mix is None else config_to_dict(config.mix),
        },
        "networks": config.members,
    }
    assert tuple(found) == BUDGETS
    return found


def check_budgets(arms: Mapping[str, Arm], *, reference: str, equal: EqualConfig, train_rows: int, where: str) -> None:
    """Refuse arms that spend more, or other, than the reference.

    Args:
        arms: The arms.
        reference: The one the others are held against.
        equal: What must be alike.
        train_rows: Rows of the train fold.
        where: The study's name.

    Raises:
        UsageError: Some arm differs; all are named, with both values and the way to allow it.
    """
    problems = Problems(where)
    own = budgets(arms[reference].config, train_rows=train_rows)
    for name, arm in arms.items():
        spent = budgets(arm.config, train_rows=train_rows)
        for budget in BUDGETS:
            if spent[budget] == own[budget] or not equal.binds(name, budget):
                continue
            if budget == "augmentation":
                parts = ", ".join(change.text() for change in differences(own[budget], spent[budget]))
                told = f"differs from {reference!r} ({parts})"
            else:
                told = f"found {spent[budget]}; {reference!r} has {own[budget]}"
            problems.add(
                f"arm {name!r}, {budget}: {told}, so a difference would not be the method's alone. If that is what the"
                f" arm is about, say `equal: {{unless: {{{name}: [{budget}]}}}}`."
            )
    problems.raise_if_any(kind=UsageError)


def check_labels(arms: Mapping[str, Arm], manifest: Manifest, *, reference: str, where: str) -> Manifest:
    """Check that every arm learns the same classes, and return the table with them.

    Raises:
        UsageError: An arm learns other classes or groups.
        MedtailError: A pattern matches no class.
    """
    own = select_classes(manifest, arms[reference].config.classes)
    problems = Problems(where)
    for name, arm in arms.items():
        if arm.config.groups != arms[reference].config.groups:
            problems.add(f"arm {name!r}, groups: differ from those of {reference!r}; expected the same classes.")
        elif (labels := select_classes(manifest, arm.config.classes).labels) != own.labels:
            other = sorted(set(labels.class_names) ^ set(own.labels.class_names))
            problems.add(
                f"arm {name!r}, classes: learns other classes than {reference!r} ({', '.join(other)}), so their means"
                " are not of the same thing. Make a study of its own."
            )
    problems.raise_if_any(kind=UsageError)
    return own
