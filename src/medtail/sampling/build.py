"""The closed family of samplers: the union of their configs, and the one place that builds them.

A new sampler adds its config to `SamplerConfig` and a case to `build_sampler`; the laws in `tests/laws` then
apply to it.
"""

from __future__ import annotations

from typing import Annotated, assert_never

from pydantic import Field

from medtail.config import build_config, config_to_dict
from medtail.errors import MedtailError
from medtail.sampling.branches import (
    DeferredSamplerConfig,
    TwoBranchesSampler,
    TwoBranchesSamplerConfig,
    deferred_shares,
)
from medtail.sampling.classic import (
    ClassBalancedSamplerConfig,
    Plan,
    ProgressiveSamplerConfig,
    RepeatFactorSamplerConfig,
    RepeatSampler,
    SquareRootSamplerConfig,
    UniformSampler,
    UniformSamplerConfig,
    WeightedSampler,
    class_members,
    classwise_shares,
    progressive_shares,
    repeat_factors,
)
from medtail.sampling.contract import Sampler, train_fold
from medtail.sampling.mixture import MixtureSampler, MixtureSamplerConfig, Steady, Stretch, find_pool
from medtail.sampling.policy import PolicySamplerConfig
from medtail.sampling.replay import (
    ClosedLoopSampler,
    ReplaySamplerConfig,
    Segments,
    check_schedule,
    read_schedule,
)
from medtail.sampling.sites import CopiesSamplerConfig, SitesSamplerConfig, copy_factors, sitewise_shares
from medtail.sampling.streams import TwoStreamSampler, TwoStreamSamplerConfig, two_stream_epoch
from medtail.tables.domains import domain_numbers
from medtail.tables.manifest import Manifest

__all__ = [
    "ClassBalancedSamplerConfig",
    "CopiesSamplerConfig",
    "DeferredSamplerConfig",
    "MixtureSamplerConfig",
    "PolicySamplerConfig",
    "ProgressiveSamplerConfig",
    "RepeatFactorSamplerConfig",
    "ReplaySamplerConfig",
    "SamplerConfig",
    "SitesSamplerConfig",
    "SquareRootSamplerConfig",
    "TwoBranchesSamplerConfig",
    "TwoStreamSamplerConfig",
    "UniformSamplerConfig",
    "build_sampler",
    "plan_epoch",
    "rows_of_epoch",
]

SamplerConfig = Annotated[
    UniformSamplerConfig
    | ClassBalancedSamplerConfig
    | SquareRootSamplerConfig
    | ProgressiveSamplerConfig
    | RepeatFactorSamplerConfig
    | SitesSamplerConfig
    | CopiesSamplerConfig
    | TwoStreamSamplerConfig
    | TwoBranchesSamplerConfig
    | DeferredSamplerConfig
    | MixtureSamplerConfig
    | ReplaySamplerConfig
    | PolicySamplerConfig,
    Field(discriminator="kind"),
]


