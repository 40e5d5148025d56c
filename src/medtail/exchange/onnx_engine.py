"""The ONNX engine: an exported file answers for images, without torch.

A file is data: its bytes are handed to onnxruntime, which runs arithmetic and nothing else. No library of custom
operators is loaded, and a file that points at another one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError, UsageError
from medtail.exchange.onnx_record import OnnxRecord
from medtail.judging.calibration_record import CALIBRATION, read_calibration
from medtail.pixels.store import open_store
from medtail.runs import digest_file, read_json
from medtail.tables.manifest import FOLDS, Manifest
from medtail.tables.predictions import Predictions
from medtail.tables.selection import match_classes

BATCH_SIZE = 32
MODEL_FILE = "model.onnx"
"""Where `medtail export` writes in a run folder, and where `medtail predict --engine onnx` looks."""
INT8_FILE = "model.int8.onnx"
Tick = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class OnnxAnswer:
    """What a file says of a batch.

    Attributes:
        probabilities: float32 [N, C] in [0, 1], calibrated where the model is.
        positive: bool [N, C], the highest class of each exclusive group, a threshold everywhere else.
        scores: float32 [N, C], before calibration; the probabilities where there is none.
    """

    probabilities: np.ndarray
    positive: np.ndarray
    scores: np.ndarray


@final
class OnnxDiagnoser:
    """An exported file, ready to answer; safe to call from several threads.

    Args:
        path: A file written by `medtail export RUN --format onnx`.
        threads: Threads of one call; onnxruntime's own choice, all cores, if None.

    Attributes:
        path: The file.
        record: What it says of itself.

    Raises:
        MedtailError: No such file, it is no ONNX file of medtail, or onnxruntime is not installed.

    Example:
        >>> OnnxDiagnoser("nowhere.onnx")
        Traceback (most recent call last):
        medtail.errors.MedtailError: nowhere.onnx: no such file. `medtail export RUN --format onnx` writes one.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MedtailError(f"{self.path}: no such file. `medtail export RUN --format onnx` writes one.")
        self._session = _open(self.path, threads=threads)
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.record = OnnxRecord.from_metadata(metadata, where=str(self.path))
        _check_ends(self._session, self.record, where=str(self.path))
        self._has_scores = "scores" in {item.name for item in self._session.get_outputs()}

    def probabilities(self, images: np.ndarray, content: np.ndarray | None = None) -> np.ndarray:
        """Return probabilities, float32 [N, C], of prepared pixels; see `answer`."""
        return self.answer(images, content).probabilities

    def answer(self, images: np.ndarray, content: np.ndarray | None = None) -> OnnxAnswer:
        """Answer for prepared pixels.

        Args:
            images: uint8 [N, channels, S, S], as `pixels.letterbox` makes them.
            content: Integers [N, 4], left, top, right and bottom of the image in its square, for models that see a
                frequency band (`record.needs_content`); all of the square if None.

        Returns:
            Probabilities, decisions and raw scores.

        Raises:
            MedtailError: The pixels have another type or shape, or the model gives a score that is no number.
        """
        pixels = self.record.pixels
        shape = pixels.shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise MedtailError(
                f"{self.path}: found images {images.dtype} {list(images.shape)}; expected uint8"
                f" {['N', *shape]}. `medtail.pixels.letterbox` prepares them."
            )
        given: dict[str, np.ndarray] = {"images": np.ascontiguousarray(images)}
        if self.record.needs_content:
            whole = [0, 0, pixels.size_px, pixels.size_px]
            boxes = np.tile(whole, (len(images), 1)) if content is None else np.asarray(content)
            given["content"] = boxes.astype(np.int64)
        num_classes = self.record.labels.num_classes
        if not len(images):
            none = np.zeros((0, num_classes), dtype=np.float32)
            return OnnxAnswer(none, none.astype(bool), none)
        names = ["probabilities", "positive", *(["scores"] if self._has_scores else [])]
        if self.record.quantisation.get("scheme") == "dynamic":  # its ranges are those of all images of a call
            rows = [{name: part[row : row + 1] for name, part in given.items()} for row in range(len(images))]
            found = [
                np.concatenate(parts) for parts in zip(*(self._session.run(names, row) for row in rows), strict=True)
            ]
        else:
            found = self._session.run(names, given)
        answer = OnnxAnswer(found[0], found[1], found[-1] if self._has_scores else found[0])
        if not np.isfinite(answer.probabilities).all():
            bad = int((~np.isfinite(answer.probabilities)).any(axis=1).sum())
            raise MedtailError(f"{self.path}: gives scores that are no numbers for {bad} of {len(images)} images.")
        return answer


