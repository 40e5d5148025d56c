"""Vectors of texts and of images, as zero-shot methods compare them: safetensors files with a record of whose they are.

A text file holds a row a phrase, so that what is averaged, drawn or dropped is decided when scores are made and not
before. Files of other tools are read too: a tensor a class, named by it. Nothing is unpickled; torch is not needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy as np

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.runs import atomic_path

PhraseKind = Literal["prompt", "negative", "description"]
PHRASE_KINDS: tuple[PhraseKind, ...] = get_args(PhraseKind)
RECORD = "medtail"
"""The one key of a file's metadata, so that equal content has equal bytes."""
SHORTEST = 1e-12
"""A vector shorter than this points nowhere."""


@final
@dataclass(frozen=True)
class Phrase:
    """A text that speaks of a class.

    Attributes:
        class_name: The class, as the user spells it.
        kind: `prompt` names it, `negative` denies it, `description` says what it looks like and where.
        keyword: The name of the finding inside a prompt; "" in others.
        text: What a tower reads.
    """

    class_name: str
    kind: PhraseKind
    keyword: str
    text: str


@final
@dataclass(frozen=True, eq=False)
class TextVectors:
    """A unit vector a phrase.

    Attributes:
        phrases: P of them, a class's together or not.
        values: float32 [P, d] of length 1.
        header: `tower`, `tower_digest`, `phrase_file`, `phrases_digest`, `cautions` and the like: a JSON object.
        name: The file's name, for messages.

    Example:
        >>> phrases = tuple(Phrase("Mass", "prompt", word, word) for word in ("mass", "tumour"))
        >>> texts = text_vectors(phrases, np.array([[3.0, 0.0], [0.0, 2.0]]))
        >>> texts.class_names, [round(float(x), 3) for x in texts.means(["Mass"])[0]]
        (('Mass',), [0.707, 0.707])
    """

    phrases: tuple[Phrase, ...]
    values: np.ndarray
    header: Mapping[str, Any] = field(default_factory=dict)
    name: str = "text vectors"

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order in which they first appear."""
        return tuple(dict.fromkeys(phrase.class_name for phrase in self.phrases))

    @property
    def width(self) -> int:
        """d."""
        return int(self.values.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of phrases and vectors."""
        digest = hashlib.sha256(json.dumps([_phrase_json(phrase) for phrase in self.phrases]).encode())
        digest.update(np.ascontiguousarray(self.values, dtype="<f4").tobytes())
        return digest.hexdigest()

    def rows(self, class_name: str, kind: PhraseKind = "prompt") -> list[int]:
        """Return the rows of a class's phrases of a kind."""
        return [
            row for row, phrase in enumerate(self.phrases) if (phrase.class_name, phrase.kind) == (class_name, kind)
        ]

    def check(self, class_names: Sequence[str], *kinds: PhraseKind) -> None:
        """Check that classes have phrases of some kinds.

        Raises:
            MedtailError: Some do not; all are named.
        """
        problems = Problems(self.name)
        for name in class_names:
            if name not in self.class_names:
                hint = did_you_mean(name, self.class_names) or f"; it has {listing(self.class_names, limit=8)}."
                problems.add(f"class {name!r}: no vectors{hint}")
                continue
            for kind in kinds:
                if not self.rows(name, kind):
                    problems.add(
                        f"class {name!r}: no phrase of kind {kind!r}; expected one at least. Choose another mode, or"
                        " add phrases and embed them again."
                    )
        problems.raise_if_any()

    def means(self, class_names: Sequence[str], kind: PhraseKind = "prompt") -> np.ndarray:
        """Return each class's mean phrase vector, brought to length 1, float32 [C, d].

        Raises:
            MedtailError: A class has no such phrase, or its phrases cancel each other.
        """
        self.check(class_names, kind)
        means = np.stack([self.values[self.rows(name, kind)].mean(axis=0) for name in class_names])
        return unit_rows(means, what=[f"{self.name}, class {name!r}, mean of {kind}s" for name in class_names])

    def select(self, class_names: Sequence[str]) -> TextVectors:
        """Keep the phrases of some classes, in the given order of classes.

        Raises:
            MedtailError: A class has no phrases.
        """
        self.check(class_names)
        kept = [row for name in class_names for row, phrase in enumerate(self.phrases) if phrase.class_name == name]
        return replace(self, phrases=tuple(self.phrases[row] for row in kept), values=self.values[kept])

    def write(self, path: Path | str) -> None:
        """Write as safetensors. Atomic; equal content gives equal bytes."""
        record = {"kind": "texts", "phrases": [_phrase_json(phrase) for phrase in self.phrases]}
        _write(path, self.values, {**record, "header": dict(self.header)})


