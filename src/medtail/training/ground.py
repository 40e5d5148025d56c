"""What a training stands on: rows, pixels, sampler, objective and the plan of the network, all from its config.

Every process of a training lays the same ground; only the first one makes what is not there yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from medtail.losses.objective import Objective
from medtail.losses.objectives import build_objective
from medtail.pixels.masks import open_masks
from medtail.pixels.store import open_store
from medtail.sampling.build import SamplerConfig, build_sampler, plan_epoch, rows_of_epoch
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.tail import ClassCounts, count_classes
from medtail.training.callbacks import Feed
from medtail.training.config import TrainConfig, select_classes
from medtail.training.context import joint_counts, train_context
from medtail.training.plan import ModelPlan
from medtail.training.policy_replay import reads_reward, settled_sampler
from medtail.training.progress import counter
from medtail.training.rows import learnt_targets, usable_rows


@final
@dataclass(frozen=True, eq=False)
class Ground:
    """What a training stands on.

    Attributes:
        sampler: The config's, or where that is a policy the replay of what it learnt.
        table: The whole manifest.
        counts: Train images by class.
        feed: Where batches come from.
        objective: What is minimised.
        plan: Builds the network.
    """

    sampler: SamplerConfig
    table: Manifest
    counts: ClassCounts
    feed: Feed
    objective: Objective
    plan: ModelPlan


def lay_ground(config: TrainConfig, out: Path, *, quiet: bool) -> Ground:
    """Read the table, prepare the images, and let a policy learn its levels if the sampler is one.

    Args:
        config: The training's.
        out: Its run folder.
        quiet: Show no progress.

    Returns:
        The ground, the same in whichever process it is laid.

    Raises:
        MedtailError: The manifest, its folds or images are not usable.
    """
    table = read_manifest(config.manifest, groups=config.groups)
    chosen = select_classes(table, config.classes)
    manifest = usable_rows(chosen, with_reward=reads_reward(config.sampler), with_pseudo=config.pseudo_labels)
    counts = count_classes(manifest)
    with counter("prepare images", quiet=quiet) as tick:
        cache = None if config.cache is None else Path(config.cache)
        store = open_store(manifest, config.pixels, cache=cache, progress=tick)
        masks = None
        if config.tail_mix is not None and config.tail_mix.paste:
            train_rows = np.flatnonzero(manifest.folds == "train")
            masks = open_masks(manifest, store, rows=train_rows, cache=cache, progress=tick)
    optimizer = config.optimizer
    settled = settled_sampler(config, out, quiet=quiet)
    world_size = config.devices * config.num_nodes
    draws, steps = plan_epoch(
        settled,
        train_rows=rows_of_epoch(settled, manifest),
        epoch_rows=optimizer.epoch_rows,
        batch_size=optimizer.batch_size,
        world_size=world_size,
    )
    sampler = build_sampler(settled, manifest, seed=config.seed, epoch_rows=draws, epochs=optimizer.epochs, steps=steps)
    feed = Feed(
        manifest=manifest,
        store=store,
        sampler=sampler,
        steps=steps,
        draws=draws,
        world_size=world_size,
        masks=masks,
        targets=learnt_targets(manifest, config),
    )
    context = train_context(
        manifest,
        counts,
        sampler=sampler,
        draws=draws,
        epochs=optimizer.epochs,
        domain_column=getattr(config.objective, "domain_column", None),
    )
    objective = build_objective(config.objective, loss=config.loss, context=context)
    together = joint_counts(manifest)
    plan = ModelPlan(config, manifest.labels, link=objective.link, context=context, together=together)
    return Ground(settled, table, counts, feed, objective, plan)