def predict_onnx(
    diagnoser: OnnxDiagnoser,
    manifest: Manifest,
    *,
    fold: str | None = None,
    batch_size: int | None = None,
    cache: Path | None = None,
    calibrated: bool = True,
    preparing: Tick | None = None,
    progress: Tick | None = None,
) -> Predictions:
    """Score images with an exported file, as `training.predict.predict` does with the run it came from.

    Args:
        diagnoser: The file.
        manifest: The images. Classes are matched by name and further ones ignored; cells may be empty.
        fold: Score only this fold; all rows if None.
        batch_size: Images at a time; 32 if None.
        cache: Folder of prepared pixels; the person's own if None.
        calibrated: Take the calibrated probabilities and their thresholds; the scores before if False.
        preparing: Called with (images prepared, images to prepare).
        progress: Called with (rows done, rows).

    Returns:
        Scores and targets in the manifest's order, with the model's thresholds, train counts and digests; `onnx` is
        that of the file.

    Raises:
        MedtailError: No such fold, or classes or images are missing.
    """
    record = diagnoser.record
    if fold is not None and fold not in FOLDS:
        raise MedtailError(f"fold: found {fold!r}; expected one of {', '.join(FOLDS)}.")
    chosen = match_classes(manifest if fold is None else manifest.in_fold(fold), record.labels)
    if not len(chosen):
        raise MedtailError(
            f"{manifest.name}, column 'fold': no row is in {fold!r}; nothing to predict. Leave the fold out to score"
            " all rows."
        )
    store = open_store(chosen, record.pixels, cache=cache, progress=preparing)
    size = BATCH_SIZE if batch_size is None else batch_size
    scores = np.empty((len(chosen), record.labels.num_classes), dtype=np.float64)
    for start in range(0, len(chosen), size):
        rows = np.arange(start, min(start + size, len(chosen)))
        answer = diagnoser.answer(store.images(rows), store.content_boxes[rows])
        scores[rows] = answer.probabilities if calibrated else answer.scores
        if progress is not None:
            progress(int(rows[-1]) + 1, len(chosen))
    digests = {"model": record.digests["model"], "manifest": manifest.digest, "onnx": digest_file(diagnoser.path)}
    if calibrated and "calibration" in record.digests:
        digests["calibration"] = record.digests["calibration"]
    return Predictions(
        image_ids=chosen.frame["image_id"].to_numpy(dtype=object),
        patients=chosen.patients,
        scores=np.clip(scores, 0.0, 1.0),
        targets=chosen.targets.astype(np.float64),
        labels=record.labels,
        folds=chosen.folds,
        has_patients=chosen.has_patients,
        thresholds=record.thresholds if calibrated else record.raw_thresholds,
        train_counts=record.train_counts,
        digests=digests,
    )


