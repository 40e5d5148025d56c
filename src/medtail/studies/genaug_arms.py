"""The arms of a study of generated images: what each isolates, which table it learns from, how many steps it takes.

The policy sets the budget: T = warm-up + rounds x copies x steps + final. Every arm takes T gradient steps: as one
training, or as several of T / 4 of which the best on tune is kept. Replays of a learnt schedule take the final F, as
the schedule's own last training does. Trainings are built by `genaug_cells`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

from medtail.config import build_config
from medtail.errors import Problems, UsageError, did_you_mean
from medtail.sampling.policy import PolicySamplerConfig
from medtail.seeding import stream
from medtail.studies.genaug_config import BreastTrack, GenaugConfig
from medtail.training.config import merge

Table = Literal["real", "pool", "copies", "shuffled", "alone", "alone_shuffled", "oracle", "perfect", "mixed"]
Spend = Literal["whole", "quarter", "final"]
REAL, ORACLE, RL = "real", "oracle", "rl"
LEVELS = (0.25, 0.5, 0.75, 1.0)
OVERUSE = (0.0, 1.5, 2.0)
RANDOM_SETTINGS = 4
AT = "@"
STRONG: Mapping[str, Any] = {
    "profile": "ultrasound", "rotation_deg": 20.0, "scale": 0.25, "shift": 0.15, "gain": 0.3, "gamma": 0.3,
    "blur_px": 1.2, "speckle": 0.2, "texture": 0.5, "erase": 0.3,
}  # fmt: skip


@final
@dataclass(frozen=True)
class Kind:
    """One way of training.

    Attributes:
        purpose: What it isolates.
        table: What it learns from: `real` rows; the `pool` of a generator; `copies`, warped train images in the pool's
            numbers; the pool with `shuffled` labels; the pool `alone`, without real train rows, and so shuffled; the
            `oracle`'s balanced real rows; a `perfect` pool of fresh phantoms; a `mixed` one, perfect for every other
            class and careless for the rest.
        keys: Of its training.
        policy: Laid over the study's policy keys; None where there is no policy.
        spend: Steps: the `whole` budget, a `quarter`, or the `final` steps.
        replays: The arm whose schedule it replays.
        choose: It is the best on tune of these.
        is_part: Whether it is only part of another arm, or of the curve of use.
    """

    purpose: str
    table: Table = "real"
    keys: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] | None = None
    spend: Spend = "whole"
    replays: str | None = None
    choose: tuple[str, ...] = ()
    is_part: bool = False


def _fixed(level: float, *, spend: Spend = "quarter") -> Kind:
    levels = {"sampler": {"kind": "mixture", "levels": level}}
    return Kind(f"level {level:g} of every pool", "pool", levels, spend=spend, is_part=True)


def _replay(order: str, purpose: str) -> Kind:
    keys = {"sampler": {"kind": "replay", "order": order}}
    return Kind(purpose, "pool", keys, spend="final", replays=RL)


KINDS: Mapping[str, Kind] = {
    REAL: Kind("no synthesis", keys={"sampler": {"kind": "uniform"}}),
    "class_balanced": Kind("no synthesis: classes drawn alike", keys={"sampler": {"kind": "class_balanced"}}),
    "logit_adjusted": Kind("no synthesis: the loss knows the priors", keys={"loss": {"kind": "logit_adjusted"}}),
    "crt": Kind("no synthesis: a new last layer on balanced draws", keys={"second": {"kind": "retrain"}}),
    "strong_augment": Kind("no synthesis: stronger augmentation", keys={"augment": STRONG}),
    "oversampling": Kind(
        "balance without content: warped copies of train images in the pool's numbers",
        "copies", {"sampler": {"kind": "mixture", "levels": 1.0}},
    ),
    "fill": Kind("fill to balance", "pool", {"sampler": {"kind": "mixture", "levels": 1.0}}),
    **{f"level_{level:g}": _fixed(level) for level in (*LEVELS, *OVERUSE)},
    "fixed_best": Kind("one level for all, the best of four on tune", choose=tuple(f"level_{v:g}" for v in LEVELS)),
    **{
        f"draw_{n}": Kind(f"random levels, setting {n}", "pool", {}, spend="quarter", is_part=True)
        for n in range(RANDOM_SETTINGS)
    },
    "random_best": Kind(
        "the best of four random settings on tune", choose=tuple(f"draw_{n}" for n in range(RANDOM_SETTINGS))
    ),
    "random": Kind("random levels each round, the best copy kept", "pool", policy={"algorithm": "random"}),
    "table": Kind("book-keeping: mean reward of each level, the best frozen", "pool", policy={"algorithm": "table"}),
    "shared": Kind("a single agent with one ratio", "pool", policy={"agents": "shared"}),
    "own_reward": Kind("agents paid for their own class only", "pool", policy={"reward": {"own": 1.0, "team": 0.0}}),
    "team_reward": Kind("agents paid for the team only", "pool", policy={"reward": {"own": 0.0, "team": 1.0}}),
    "no_stability": Kind("no price on losing head accuracy", "pool", policy={"reward": {"stability": 0.0}}),
    RL: Kind("the policy, one agent a class", "pool", policy={}),
    "frozen": _replay("frozen", "the learnt schedule's average all the time"),
    "reversed": _replay("reversed", "the learnt schedule backwards"),
    "permuted": _replay("permuted", "the learnt schedule in random order"),
    "shuffled": Kind(
        "control: the pool under shuffled labels", "shuffled", {"sampler": {"kind": "mixture", "levels": 1.0}}
    ),
    "synthetic_only": Kind("the pool without any real train image", "alone", {"sampler": {"kind": "uniform"}}),
    "synthetic_shuffled": Kind(
        "control: the same under shuffled labels", "alone_shuffled", {"sampler": {"kind": "uniform"}}
    ),
    "perfect": Kind("fill to balance with fresh phantoms", "perfect", {"sampler": {"kind": "mixture", "levels": 1.0}}),
    "rl_mixed": Kind("the policy, pools perfect for some classes and careless for the others", "mixed", policy={}),
    ORACLE: Kind("balanced real images", "oracle", {"sampler": {"kind": "uniform"}}),
}  # fmt: skip
PHANTOM_ONLY: tuple[Table, ...] = ("oracle", "perfect", "mixed")
OF_A_GENERATOR: tuple[Table, ...] = ("pool", "copies", "shuffled", "alone", "alone_shuffled")


@final
@dataclass(frozen=True)
class ArmPlan:
    """One training a seed and fold.

    Attributes:
        name: Of its cells.
        kind: What it is.
        generator: Whose pool it uses; "" for none.
        epochs: Epochs of `epoch_steps` steps.
        keys: Of its training, but manifest, seed and the schedule it replays.
        replays: The arm whose schedule it replays, "" for none.
    """

    name: str
    kind: Kind
    generator: str
    epochs: int
    keys: Mapping[str, Any]
    replays: str = ""


@final
@dataclass(frozen=True)
class GenaugPlan:
    """All trainings, and how they become arms.

    Attributes:
        trainings: Name → training.
        arms: Arm → the trainings it is chosen from on tune; itself for most.
        purposes: Arm → what it isolates.
        total_steps: T.
        final_steps: F.
        rounds: Rounds of the policy.
    """

    trainings: Mapping[str, ArmPlan]
    arms: Mapping[str, tuple[str, ...]]
    purposes: Mapping[str, str]
    total_steps: int
    final_steps: int
    rounds: int

    def curve(self) -> list[tuple[float, str]]:
        """Return the levels that one setting for all was tried at, and the trainings, of the first generator."""
        return [(v, f"level_{v:g}") for v in sorted((*LEVELS, *OVERUSE)) if f"level_{v:g}" in self.trainings]


def policy_of(config: GenaugConfig, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the keys of a policy sampler: the study's, with an arm's laid over.

    Raises:
        UsageError: They have mistakes.
    """
    keys = merge(merge({"kind": "policy", "size": "small"}, config.policy), changes or {})
    build_config(PolicySamplerConfig, keys, where="policy")
    return keys


