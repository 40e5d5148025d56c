"""Training of a generator: a config becomes a generator folder.

    GEN/config.yaml              the resolved config, which can be trained again
    GEN/log.csv                  a row every `save_every` steps of either stage
    GEN/autoencoder.safetensors  first stage: images to latents and back, with the latent scale in its header
    GEN/denoiser.safetensors     second stage: the averaged weights
    GEN/record.json              written last: digest, labels, the patients it has seen, versions
    GEN/state/                   what `--resume` goes on from; gone when the training is finished

Only real images of the fold `train` are read.
"""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch

from medtail.config import dump_yaml, read_yaml
from medtail.errors import MedtailError, Problems, UsageError
from medtail.locks import hold
from medtail.runs import digest_bytes, digest_file, new_folder, read_json, versions, write_json, write_text
from medtail.synthesis.config import FREE_TO_CHANGE, SynthesisConfig, portable
from medtail.synthesis.denoiser import count_parameters
from medtail.synthesis.folder import AUTOENCODER, DENOISER, RECORD_FORMAT, generator_digest
from medtail.synthesis.learning import STATE, Say, first_stage, second_stage
from medtail.synthesis.material import Material, Tick, class_counts, gather, train_part
from medtail.synthesis.state import LogRow
from medtail.tables.generators import RECORD
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.selection import select_classes


@final
@dataclass(frozen=True)
class GeneratorOutcome:
    """What a training came to.

    Attributes:
        folder: The generator.
        digest: What identifies it.
        l1: Mean absolute error of the reconstructed train images, gray range 0 to 1.
        ssim: Their structural similarity.
        steps: Denoiser steps.
        seconds: Wall-clock time of both stages, over all resumptions.
        notes: What a person should know, such as classes with one image.
    """

    folder: Path
    digest: str
    l1: float
    ssim: float
    steps: int
    seconds: float
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = {name: getattr(self, name) for name in ("digest", "l1", "ssim", "steps")}
        return {"folder": str(self.folder), **values, "seconds": round(self.seconds, 3), "notes": list(self.notes)}


def train_generator(
    config: SynthesisConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Tick | None = None,
    say: Say | None = None,
) -> GeneratorOutcome:
    """Train the autoencoder, then the denoiser, and write the generator's folder.

    The same config, data, machine and threads give the same bytes of weights, cut off and resumed or not (on a GPU, as
    far as its libraries repeat themselves).

    Args:
        config: What to train.
        out: A new or empty folder; with `resume` the folder of a training that was cut off.
        resume: Go on from the last state; a finished generator is left as it is.
        progress: Called with (done, total) steps of both stages.
        say: Called with lines for a person.

    Returns:
        Where the generator is and how well its autoencoder does.

    Raises:
        UsageError: `out` is not empty, or there is nothing of this config to resume.
        MedtailError: The manifest, its folds or images are not usable, a GPU was asked for and is absent, or the
            training diverged.
    """
    device = choose_device(config.accelerator)
    table = _read_table(config)
    part = train_part(table)
    config = config.resolved(train_images=len(part))
    say = say if say is not None else (lambda text: None)
    notes = class_notes(part)
    go_on = f"`medtail synthesise train {out / 'config.yaml'} --out {out} --resume`"
    with hold(out, go_on=go_on), threads(config.threads):
        _prepare_folder(config, out, resume=resume)
        if resume and (out / RECORD).exists():
            shutil.rmtree(out / STATE, ignore_errors=True)  # left where it was cut off at the very end
            return _outcome(out)
        for note in notes:
            say(note)
        cache = None if config.cache is None else Path(config.cache)
        material = gather(table, config.prepared, config.sketch, cache=cache)
        return _train(config, out, material, table, device=device, notes=notes, progress=progress, say=say)


def _read_table(config: SynthesisConfig) -> Manifest:
    return select_classes(read_manifest(config.manifest, groups=config.groups), config.classes)


def choose_device(accelerator: str) -> str:
    """Return `cuda` or `cpu`.

    Raises:
        MedtailError: A GPU was asked for and there is none.
    """
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise MedtailError("accelerator: found 'gpu', but torch sees no CUDA device here; use 'auto' or 'cpu'.")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def class_notes(manifest: Manifest) -> tuple[str, ...]:
    """Say what to know of the classes: none or one train image, or none with a sketch left to the caller.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> frame = pd.DataFrame({"image_id": ["a", "b"], "path": ["a", "b"], "patient_id": ["1", "2"],
        ...                       "fold": ["train"] * 2, "cyst": [1, 0], "lipoma": [0, 0]})
        >>> for note in class_notes(manifest_from_frame(frame)):
        ...     print(note)
        class 'cyst': 1 train image; what is generated will be near copies of it.
        class 'lipoma': no train image; it cannot be generated.
    """
    notes = []
    for name, count in zip(manifest.labels.class_names, class_counts(manifest.targets), strict=True):
        if count == 0:
            notes.append(f"class {name!r}: no train image; it cannot be generated.")
        elif count == 1:
            notes.append(f"class {name!r}: 1 train image; what is generated will be near copies of it.")
    return tuple(notes)


