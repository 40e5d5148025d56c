"""A pool of generated images beside the table it is made for (`tables.pools` says how it is laid out).

    POOL/plan.json        what was asked for; a cut-off pool goes on only with the same
    POOL/images/*.png     the images
    POOL/sketches/*.png   the sketches asked for
    POOL/strips/*.png     the first image of each class coming out of the noise
    POOL/pool.csv, manifest.csv, record.json: written last

Every image has a seed of its own, from the pool's seed, its class and its number in the class.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from PIL import Image

from medtail.errors import MedtailError, Problems, UsageError
from medtail.locks import hold
from medtail.processes import supervise
from medtail.runs import atomic_path, new_folder, read_json, versions, write_json
from medtail.seeding import stream, stream_seed
from medtail.synthesis.bank import SketchBank
from medtail.synthesis.drawing import (
    DrawingSettings,
    Mode,
    as_bytes,
    check_mode,
    denoising_strip,
    draw_latents,
    noise_for,
    perceive_sketches,
)
from medtail.synthesis.fit import threads
from medtail.synthesis.folder import Generator
from medtail.synthesis.material import gather, train_part
from medtail.synthesis.pool_items import Item, PerClass, asked_counts, pool_items, real_table
from medtail.tables.generators import RECORD
from medtail.tables.manifest import ROI, Manifest
from medtail.tables.pools import IMAGES, synthetic_patient, write_pool_tables

SKETCHES, STRIPS, PLAN = "sketches", "strips", "plan.json"
SELF = "self"
"""Source of a sketch that the generator perceived itself."""
AT_ONCE = 64


@final
@dataclass(frozen=True)
class PoolOutcome:
    """What was made.

    Attributes:
        folder: The pool.
        counts: Images of each class.
        made: Images drawn by this call; the others were there.
        seconds: Wall-clock time spent drawing them.
    """

    folder: Path
    counts: Mapping[str, int]
    made: int
    seconds: float

    @property
    def images(self) -> int:
        """Images of all classes."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder),
            "images": self.images,
            "counts": dict(self.counts),
            "made": self.made,
            "seconds": round(self.seconds, 3),
        }