def open_exported(run: Path | str, *, file: str = MODEL_FILE, threads: int | None = None) -> OnnxDiagnoser:
    """Open the file exported into a run folder, if it is of the model and the calibration the run has now.

    Args:
        run: A run folder.
        file: Its name there.
        threads: As in `OnnxDiagnoser`.

    Raises:
        MedtailError: There is none, or the run's model or calibration has changed since.
    """
    run = Path(run)
    path = run / file
    if not path.is_file():
        flag = " --int8" if file == INT8_FILE else ""
        raise UsageError(f"{path}: no such file. Make it with `medtail export {run} --format onnx{flag}`.")
    diagnoser = OnnxDiagnoser(path, threads=threads)
    digests = {key: diagnoser.record.digests.get(key) for key in ("model", "calibration")}
    for key, value in model_digests(run).items():
        if digests[key] != value:
            had, has = (str(digest)[:12] if digest else "none" for digest in (digests[key], value))
            raise MedtailError(
                f"{path}: was exported with another {key} (digest {had}) than the run has now ({has}). Remove it and"
                f" export again with `medtail export {run} --format onnx`."
            )
    return diagnoser


def model_digests(run: Path | str) -> dict[str, str | None]:
    """Return digests of a run's weights and of its calibration, None where it has none; reads cards, not weights.

    Raises:
        MedtailError: The folder holds no model, or its card is damaged.
    """
    folder = Path(run) / "model" if (Path(run) / "model").is_dir() else Path(run)
    card = read_json(folder / "card.json")
    weights = card["weights"] if "members" in card else card.get("digests", {}).get("weights")
    stored = folder / CALIBRATION
    calibration = read_calibration(stored).digest if stored.exists() else None
    return {"model": None if weights is None else str(weights), "calibration": calibration}


def require_onnxruntime() -> Any:
    """Return the package onnxruntime.

    Raises:
        MedtailError: It is not installed.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise MedtailError(
            f"onnx: needs the package 'onnxruntime' ({error}); install it with `pip install 'medtail[onnx]'`."
        ) from error
    return onnxruntime


def _open(path: Path, *, threads: int | None) -> Any:
    runtime = require_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimiser
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MedtailError(f"{path}: cannot be read ({error.strerror or error}).") from error
    try:
        _refuse_external(content, path)
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except MedtailError:
        raise
    except Exception as error:  # onnxruntime's own errors share no base but this one
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MedtailError(
            f"{path}: is not a usable ONNX file ({reason}). Expected one written by `medtail export RUN --format onnx`."
        ) from error


def _refuse_external(content: bytes, path: Path) -> None:
    """Refuse a file whose weights lie in another file, which onnxruntime would open on its word.

    Raises:
        MedtailError: They do.
    """
    if b"location" not in content:  # the key every such weight needs
        return
    try:
        import onnx
    except ImportError as error:
        raise MedtailError(
            f"{path}: needs the package 'onnx' to be looked into ({error}); install it with"
            " `pip install 'medtail[onnx]'`."
        ) from error

    def tensors(message: Any) -> Iterator[Any]:
        if isinstance(message, onnx.TensorProto):
            yield message
            return
        for field, value in message.ListFields():
            if field.message_type is not None:
                for item in [value] if hasattr(value, "ListFields") else value:
                    yield from tensors(item)

    for tensor in tensors(onnx.load_model_from_string(content)):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise MedtailError(
                f"{path}: keeps weights in another file ({tensor.name!r}); expected one whole file. Export the run"
                " again."
            )


def _check_ends(session: Any, record: OnnxRecord, *, where: str) -> None:
    inputs = {item.name: (item.type, list(item.shape)) for item in session.get_inputs()}
    outputs = {item.name: (item.type, list(item.shape)) for item in session.get_outputs()}
    expected = {"images", *(["content"] if record.needs_content else [])}
    images, answer = inputs.get("images"), outputs.get("probabilities")
    fits = (
        set(inputs) == expected
        and images is not None
        and images[0] == "tensor(uint8)"
        and images[1][1:] == list(record.pixels.shape)
        and answer is not None
        and answer[0] == "tensor(float)"
        and answer[1][1:] == [record.labels.num_classes]
        and outputs.get("positive", ("", []))[0] == "tensor(bool)"
    )
    if not fits:
        raise MedtailError(
            f"{where}: its inputs {inputs} and outputs {outputs} are not what its metadata promises. Export the run"
            " again."
        )
