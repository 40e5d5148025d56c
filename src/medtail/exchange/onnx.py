"""Export: one ONNX file that scales bytes, runs every member, calibrates and decides, checked against torch.

Decoding, cutting and letterboxing stay outside, in `medtail.pixels`; the file says so. It is compared with the run on
batches of 1 and 7 images before it appears, and does not appear if a probability differs by more than 1e-4.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.exchange.onnx_engine import OnnxDiagnoser, require_onnxruntime
from medtail.exchange.onnx_graph import Answering
from medtail.exchange.onnx_record import OnnxRecord
from medtail.exchange.torch_engine import TorchDiagnoser
from medtail.models.checkpoint import RESEARCH_NOTE
from medtail.pixels.settings import PixelConfig
from medtail.runs import atomic_path, new_file, versions
from medtail.seeding import stream

__all__ = ["OnnxDiagnoser", "check_images", "export_onnx"]

OPSET = 18
LARGEST_BYTES = 1_900_000_000
"""One ONNX file ends at 2 GiB; the rest of it is the graph."""
LARGEST_DIFFERENCE = 1e-4
CHECKED_BATCHES = (1, 7)


def export_onnx(run: Path | str, out: Path | str) -> Path:
    """Write a trained run as one ONNX file.

    The file takes `images`, uint8 [N, channels, size, size], and for models that see a frequency band `content`,
    int64 [N, 4]. It gives `probabilities`, float32 [N, C]; `positive`, bool [N, C], the highest class of each
    exclusive group and a threshold everywhere else; and where the run is calibrated `scores`, what came before.

    Args:
        run: A run folder, or the model folder inside it; of one network or of an ensemble.
        out: A file that does not exist yet.

    Returns:
        The file.

    Raises:
        UsageError: The file exists.
        MedtailError: The run is damaged; its scores depend on the batch; a part of it cannot be exported; it is too
            large for one file; the file disagrees with torch; or the extra `onnx` is not installed.

    Example:
        >>> export_onnx("runs/first", "first.onnx")  # doctest: +SKIP
        PosixPath('first.onnx')
    """
    _require_onnx()
    out = new_file(out)
    reference = TorchDiagnoser(run)
    card = reference.card
    _check_size(reference.diagnosers, where=str(run))
    calibration = card.calibration
    thresholds = card.thresholds
    if calibration is not None:
        thresholds = None if calibration.thresholds is None else dict(calibration.thresholds.values)
    record = OnnxRecord(
        labels=card.labels,
        pixels=card.parts.pixels,
        thresholds=thresholds,
        raw_thresholds=card.thresholds,
        train_counts=card.train_counts,
        digests={
            "model": card.digests["weights"],
            **({} if calibration is None else {"calibration": calibration.digest}),
        },
        needs_content=reference.needs_content,
        members=len(reference.diagnosers),
        mirrored=reference.mirrored is not None,
        note=card.note or RESEARCH_NOTE,
        versions=versions() | _onnx_versions(),
    )
    limits = np.array([(thresholds or {}).get(name, 0.5) for name in card.labels.class_names])
    module = Answering(
        reference.diagnosers,
        labels=card.labels,
        maps=None if calibration is None else calibration.maps,
        thresholds=limits,
        mirrored=reference.mirrored,
        with_content=record.needs_content,
    ).eval()
    expected = [_expected(reference, record.pixels, count) for count in CHECKED_BATCHES]  # also fills torch's caches
    model = _trace(module, record, where=str(run))
    with atomic_path(out) as temporary:
        _write(model, record, temporary)
        found = OnnxDiagnoser(temporary)
        differences = _compare(found, reference, record.pixels, expected, out=out)
        _write(model, replace(record, differences=differences), temporary)
    return out


def check_images(pixels: PixelConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw prepared pixels that put a model to the test: smooth, noisy, dark and bright ones, some with bars.

    Args:
        pixels: The model's pixels.
        count: How many.

    Returns:
        uint8 [count, channels, S, S], the same for the same arguments, and their content boxes, int64 [count, 4].

    Example:
        >>> images, boxes = check_images(PixelConfig(size_px=16), 3)
        >>> images.shape, images.dtype.name, boxes.tolist()[0]
        ((3, 1, 16, 16), 'uint8', [0, 0, 16, 16])
    """
    random = stream(0, "onnx", "check", count)
    size = pixels.size_px
    coarse = random.random((count, pixels.channels, 4, 4))
    smooth = np.repeat(np.repeat(coarse, -(-size // 4), axis=2), -(-size // 4), axis=3)[:, :, :size, :size]
    noisy = random.random((count, 1, 1, 1))
    made = 255 * ((1 - noisy) * smooth + noisy * random.random(smooth.shape))
    images = np.clip(made * random.uniform(0.3, 1.2, (count, 1, 1, 1)), 0, 255).astype(np.uint8)
    boxes = np.tile([0, 0, size, size], (count, 1))
    bar = size // 5
    images[1::2, :, :bar] = 0
    images[1::2, :, size - bar :] = 0
    boxes[1::2, 1], boxes[1::2, 3] = bar, size - bar
    return images, boxes.astype(np.int64)


def _require_onnx() -> None:
    require_onnxruntime()
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise MedtailError(
            f"onnx: needs the packages 'onnx' and 'onnxscript' ({error}); install them with"
            " `pip install 'medtail[onnx]'`."
        ) from error
    del onnx, onnxscript


def _onnx_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}


def _check_size(diagnosers: Sequence[nn.Module], *, where: str) -> None:
    tensors = [tensor for module in diagnosers for tensor in (*module.parameters(), *module.buffers())]
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if total > LARGEST_BYTES:
        raise MedtailError(
            f"{where}: its weights are {total / 1e9:.1f} GB; expected at most {LARGEST_BYTES / 1e9:.1f} GB, for an ONNX"
            " file ends at 2 GiB. Export a member of the ensemble (RUN/members/member_0), or a smaller model."
        )


def _expected(reference: TorchDiagnoser, pixels: PixelConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    images, boxes = check_images(pixels, count)
    scores = reference.scores(images, boxes)
    if not np.isfinite(scores).all():
        raise MedtailError("model: gives scores that are no numbers; its training has diverged. Nothing was exported.")
    calibration = reference.card.calibration
    return scores, scores if calibration is None else calibration.apply(scores)


def _compare(
    found: OnnxDiagnoser,
    reference: TorchDiagnoser,
    pixels: PixelConfig,
    expected: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    out: Path,
) -> dict[str, float]:
    """Return the largest difference on probabilities a batch size; refuse a file that differs from torch."""
    differences: dict[str, float] = {}
    for count, (scores, probabilities) in zip(CHECKED_BATCHES, expected, strict=True):
        answer = found.answer(*check_images(pixels, count))
        gaps = [np.abs(answer.probabilities - probabilities).max(), np.abs(answer.scores - scores).max()]
        differences[str(count)] = float(max(gaps))
    worst = max(differences.values())
    if not worst <= LARGEST_DIFFERENCE:
        raise MedtailError(
            f"{out}: its probabilities differ from torch's by up to {worst:.2g}; expected at most"
            f" {LARGEST_DIFFERENCE:g}. It was not written. Please report the model's backbone"
            f" {reference.card.parts.backbone.kind!r} and head {reference.card.parts.head.kind!r}."
        )
    return differences


def _trace(module: Answering, record: OnnxRecord, *, where: str) -> Any:
    """Return the ONNX model as a protobuf."""
    images, boxes = (torch.from_numpy(part) for part in check_images(record.pixels, 2))
    given = (images, boxes) if record.needs_content else (images,)
    names = ["probabilities", "positive", *(["scores"] if module.calibrating is not None else [])]
    try:
        return _to_onnx(module, given, inputs=["images", "content"][: len(given)], outputs=names)
    except Exception as error:  # the exporter's errors share no base but this one
        part = _culprit(module, images.float() / 255, boxes if record.needs_content else None)
        raise MedtailError(
            f"{where}: {part} cannot be exported to ONNX ({_first_line(error)}). Predict with torch instead, or train"
            " with another part."
        ) from error


def _to_onnx(module: nn.Module, given: tuple[Tensor, ...], *, inputs: list[str], outputs: list[str]) -> Any:
    batch = torch.export.Dim("batch", min=1)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module,
            given,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in given),
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    for item in model.graph.input:
        if not item.type.tensor_type.shape.dim[0].dim_param:  # something, such as len(), asked for a number
            raise MedtailError(f"its graph is for {item.type.tensor_type.shape.dim[0].dim_value} images only")
    return model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep back what the exporter says to its own developers."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it misses torchvision, which no network of ours uses
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
            warnings.filterwarnings(
                "ignore", message=r"# The axis name: batch will not be used"
            )  # both inputs share it
            yield
    finally:
        logger.setLevel(level)


def _culprit(module: Answering, images: Tensor, content: Tensor | None) -> str:
    """Name the first part of the network that cannot be exported by itself."""
    from medtail.models.diagnoser import Diagnoser
    from medtail.pixels.dataset import content_masks

    member = module.members[0]
    assert isinstance(member, Diagnoser)
    masks = None if content is None else content_masks(content, size_px=images.shape[-1])
    with torch.no_grad():
        shown = member.inputs(images, masks)
        features = member.backbone(shown)
    parts: list[tuple[str, nn.Module, Tensor]] = [
        (f"its backbone ({type(member.backbone).__name__})", member.backbone, shown.detach()),
        (f"its head ({type(member.head).__name__})", member.head, features.detach()),
    ]
    for name, part, given in parts:
        try:
            _to_onnx(part, (given,), inputs=["given"], outputs=["found"])
        except Exception:  # the exporter's errors share no base but this one
            return name
    return "it"


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # the exporter wraps its reason several times
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _write(model: Any, record: OnnxRecord, path: Path) -> None:
    """Write a model with its record, without the places in source files that the exporter notes at every node."""
    from onnx import helper

    graphs = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for item in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    model.producer_name, model.producer_version = "medtail", record.versions.get("medtail", "")
    model.doc_string = record.note
    helper.set_model_props(model, record.to_metadata())
    path.write_bytes(model.SerializeToString(deterministic=True))