def make_pool(
    generator: Generator,
    out: Path,
    *,
    per_class: PerClass = "fill",
    mode: Mode | None = None,
    settings: DrawingSettings | None = None,
    manifest: Path | None = None,
    seed: int = 0,
    resume: bool = False,
    devices: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PoolOutcome:
    """Draw a pool of images and put it beside the real table.

    The same generator, settings and seed give the same files. A cut-off pool goes on where it was, and comes out the
    same.

    Args:
        generator: From `load_generator`, on the device to draw on.
        out: A new or empty folder; with `resume` the folder of a pool that was cut off.
        per_class: `fill` fills every class up to balance (see `tables.pools.fill_counts`); a number is the same for
            all; a mapping names some classes.
        mode: M0, M1 or M2; None is M2, or M0 for a generator that takes no sketch.
        settings: Solver and guidance; the generator's own if None.
        manifest: The real table; the one the generator was trained with if None.
        seed: Of the pool.
        resume: Go on with a pool that was cut off.
        devices: Processes that draw, on a GPU each where the generator is on one; the files are the same.
        progress: Called with (done, total) images.

    Returns:
        What was made.

    Raises:
        UsageError: `out` is not empty, there is nothing to resume, or the pool began with other settings.
        MedtailError: The table has other classes, reward, tune or test patients the generator has seen, or no train
            image of a class that is asked for; or the mode needs a branch the generator lacks.
    """
    began = time.perf_counter()
    mode = mode if mode is not None else ("M2" if generator.denoiser.has_condition else "M0")
    check_mode(generator, mode)
    settings = settings if settings is not None else DrawingSettings.of(generator)
    if settings.solver == "ddpm":
        raise MedtailError(
            "solver: 'ddpm' draws noise at every step, so no image would repeat; expected dpm++ or ddim."
        )
    table = real_table(generator, manifest)
    counts = asked_counts(generator, table, per_class)
    plan = {
        "generator_digest": generator.digest,
        "manifest_digest": table.digest,
        "counts": counts,
        "mode": mode,
        "solver": settings.solver,
        "steps": settings.steps,
        "class_scale": settings.guidance.class_scale,
        "sketch_scale": settings.guidance.sketch_scale,
        "seed": seed,
        "at_once": AT_ONCE,
    }
    items = pool_items(generator, counts, seed=seed)
    with hold(out, go_on="the same command and `--resume`"), threads(generator.config.threads):
        _prepare_folder(out, plan, resume=resume)
        if resume and (out / RECORD).exists():
            return PoolOutcome(out, counts, 0, 0.0)
        drawer = _Drawer(generator, train_part(table), mode, settings, out, seed)
        made = 0
        if devices > 1:
            before = drawer.count_there(items)
            _share(generator, out, mode=mode, settings=settings, table=manifest, plan=plan, devices=devices)
            made = drawer.count_there(items) - before
        for start in range(0, len(items), AT_ONCE):  # the same batches however often it is cut off: the same rounding
            made += drawer.draw(items[start : start + AT_ONCE])
            if progress is not None:
                progress(min(start + AT_ONCE, len(items)), len(items))
        strips = drawer.strips(items)
        seconds = time.perf_counter() - began
        record = {
            **plan,
            "format": "medtail-pool/1",
            "generator": generator.folder.name,
            "labels": generator.labels.to_json(),
            "manifest": table.name,
            "train_patients": sorted(generator.train_patients),
            "strips": strips,
            "without_sketch": drawer.count_without(items) if mode != "M0" else None,
            "versions": versions(),
        }
        write_pool_tables(out, table, drawer.rows(items, table), record=record)
    return PoolOutcome(out, counts, made, seconds)


def _share(
    generator: Generator,
    out: Path,
    *,
    mode: Mode,
    settings: DrawingSettings,
    table: Path | None,
    plan: Mapping[str, Any],
    devices: int,
) -> None:
    """Have several processes of this machine draw the batches, each every `devices`-th."""
    job = {
        "generator": str(generator.folder),
        "out": str(out),
        "mode": mode,
        "solver": settings.solver,
        "steps": settings.steps,
        "class_scale": settings.guidance.class_scale,
        "sketch_scale": settings.guidance.sketch_scale,
        "manifest": None if table is None else str(table),
        "counts": plan["counts"],
        "seed": plan["seed"],
        "gpu": generator.device.type == "cuda",
        "threads": torch.get_num_threads(),
    }
    advice = "What was drawn is kept; go on with the same command and `--resume`."
    supervise("medtail.synthesis.worker", job, processes=devices, where=str(out), advice=advice)


def draw_share(
    generator: Generator,
    out: Path,
    *,
    mode: Mode,
    settings: DrawingSettings,
    manifest: Path | None,
    counts: Mapping[str, int],
    seed: int,
    rank: int,
    size: int,
) -> None:
    """Draw one process's batches of a pool that `make_pool` has begun and will finish.

    Args:
        generator: On the device to draw on.
        out: The pool.
        mode: As `make_pool` settled it.
        settings: Solver and guidance.
        manifest: The real table; the one the generator was trained with if None.
        counts: Images of each class.
        seed: Of the pool.
        rank: This process, 0 to size - 1.
        size: How many there are.
    """
    drawer = _Drawer(generator, train_part(real_table(generator, manifest)), mode, settings, out, seed)
    items = pool_items(generator, counts, seed=seed)
    for start in range(rank * AT_ONCE, len(items), size * AT_ONCE):
        drawer.draw(items[start : start + AT_ONCE])


def _prepare_folder(out: Path, plan: Mapping[str, Any], *, resume: bool) -> None:
    path = out / PLAN
    if not resume:
        new_folder(out)
        write_json(path, plan)
        return
    if not path.exists():
        raise UsageError(f"--resume {out}: no {PLAN}; expected the folder of a pool that was cut off.")
    before = read_json(path)
    problems = Problems(f"--resume {out}")
    for key in sorted(before.keys() | plan.keys()):
        if before.get(key) != plan.get(key):
            problems.add(f"{key}: found {plan.get(key)!r}; the pool began with {before.get(key)!r}. Make a new pool.")
    problems.raise_if_any(kind=UsageError)


@final
class _Drawer:
    """Draws items and knows what was asked for each."""

    def __init__(
        self, generator: Generator, part: Manifest, mode: Mode, settings: DrawingSettings, out: Path, seed: int
    ) -> None:
        self.generator = generator
        self.part = part
        self.mode = mode
        self.settings = settings
        self.out = out
        self.seed = seed
        self.bank: SketchBank | None = None
        if mode == "M2":
            config = generator.config
            cache = None if config.cache is None else Path(config.cache)
            self.bank = gather(part, config.prepared, config.sketch, cache=cache).bank()
        ids = part.frame["image_id"].astype(str)
        self._row_of = dict(zip(ids, range(len(ids)), strict=True))

    def _asked(self, item: Item) -> tuple[np.ndarray, np.ndarray | None, str]:
        """Return an item's labels [classes], its lent sketch, and where that comes from."""
        random = stream(self.seed, "synthesis", "pool", "asked", item.class_name, item.number)
        number, targets = self.generator.labels.index(item.class_name), self.part.targets
        showing = np.flatnonzero(targets[:, number] == 1)
        row, sketch, source = int(random.choice(showing)), None, ""
        if self.bank is not None:
            sketch, source = self.bank.draw(number, random)
            row = self._row_of.get(source, row)
        return targets[row], sketch, source

    def count_there(self, items: Sequence[Item]) -> int:
        """Return how many images are drawn already."""
        return sum((self.out / IMAGES / f"{item.name}.png").is_file() for item in items)

    def draw(self, items: Sequence[Item]) -> int:
        """Draw one batch and write its files; return how many, 0 where all are there."""
        if self.count_there(items) == len(items):
            return 0
        asked = [self._asked(item) for item in items]
        present = torch.from_numpy(np.stack([labels for labels, _, _ in asked]).astype(np.float32))
        noise = noise_for(self.generator, [item.noise_seed for item in items])
        maps, given = self._sketches(items, asked, present)
        latents = draw_latents(
            self.generator,
            noise,
            present=present,
            sketches=None if maps is None else torch.from_numpy(maps[:, None]),
            given=torch.from_numpy(given),
            settings=self.settings,
        )
        images = as_bytes(self.generator.decode(latents))[:, 0]
        if not torch.isfinite(latents).all():
            raise MedtailError(
                "the generator's latents are no numbers; lower --guidance, take more --steps, or train it again."
            )
        for place, item in enumerate(items):  # an image that is there has its sketch, so the sketch goes first
            if maps is not None and given[place]:
                _write_png(self.out / SKETCHES / f"{item.name}.png", np.rint(maps[place] * 255).astype(np.uint8))
            _write_png(self.out / IMAGES / f"{item.name}.png", images[place])
        return len(items)

    def _sketches(
        self, items: Sequence[Item], asked: Sequence[tuple[np.ndarray, np.ndarray | None, str]], present: torch.Tensor
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Return the maps float32 [N, S, S] and which of them count, bool [N]."""
        if self.mode == "M0":
            return None, np.zeros(len(items), dtype=bool)
        if self.mode == "M1":
            first = [stream_seed(item.noise_seed, "synthesis", "pool", "perceived") for item in items]
            noise = noise_for(self.generator, first)
            return perceive_sketches(self.generator, noise, present=present, settings=self.settings)
        maps = np.stack([sketch for _, sketch, _ in asked if sketch is not None])
        return maps, np.array([source != "" for _, _, source in asked])

    def count_without(self, items: Sequence[Item]) -> int:
        """Return how many images were drawn without a sketch, since there was none."""
        return sum(not (self.out / SKETCHES / f"{item.name}.png").is_file() for item in items)

    def strips(self, items: Sequence[Item]) -> dict[str, str]:
        """Write each class's first image coming out of the noise; return class → file."""
        written = {}
        for item in (item for item in items if item.number == 0):
            position = self.generator.labels.index(item.class_name)
            name = f"{STRIPS}/{position:02d}_{re.sub(r'[^A-Za-z0-9]+', '_', item.class_name)}.png"
            written[item.class_name] = name
            if (self.out / name).is_file():
                continue
            labels, _, _ = self._asked(item)
            path = self.out / SKETCHES / f"{item.name}.png"
            sketch = None
            if path.is_file():
                with Image.open(path) as image:
                    sketch = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None, None]
            strip = denoising_strip(
                self.generator,
                noise_for(self.generator, [item.noise_seed]),
                present=torch.from_numpy(labels[None].astype(np.float32)),
                sketches=sketch,
                settings=self.settings,
            )
            _write_png(self.out / name, strip)
        return written

    def rows(self, items: Sequence[Item], table: Manifest) -> pd.DataFrame:
        """Return the pool's rows."""
        asked = [self._asked(item) for item in items]
        sources = [
            source if self.mode != "M1" else SELF * (self.out / SKETCHES / f"{item.name}.png").is_file()
            for item, (_, _, source) in zip(items, asked, strict=True)
        ]
        frame = pd.DataFrame(
            {
                "image_id": [item.name for item in items],
                "path": [f"{IMAGES}/{item.name}.png" for item in items],
                "patient_id": [synthetic_patient(self.generator.digest, item.index) for item in items],
                "meta_class": [item.class_name for item in items],
                "meta_mode": self.mode,
                "meta_w_c": f"{self.settings.guidance.class_scale:g}",
                "meta_w_s": f"{self.settings.guidance.sketch_scale:g}" if self.mode != "M0" else "0",
                "meta_noise_seed": [str(item.noise_seed) for item in items],
                "meta_sketch_source": sources,
                "meta_generator": self.generator.digest,
            }
        )
        if set(ROI) <= set(table.frame.columns):  # a generated image is all region: cropping leaves it whole
            side = float(self.generator.config.prepared.size_px)
            frame = frame.assign(roi_x=0.0, roi_y=0.0, roi_w=side, roi_h=side)
        labels = np.stack([row for row, _, _ in asked])
        return frame.assign(**{name: labels[:, c] for c, name in enumerate(self.generator.labels.class_names)})


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, compress_level=1)