@final
@dataclass(frozen=True, eq=False)
class ImageVectors:
    """A unit vector an image.

    Attributes:
        image_ids: Text [N].
        values: float32 [N, d] of length 1.
        header: `tower`, `tower_digest`, `manifest` and the like: a JSON object.
        name: The file's name, for messages.
    """

    image_ids: np.ndarray
    values: np.ndarray
    header: Mapping[str, Any] = field(default_factory=dict)
    name: str = "image vectors"

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def width(self) -> int:
        """d."""
        return int(self.values.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ids and vectors."""
        digest = hashlib.sha256(json.dumps([str(image_id) for image_id in self.image_ids]).encode())
        digest.update(np.ascontiguousarray(self.values, dtype="<f4").tobytes())
        return digest.hexdigest()

    def of(self, image_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the vectors of some images, float32 [n, d].

        Raises:
            MedtailError: Images without a vector; the first are named.
        """
        place = {str(image_id): row for row, image_id in enumerate(self.image_ids)}
        missing = [str(image_id) for image_id in image_ids if str(image_id) not in place]
        if missing:
            raise MedtailError(
                f"{self.name}: no vector for {len(missing)} of {len(image_ids)} images: {listing(missing, limit=10)}."
                " Embed the whole manifest with `medtail zero-shot embed`."
            )
        return np.asarray(self.values[[place[str(image_id)] for image_id in image_ids]])

    def write(self, path: Path | str) -> None:
        """Write as safetensors. Atomic; equal content gives equal bytes."""
        record = {"kind": "images", "image_ids": [str(image_id) for image_id in self.image_ids]}
        _write(path, self.values, {**record, "header": dict(self.header)})


def text_vectors(
    phrases: Sequence[Phrase], values: np.ndarray, *, header: Mapping[str, Any] | None = None, name: str = "texts"
) -> TextVectors:
    """Bring vectors to length 1 and put them beside their phrases.

    Args:
        phrases: P of them.
        values: float [P, d].
        header: Whose they are.
        name: For messages.

    Raises:
        MedtailError: A vector is no direction: zero, NaN or infinite.
    """
    assert len(phrases) == len(values), "one vector a phrase"
    unit = unit_rows(values, what=[f"{name}, {phrase.text or phrase.class_name!r}" for phrase in phrases])
    return TextVectors(tuple(phrases), unit, dict(header or {}), name)


def unit_rows(values: np.ndarray, *, what: Sequence[str]) -> np.ndarray:
    """Bring rows to length 1, float32.

    Args:
        values: float [n, d].
        what: What each row is, for messages.

    Raises:
        MedtailError: Rows that are no direction; all are named.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0]]), what=["a"])
        array([[0.6, 0.8]], dtype=float32)
    """
    values = np.asarray(values, dtype=np.float64)
    lengths = np.sqrt((values * values).sum(axis=1))
    bad = ~(np.isfinite(lengths) & (lengths > SHORTEST))
    if bad.any():
        named = [what[int(row)] for row in np.flatnonzero(bad)]
        raise MedtailError(
            f"{named[0]}: its vector has no direction (zero, NaN or infinite); expected finite numbers, some of them"
            f" other than 0. {int(bad.sum())} such in all."
        )
    return np.asarray(values / lengths[:, None], dtype=np.float32)


def read_text_vectors(path: Path | str) -> TextVectors:
    """Read text vectors, ours or another tool's.

    Args:
        path: A safetensors file: what `TextVectors.write` wrote, or any in which each tensor is named by its class and
            holds one vector [d] or one a phrase [k, d].

    Raises:
        MedtailError: No such file, another format, or vectors of several lengths.
    """
    path = Path(path)
    tensors, record = _read(path)
    if record is None:
        return _read_foreign(path, tensors)
    _check_kind(path, record, "texts")
    phrases = tuple(Phrase(str(c), kind, str(k), str(t)) for c, kind, k, t in record["phrases"])
    values = _values(path, tensors, rows=len(phrases))
    return text_vectors(phrases, values, header=record.get("header", {}), name=path.name)


def read_image_vectors(path: Path | str) -> ImageVectors:
    """Read image vectors written by `ImageVectors.write`.

    Raises:
        MedtailError: No such file, another format, or image ids that repeat.
    """
    path = Path(path)
    tensors, record = _read(path)
    if record is None:
        raise MedtailError(f"{path}: has no record of its images; expected what `medtail zero-shot embed` writes.")
    _check_kind(path, record, "images")
    ids = np.array([str(image_id) for image_id in record["image_ids"]], dtype=object)
    if len(set(ids)) < len(ids):
        raise MedtailError(f"{path}: an image has two vectors; expected one an image.")
    values = unit_rows(_values(path, tensors, rows=len(ids)), what=[f"{path.name}, image {i!r}" for i in ids])
    return ImageVectors(ids, values, record.get("header", {}), path.name)


def check_same_space(images: ImageVectors, texts: TextVectors) -> None:
    """Check that images and texts can be compared: same width, and the same tower where both name theirs.

    Raises:
        MedtailError: They cannot.
    """
    if images.width != texts.width:
        raise MedtailError(
            f"{images.name} has vectors of length {images.width}, {texts.name} of {texts.width}; expected both from one"
            " tower that reads images and texts."
        )
    towers = [table.header.get("tower_digest") for table in (images, texts)]
    if None not in towers and towers[0] != towers[1]:
        names = [table.header.get("tower", "?") for table in (images, texts)]
        raise MedtailError(
            f"{images.name} is from the tower {names[0]!r}, {texts.name} from {names[1]!r} (digests differ); expected"
            " one tower. Embed one of them again."
        )


def _phrase_json(phrase: Phrase) -> list[str]:
    return [phrase.class_name, phrase.kind, phrase.keyword, phrase.text]


def _write(path: Path | str, values: np.ndarray, record: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise MedtailError(f"{path}: vectors are written as .safetensors; give such a name.")
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_bytes(save({"vectors": np.ascontiguousarray(values, dtype=np.float32)}, {RECORD: text}))


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MedtailError(f"{path}: no such file; expected vectors as .safetensors.")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no mapping
            written = (file.metadata() or {}).get(RECORD)
        record = None if written is None else json.loads(written)
    except (SafetensorError, TypeError, ValueError, OSError, RecursionError) as error:
        raise MedtailError(
            f"{path}: is not a safetensors file of float32 or float16 vectors ({error}). Other formats can run code"
            " and are never opened."
        ) from error
    return tensors, record


def _check_kind(path: Path, record: Mapping[str, Any], kind: str) -> None:
    if record.get("kind") != kind:
        raise MedtailError(f"{path}: holds vectors of {record.get('kind')!r}; expected vectors of {kind!r}.")
    if kind == "texts":
        strange = {str(row[1]) for row in record["phrases"]} - set(PHRASE_KINDS)
        if strange:
            raise MedtailError(f"{path}: phrases of kind {listing(sorted(strange))}; expected {listing(PHRASE_KINDS)}.")


def _values(path: Path, tensors: Mapping[str, np.ndarray], *, rows: int) -> np.ndarray:
    values = tensors.get("vectors")
    if values is None or values.ndim != 2 or len(values) != rows:
        found = "none" if values is None else str(list(values.shape))
        raise MedtailError(f"{path}, tensor 'vectors': found {found}; expected [{rows}, d], as its record says.")
    return values


def _read_foreign(path: Path, tensors: Mapping[str, np.ndarray]) -> TextVectors:
    phrases: list[Phrase] = []
    parts: list[np.ndarray] = []
    problems = Problems(path.name)
    widths = {int(values.shape[-1]) for values in tensors.values() if values.ndim in (1, 2)}
    for name, values in sorted(tensors.items()):
        if values.ndim not in (1, 2) or not values.size or values.dtype.kind != "f":
            problems.add(f"tensor {name!r}: found {values.dtype} {list(values.shape)}; expected float [d] or [k, d].")
            continue
        rows = np.atleast_2d(values)
        parts.append(rows)
        phrases += [Phrase(name, "prompt", f"{name} {number}", "") for number in range(len(rows))]
    if len(widths) > 1:
        problems.add(f"vectors of {listing(sorted(widths))} numbers; expected one length.")
    if not tensors:
        problems.add("no tensors; expected one a class, named by it.")
    problems.raise_if_any()
    return text_vectors(phrases, np.concatenate(parts), header={"tower": path.name}, name=path.name)