def build_sampler(
    config: SamplerConfig,
    manifest: Manifest,
    *,
    seed: int,
    epoch_rows: int | None = None,
    epochs: int,
    steps: int = 1,
) -> Sampler:
    """Build a sampler of a manifest's train fold.

    Args:
        config: A member of `SamplerConfig`; a union member is picked in YAML by `kind`.
        manifest: Only its rows of the train fold are drawn; it is not changed.
        seed: The run's seed.
        epoch_rows: Draws an epoch, at least 1; None = as many as `rows_of_epoch` says.
        epochs: Epochs of the training, at least 1; for samplers that change on the way.
        steps: Batches an epoch is cut into, at least 1; for samplers that fill every batch in a set way.

    Returns:
        The sampler. Share an epoch out over processes with `shard`.

    Raises:
        MedtailError: The train fold is empty, no class has a positive row in it (class-wise samplers), a class or
            column does not exist, or a number is out of its range.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "patient_id": list("123"),
        ...                       "fold": "train", "Hernia": [1, 0, 0]})
        >>> sampler = build_sampler(ClassBalancedSamplerConfig(), manifest_from_frame(table), seed=0, epochs=10)
        >>> sampler.frequencies(0)
        array([0.5 , 0.25, 0.25])
    """
    # a config written in Python has not been through the YAML border: same checks, same messages
    config = build_config(type(config), config_to_dict(config), where="sampler")
    for name, value in (("epoch_rows", epoch_rows), ("epochs", epochs), ("steps", steps)):
        if value is not None and value < 1:
            raise MedtailError(f"sampler, {name}: found {value!r}; expected at least 1.")
    fold = train_fold(manifest)
    plan = Plan(config.kind, fold, seed, rows_of_epoch(config, manifest) if epoch_rows is None else epoch_rows)
    match config:
        case UniformSamplerConfig():
            return UniformSampler(plan)
        case ClassBalancedSamplerConfig():
            balanced = classwise_shares(class_members(fold), power=0.0)
            return WeightedSampler(plan, shares=lambda _: balanced.copy())
        case SquareRootSamplerConfig():
            rooted = classwise_shares(class_members(fold), power=0.5)
            return WeightedSampler(plan, shares=lambda _: rooted.copy())
        case ProgressiveSamplerConfig():
            final = classwise_shares(class_members(fold), power=0.0)
            return WeightedSampler(plan, shares=lambda epoch: progressive_shares(final, epoch=epoch, epochs=epochs))
        case RepeatFactorSamplerConfig():
            factors = repeat_factors(fold, threshold=config.threshold, cap=config.cap)
            return RepeatSampler(plan, factors=factors)
        case SitesSamplerConfig():
            domains = domain_numbers(manifest, column=config.domain_column)[fold.rows]
            spread = sitewise_shares(class_members(fold), domains, power=config.power)
            return WeightedSampler(plan, shares=lambda _: spread.copy())
        case CopiesSamplerConfig():
            return RepeatSampler(plan, factors=copy_factors(fold, classes=config.classes, copies=config.copies))
        case TwoStreamSamplerConfig():
            return TwoStreamSampler(plan, config, epochs=epochs, steps=steps)
        case TwoBranchesSamplerConfig():
            return TwoBranchesSampler(plan, config, steps=steps)
        case DeferredSamplerConfig():
            later, start = classwise_shares(class_members(fold), power=0.0), config.balance_from
            return WeightedSampler(
                plan,
                shares=lambda epoch: deferred_shares(later, epoch=epoch, epochs=epochs, balance_from=start),
            )
        case MixtureSamplerConfig():
            pool = find_pool(manifest)
            return MixtureSampler(plan, pool, Steady(Stretch(plan.epoch_rows, pool.levels(config.levels))))
        case ReplaySamplerConfig():
            pool, schedule = find_pool(manifest), read_schedule(config.schedule, digest=config.digest)
            if config.order == "closed_loop":
                return ClosedLoopSampler(plan, pool, schedule, epochs=epochs)
            schedule = check_schedule(schedule, pool)
            levels = schedule.in_order(config.order, seed=seed)
            return MixtureSampler(plan, pool, Segments(levels, plan.epoch_rows, epochs))
        case PolicySamplerConfig():
            raise MedtailError(
                "sampler 'policy': has no levels before it has learnt them, which `medtail train` does first; expected"
                " the schedule it leaves. Use the sampler 'replay' with RUN/policy/schedule.json."
            )
        case _:
            assert_never(config)


def rows_of_epoch(config: SamplerConfig, manifest: Manifest) -> int:
    """Say how many rows show a train fold once: real ones where generated ones are mixed in, else all.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "fold": "train",
        ...     "patient_id": list("123"), "origin": ["real", "real", "synthetic"], "Hernia": [1, 0, 0]}))
        >>> rows_of_epoch(UniformSamplerConfig(), table), rows_of_epoch(MixtureSamplerConfig(), table)
        (3, 2)
    """
    counted = manifest.folds == "train"
    if isinstance(config, MixtureSamplerConfig | ReplaySamplerConfig | PolicySamplerConfig):
        counted = counted & manifest.is_real
    return int(counted.sum())


def plan_epoch(
    config: SamplerConfig, *, train_rows: int, epoch_rows: int | None, batch_size: int, world_size: int = 1
) -> tuple[int, int]:
    """Say how many rows an epoch draws, and in how many steps.

    Args:
        config: The sampler.
        train_rows: Rows that show the train fold once; see `rows_of_epoch`.
        epoch_rows: Draws that were asked for; None as many as show each train row once.
        batch_size: Images of all processes a step, at most.
        world_size: Processes.

    Returns:
        Draws and steps.

    Raises:
        MedtailError: The batch is too small for the sampler.

    Example:
        >>> plan_epoch(UniformSamplerConfig(), train_rows=100, epoch_rows=None, batch_size=32)
        (100, 4)
        >>> plan_epoch(TwoStreamSamplerConfig(), train_rows=100, epoch_rows=None, batch_size=64)
        (200, 4)
    """
    if isinstance(config, TwoStreamSamplerConfig | TwoBranchesSamplerConfig):
        rows = train_rows if epoch_rows is None else -(-epoch_rows // 2)
        return two_stream_epoch(rows, batch_size=batch_size, world_size=world_size)
    draws = train_rows if epoch_rows is None else epoch_rows
    return draws, -(-draws // batch_size)
