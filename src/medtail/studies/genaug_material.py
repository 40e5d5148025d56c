"""Generators and pools of a study, made once and shared by all arms, seeds and samplers.

    DIR/generators/NAME/fold_K/   generator folders            DIR/pools/NAME/fold_K/   their pools, and those of
                                                               `copies`, `shuffled`, `perfect`, `mixed`

Each outer fold has generators of its own, which have seen its train patients only. Whatever is cut off goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from filelock import FileLock

from medtail.config import build_config
from medtail.pixels.settings import PixelConfig
from medtail.runs import read_json
from medtail.sources.phantom_breast_pool import write_breast_pool
from medtail.studies.genaug_arms import ArmPlan, GenaugPlan, Table
from medtail.studies.genaug_cells import BASE
from medtail.studies.genaug_config import BreastTrack, GenaugConfig
from medtail.studies.genaug_pools import write_alone, write_copies, write_shuffled
from medtail.studies.genaug_tracks import Tables
from medtail.tables.generators import RECORD
from medtail.tables.manifest import Manifest
from medtail.tables.pools import MANIFEST
from medtail.training.config import merge

Tick = Callable[[int, int], None]
Watch = Callable[[str], Tick | None]


@final
@dataclass(frozen=True)
class Material:
    """What a study learns from.

    Attributes:
        config: The study.
        root: Its folder.
        tables: Of its track.
    """

    config: GenaugConfig
    root: Path
    tables: Tables

    def generator(self, name: str, fold: int) -> Path:
        """Return a generator's folder."""
        return self.root / "generators" / name / f"fold_{fold}"

    def pool(self, kind: Table, generator: str, fold: int) -> Path:
        """Return a pool's folder: a generator's, or one of the controls."""
        name = generator if kind == "pool" else kind if generator in ("", self.config.main) else f"{kind}@{generator}"
        return self.root / "pools" / name / f"fold_{fold}"

    def table(self, plan: ArmPlan, fold: int) -> Path:
        """Return the table an arm learns from."""
        kind = plan.kind.table
        if kind == "real":
            return self.tables.real[fold]
        if kind == "oracle":
            assert self.tables.oracle is not None, "arms of the phantom only"
            return self.tables.oracle
        return self.pool(kind, plan.generator, fold) / MANIFEST

    @property
    def pixels(self) -> PixelConfig:
        """How the classifier's images are prepared."""
        return build_config(
            PixelConfig, merge(BASE["pixels"], self.config.train.get("pixels") or {}), where="train.pixels"
        )


def make_material(material: Material, plan: GenaugPlan, *, watch: Watch | None = None) -> None:
    """Train the generators and make the pools that the arms need; what is there is left as it is.

    Args:
        material: Where things go.
        plan: The arms.
        watch: Given what is being done, returns what is told (done, total), or None.

    Raises:
        MedtailError: A generator diverged, or images cannot be read.
        UsageError: Keys of the generator's config are wrong, or differ from those it began with.
    """
    needed = {(p.kind.table, p.generator) for p in plan.trainings.values() if p.kind.table not in ("real", "oracle")}
    needed |= {("shuffled", generator) for kind, generator in needed if kind == "alone_shuffled"}
    drawn = {generator for kind, generator in needed if kind in ("pool", "shuffled", "alone", "alone_shuffled")}
    material.root.mkdir(parents=True, exist_ok=True)
    with FileLock(str(material.root / ".material.lock")):  # a second command on the folder waits here
        for fold in range(material.tables.num_folds):
            for name in material.config.generators:
                if name in drawn:
                    _generator(material, name, fold, watch)
                    _pool(material, name, fold, watch)
            for kind, generator in sorted(needed, key=lambda one: (one[0] == "alone_shuffled", one)):
                if kind != "pool":
                    _control(material, kind, generator, fold)


def synthesis_keys(config: GenaugConfig, name: str) -> dict[str, Any]:
    """Return the keys of a generator's config, but the manifest.

    Example:
        >>> config = GenaugConfig(track=BreastTrack(), generator={"size": "tiny"}, generators={"a": {"seed": 3}})
        >>> synthesis_keys(config, "a")
        {'size': 'tiny', 'seed': 3}
    """
    return merge(config.generator, config.generators[name])


def _generator(material: Material, name: str, fold: int, watch: Watch | None) -> None:
    from medtail.synthesis.config import synthesis_config
    from medtail.synthesis.fit import train_generator

    folder = material.generator(name, fold)
    if (folder / RECORD).exists():
        return
    keys = synthesis_keys(material.config, name) | {"manifest": str(material.tables.real[fold])}
    config = synthesis_config(keys, where=f"generator {name!r}")
    told = f"generator {name}" + (f", fold {fold}" if material.tables.num_folds > 1 else "")
    began = (folder / "config.yaml").exists()
    train_generator(config, folder, resume=began, progress=None if watch is None else watch(told))


def _pool(material: Material, name: str, fold: int, watch: Watch | None) -> None:
    from medtail.synthesis.drawing import DrawingSettings
    from medtail.synthesis.folder import load_generator
    from medtail.synthesis.pool import PLAN, make_pool

    folder = material.pool("pool", name, fold)
    if (folder / RECORD).exists():
        return
    wanted = material.config.pool
    generator = load_generator(material.generator(name, fold))
    settings = DrawingSettings.of(
        generator, solver=wanted.solver, steps=wanted.solver_steps, class_scale=wanted.class_scale,
        sketch_scale=wanted.sketch_scale,
    )  # fmt: skip
    told = f"pool of {name}" + (f", fold {fold}" if material.tables.num_folds > 1 else "")
    make_pool(
        generator,
        folder,
        mode=wanted.mode if generator.denoiser.has_condition else "M0",
        settings=settings,
        manifest=material.tables.real[fold],
        seed=wanted.seed,
        resume=(folder / PLAN).exists(),
        progress=None if watch is None else watch(told),
    )


def _control(material: Material, kind: Table, generator: str, fold: int) -> None:
    folder = material.pool(kind, generator, fold)
    if (folder / RECORD).exists():
        return
    real = material.tables.manifest(fold)
    seed = material.config.pool.seed
    folder.parent.mkdir(parents=True, exist_ok=True)
    if kind == "copies":
        cache = material.config.train.get("cache")
        write_copies(
            real, folder, pixels=material.pixels, counts=_counts(material, generator, fold), seed=seed,
            cache=None if cache is None else Path(str(cache)),
        )  # fmt: skip
    elif kind == "shuffled":
        write_shuffled(real, material.pool("pool", generator, fold), folder, seed=seed)
    elif kind in ("alone", "alone_shuffled"):
        source: Table = "pool" if kind == "alone" else "shuffled"
        write_alone(material.pool(source, generator, fold), folder)
    else:
        track = material.config.track
        assert isinstance(track, BreastTrack), "arms of the phantom only"
        wrong = dict.fromkeys(careless(real) if kind == "mixed" else (), track.wrong)
        write_breast_pool(real, folder, wrong=wrong, seed=track.seed + 1, size_px=track.size_px)


def careless(manifest: Manifest) -> tuple[str, ...]:
    """Return the classes whose images in the mixed pool are often wrong: every second one, from the second on."""
    return manifest.labels.class_names[1::2]


def _counts(material: Material, generator: str, fold: int) -> Mapping[str, int] | None:
    """Return how many images of each class a generator's pool has, where it is there: copies are as many."""
    path = material.pool("pool", generator, fold) / RECORD
    return {str(k): int(v) for k, v in read_json(path)["counts"].items()} if path.exists() else None