def plan_arms(config: GenaugConfig, class_names: Sequence[str]) -> GenaugPlan:
    """Resolve the arms a study names.

    Args:
        config: The study.
        class_names: Of the track.

    Returns:
        The plan.

    Raises:
        UsageError: An arm or generator is unknown or named twice, or needs what the track does not have; all at once.

    Example:
        >>> policy = {"rounds": 2, "copies": 2, "steps": 20, "warmup_steps": 0}
        >>> arms = ("real", "fixed_best", "rl")
        >>> plan = plan_arms(GenaugConfig(track=BreastTrack(), policy=policy, final_steps=120, arms=arms), ["a", "b"])
        >>> plan.total_steps, [plan.trainings[name].epochs for name in ("real", "level_1", "rl")]
        (200, [20, 5, 12])
    """
    rounds = build_config(PolicySamplerConfig, policy_of(config), where="policy").at(steps_per_epoch=config.epoch_steps)
    unit = 4 * config.epoch_steps
    total = -(-(rounds.total + config.final_steps) // unit) * unit
    is_phantom = isinstance(config.track, BreastTrack)
    problems = Problems(config.title or "arms")
    named = config.arms if config.arms is not None else tuple(
        name for name, kind in KINDS.items() if not kind.is_part and (is_phantom or kind.table not in PHANTOM_ONLY)
    )  # fmt: skip
    known = [name for name, kind in KINDS.items() if not kind.is_part]
    trainings: dict[str, ArmPlan] = {}
    arms: dict[str, tuple[str, ...]] = {}
    epochs = {
        "whole": total // config.epoch_steps,
        "quarter": total // unit,
        "final": config.final_steps // config.epoch_steps,
    }

    def add(base: str, generator: str) -> str:
        kind = KINDS[base]
        name = base if generator in ("", config.main) else f"{base}{AT}{generator}"
        if name not in trainings:
            replays = "" if kind.replays is None else add(kind.replays, generator)
            spend = "final" if kind.policy is not None else kind.spend
            keys = _keys(config, base, kind, class_names, epochs=epochs[spend])
            own = int(keys["optimizer"]["epochs"])
            trainings[name] = ArmPlan(name, kind, generator, own, keys, replays)
        return name

    for given in named:
        base, separator, generator = given.partition(AT)
        if base not in known:
            problems.add(f"arm {given!r}: unknown{did_you_mean(base, known) or '; known: ' + ', '.join(known)}")
            continue
        kind = KINDS[base]
        members = kind.choose or (base,)
        uses = any(KINDS[member].table in OF_A_GENERATOR for member in members)
        if separator and generator not in config.generators:
            problems.add(
                f"arm {given!r}: no generator {generator!r}{did_you_mean(generator, config.generators) or '.'}"
            )
        elif separator and not uses:
            problems.add(f"arm {given!r}: uses no generator's images; expected {base!r}.")
        elif not is_phantom and kind.table in PHANTOM_ONLY:
            problems.add(f"arm {given!r}: needs fresh images of known classes, which only the phantom has.")
        else:
            generator = (generator or config.main) if uses else ""
            name = base if generator in ("", config.main) else given
            if name in arms:
                problems.add(f"arm {given!r}: named twice; expected each once.")
            else:
                arms[name] = tuple(add(member, generator) for member in members)
    if not problems.found and REAL not in arms:
        problems.add(f"arms: {REAL!r} is missing; expected it, since every arm is held against real images only.")
    problems.raise_if_any(kind=UsageError)
    if config.curve and any(plan.generator for plan in trainings.values()):
        for level in (*LEVELS, *OVERUSE):
            add(f"level_{level:g}", config.main)
    purposes = {name: KINDS[name.partition(AT)[0]].purpose for name in arms}
    return GenaugPlan(trainings, arms, purposes, total, config.final_steps, rounds.rounds)


def _keys(config: GenaugConfig, base: str, kind: Kind, class_names: Sequence[str], *, epochs: int) -> dict[str, Any]:
    keys = dict(kind.keys)
    if base.startswith("draw_"):
        random = stream(int(base.removeprefix("draw_")), "genaug", "levels")
        levels = {name: float(random.choice((0.0, *LEVELS))) for name in class_names}
        keys["sampler"] = {"kind": "mixture", "levels": levels}
    if kind.policy is not None:
        keys["sampler"] = policy_of(config, kind.policy)
    if base == "crt":  # a quarter of its steps for the last layer
        later = max(1, epochs // 4)
        keys["second"] = {"kind": "retrain", "epochs": later}
        epochs -= later
    return merge(keys, {"optimizer": {"epochs": epochs}})


def contrasts_of(plan: GenaugPlan, extra: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Return the pairs of arms that are compared, fixed before any score is seen.

    Every arm with real images only; the policy with every baseline; filling with its controls; an arm of a further
    generator with the same arm of the first; and `extra`.

    Example:
        >>> plan = GenaugPlan({}, {"real": ("real",), "fill": ("fill",), "rl": ("rl",)}, {}, 8, 4, 1)
        >>> contrasts_of(plan)
        [('fill', 'real'), ('rl', 'real'), ('rl', 'fill')]
    """
    there = list(plan.arms)
    ends = {REAL, ORACLE, "perfect", "shuffled", "rl_mixed", "synthetic_only", "synthetic_shuffled"}
    wanted = [(arm, REAL) for arm in there if arm != REAL]
    wanted += [(RL, arm) for arm in there if arm not in {*ends, RL} and AT not in arm and RL in there]
    wanted += [("fill", "oversampling"), ("fill", "shuffled"), ("synthetic_only", "synthetic_shuffled")]
    wanted += [(arm, arm.partition(AT)[0]) for arm in there if AT in arm]
    wanted += list(extra)
    return list(dict.fromkeys(pair for pair in wanted if pair[0] in there and pair[1] in there))