def _prepare_folder(config: SynthesisConfig, out: Path, *, resume: bool) -> None:
    path = out / "config.yaml"
    if not resume:
        new_folder(out)
        write_text(path, dump_yaml(portable(config, folder=out)))
        return
    if not path.exists():
        raise UsageError(f"--resume {out}: no config.yaml; expected the folder of a training that was cut off.")
    before, now = read_yaml(path), portable(config, folder=out)
    problems = Problems(f"--resume {out}")
    for key in sorted(before.keys() | now.keys()):
        if key not in FREE_TO_CHANGE and before.get(key) != now.get(key):
            problems.add(
                f"{key}: found {now.get(key)!r}; the training began with {before.get(key)!r}. Start a new one."
            )
    problems.raise_if_any(kind=UsageError)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads while the block runs; None leaves its number."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    config: SynthesisConfig,
    out: Path,
    material: Material,
    table: Manifest,
    *,
    device: str,
    notes: tuple[str, ...],
    progress: Tick | None,
    say: Say,
) -> GeneratorOutcome:
    first, second = config.autoencoder.steps, config.denoiser.steps
    assert first is not None, "resolved before"
    assert second is not None, "resolved before"

    def ticks(before: int) -> Callable[[int], None]:
        return lambda done: None if progress is None else progress(before + done, first + second)

    coder, facts, coder_progress = first_stage(config, out, material, device=device, tick=ticks(0), say=say)
    denoiser, denoiser_progress = second_stage(
        config, out, material, coder, scale=facts["latent_scale"], device=device, tick=ticks(first), say=say
    )
    write_text(out / "log.csv", log_text([*coder_progress.log, *denoiser_progress.log]))
    part, labels = material.manifest, material.manifest.labels
    digest = generator_digest(out, labels=labels, config=config)
    counts = class_counts(part.targets)
    write_json(
        out / RECORD,
        {
            "format": RECORD_FORMAT,
            "digest": digest,
            "labels": labels.to_json(),
            "size": config.size,
            "size_px": config.prepared.size_px,
            "latent_scale": facts["latent_scale"],
            "autoencoder": {"l1": facts["l1"], "ssim": facts["ssim"], "parameters": count_parameters(coder)},
            "denoiser": {
                "parameters": count_parameters(denoiser),
                "unet_parameters": count_parameters(denoiser.unet),
                "condition_branch": denoiser.has_condition,
                "perception_branch": denoiser.has_perception,
                "steps": second,
            },
            "manifest": table.name,
            "manifest_digest": table.digest,
            "train_images": len(part),
            "train_image_ids_digest": ids_digest(part),
            "train_patients": sorted(set(map(str, part.patients))),
            "train_counts": dict(zip(labels.class_names, map(int, counts), strict=True)),
            "without_sketch": int((~material.has_sketch).sum()),
            "notes": list(notes),
            "seed": config.seed,
            "seconds": round(coder_progress.seconds + denoiser_progress.seconds, 3),
            "weights": {name: digest_file(out / name) for name in (AUTOENCODER, DENOISER)},
            "device": device,
            "threads": torch.get_num_threads(),
            "command": " ".join(sys.argv),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": versions() | {"diffusers": version("diffusers")},
        },
    )
    shutil.rmtree(out / STATE, ignore_errors=True)
    return _outcome(out)


def ids_digest(manifest: Manifest) -> str:
    """Return the digest of the image ids, whatever their order."""
    return digest_bytes(*(name.encode() for name in sorted(manifest.frame["image_id"])))


def _outcome(out: Path) -> GeneratorOutcome:
    record = read_json(out / RECORD)
    return GeneratorOutcome(
        folder=out,
        digest=str(record["digest"]),
        l1=float(record["autoencoder"]["l1"]),
        ssim=float(record["autoencoder"]["ssim"]),
        steps=int(record["denoiser"]["steps"]),
        seconds=float(record["seconds"]),
        notes=tuple(record["notes"]),
    )


def log_text(rows: Sequence[LogRow]) -> str:
    """Return `log.csv`: the columns of both stages, empty where a stage has none.

    Example:
        >>> rows = [{"stage": "autoencoder", "step": 1, "train_l1": 0.5}, {"stage": "denoiser", "step": 1}]
        >>> print(log_text(rows), end="")
        stage,step,train_l1
        autoencoder,1,0.5
        denoiser,1,
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    last = ("learning_rate", "seconds")
    names = [name for name in names if name not in last] + [name for name in last if name in names]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
