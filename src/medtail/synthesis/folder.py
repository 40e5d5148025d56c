"""A generator's folder, read and used: images to latents and back, and whom it has learnt from.

Weights are safetensors and are never unpickled; the record names their digests, and what does not match is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from medtail.config import read_yaml
from medtail.errors import MedtailError
from medtail.models.checkpoint import fill
from medtail.runs import digest_bytes, digest_file, digest_json, read_json
from medtail.synthesis.autoencoder import build_autoencoder, decode, encode
from medtail.synthesis.config import SynthesisConfig, synthesis_config
from medtail.synthesis.denoiser import Denoiser
from medtail.synthesis.state import read_tensors
from medtail.tables.generators import RECORD, GeneratorRecord
from medtail.tables.labels import LabelSpace

AUTOENCODER, DENOISER, CONFIG = "autoencoder.safetensors", "denoiser.safetensors", "config.yaml"
RECORD_FORMAT = "medtail-generator/1"
WEIGHTS_FORMAT = "medtail-generator-weights/1"
AT_ONCE = 64


@final
@dataclass(frozen=True, eq=False)
class Generator:
    """A trained generator, on one device.

    Attributes:
        folder: Where it lies.
        config: As it was trained.
        labels: The classes it knows.
        record: Content of `record.json`.
        autoencoder: Frozen, in eval mode.
        denoiser: Frozen, in eval mode.
        latent_scale: a = 1 / std of the train images' latents.
    """

    folder: Path
    config: SynthesisConfig
    labels: LabelSpace
    record: Mapping[str, Any]
    autoencoder: nn.Module
    denoiser: Denoiser
    latent_scale: float

    @property
    def digest(self) -> str:
        """What identifies it: SHA-256 over weights, labels and how images are prepared."""
        return str(self.record["digest"])

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.denoiser.class_table.device

    @property
    def train_patients(self) -> frozenset[str]:
        """Patients it has learnt from."""
        return GeneratorRecord.from_json(self.record, name=RECORD).patients

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one image's latents: (4, h, w)."""
        side = self.config.prepared.size_px // self.config.shape.encoder_factor
        return (4, side, side)

    def to(self, device: str | torch.device) -> Generator:
        """Move the networks to a device and return the generator."""
        self.autoencoder.to(device)
        self.denoiser.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the scaled latents of images.

        Args:
            images: float32 [N, 1, S, S] in [0, 1], on any device.

        Returns:
            float32 [N, 4, h, w], on the CPU.
        """
        parts = [encode(self.autoencoder, p.to(self.device), scale=self.latent_scale).cpu() for p in _parts(images)]
        return torch.cat(parts) if parts else torch.zeros(0, *self.latent_shape)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of scaled latents, float32 [N, 1, S, S] in [0, 1], on the CPU."""
        parts = [decode(self.autoencoder, p.to(self.device), scale=self.latent_scale).cpu() for p in _parts(latents)]
        side = self.config.prepared.size_px
        return torch.cat(parts) if parts else torch.zeros(0, 1, side, side)


def _parts(values: Tensor) -> list[Tensor]:
    return [values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE)]


def build_denoiser(config: SynthesisConfig, *, num_classes: int) -> Denoiser:
    """Build the denoiser a config asks for; initial weights come from torch's global generator."""
    return Denoiser(
        config.shape,
        num_classes=num_classes,
        size_px=config.prepared.size_px,
        condition_branch=config.denoiser.condition_branch,
        perception_branch=config.denoiser.perception_branch,
    )


def generator_digest(folder: Path, *, labels: LabelSpace, config: SynthesisConfig) -> str:
    """Return the digest of a generator whose weights are in a folder."""
    facts = {"labels": labels.to_json(), "pixels": config.prepared.identity(), "size": config.size}
    weights = (digest_file(folder / name).encode() for name in (AUTOENCODER, DENOISER))
    return digest_bytes(*weights, digest_json(facts).encode())


def load_generator(folder: Path | str, *, device: str = "cpu") -> Generator:
    """Load a generator's folder, in eval mode. Runs no code from it and fetches nothing.

    Args:
        folder: Made by `medtail synthesise train`.
        device: Where it shall compute.

    Raises:
        MedtailError: Files are missing, damaged or do not belong together, or the training is not finished.
    """
    folder = Path(folder)
    record = read_record(folder)
    config = synthesis_config(read_yaml(folder / CONFIG), where=f"{folder.name}/{CONFIG}", folder=folder)
    labels = LabelSpace.from_json(record["labels"])
    coder_tensors, header = read_tensors(folder / AUTOENCODER, form=WEIGHTS_FORMAT)
    tensors, _ = read_tensors(folder / DENOISER, form=WEIGHTS_FORMAT)
    found = generator_digest(folder, labels=labels, config=config)
    if found != record["digest"] or float(header.get("latent_scale", "nan")) != float(record["latent_scale"]):
        raise MedtailError(
            f"{folder}: weights, config and record do not belong together (digest {found[:12]}, the record says"
            f" {str(record['digest'])[:12]}). Restore the folder, or train again."
        )
    with torch.random.fork_rng(devices=[]):  # building draws initial weights that are replaced at once
        coder = build_autoencoder(config.shape, size_px=config.prepared.size_px)
        denoiser = build_denoiser(config, num_classes=labels.num_classes)
    fill(coder, coder_tensors, where=str(folder / AUTOENCODER))
    fill(denoiser, tensors, where=str(folder / DENOISER))
    generator = Generator(
        folder,
        config,
        labels,
        record,
        coder.eval().requires_grad_(False),
        denoiser.eval().requires_grad_(False),
        float(record["latent_scale"]),
    )
    return generator.to(device)


def read_record(folder: Path) -> dict[str, Any]:
    """Read a generator's `record.json`.

    Raises:
        MedtailError: It is missing (the training is not finished) or of another format.
    """
    path = folder / RECORD
    if not path.exists():
        unfinished = (folder / CONFIG).exists()
        advice = "Finish it with `medtail synthesise train --resume`." if unfinished else "Give a generator's folder."
        what = "the training is not finished" if unfinished else f"no {RECORD}"
        raise MedtailError(f"{folder}: {what}; expected the folder of a finished `medtail synthesise train`. {advice}")
    record = read_json(path)
    if record.get("format") != RECORD_FORMAT:
        raise MedtailError(
            f"{path}: format {record.get('format')!r} is unknown; expected {RECORD_FORMAT!r}. Train again, or use the"
            " version of medtail that made it."
        )
    return record
