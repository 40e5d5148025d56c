"""Int8: an exported file with smaller weights, accepted only where its loss in average precision is small.

Two schemes. `dynamic` keeps matrices as bytes and measures each image's range while it runs: what pays for
transformers. Convolutions run many times slower that way, so `static` takes their ranges from images of the train
fold beforehand: what pays for convolutional networks. What it costs is measured on the tune fold, never on test.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from medtail.errors import MedtailError
from medtail.exchange.onnx_engine import OnnxDiagnoser, predict_onnx
from medtail.exchange.onnx_record import OnnxRecord
from medtail.judging.comparison import ComparisonConfig, compare
from medtail.judging.decisions import decide
from medtail.pixels.store import PixelStore, open_store
from medtail.runs import atomic_path, new_file
from medtail.seeding import stream
from medtail.tables.manifest import Manifest
from medtail.tables.selection import match_classes

Scheme = Literal["dynamic", "static"]
DYNAMIC_OPERATORS = ("MatMul", "Gemm")
# Clip and Relu beside them: else the range is taken before the clipping, and a ReLU6 network loses its resolution
STATIC_OPERATORS = ("Conv", "MatMul", "Gemm", "Add", "Clip", "Relu")
RANGE_IMAGES = 128
"""Train images that static ranges are taken from."""
RANGE_BATCH = 16


@final
@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What a quantisation brought and cost.

    Attributes:
        path: The file; None if it was refused.
        scheme: How it was made.
        bytes_before: Size of the float32 file.
        bytes_after: Size of the int8 file.
        images: Tune images it was judged on.
        patients: Of how many patients.
        ap_before: Macro average precision of the float32 file on tune.
        ap_after: That of the int8 file.
        low: Lower end of the paired 95 % interval of `ap_after - ap_before` over patients; NaN if there is none.
        high: Upper end.
        accept_loss: The largest loss that was acceptable.
        largest_change: Largest change of any probability.
        decisions_changed: Share of (image, class) decisions that turn.
    """

    path: Path | None
    scheme: Scheme
    bytes_before: int
    bytes_after: int
    images: int
    patients: int
    ap_before: float
    ap_after: float
    low: float
    high: float
    accept_loss: float
    largest_change: float
    decisions_changed: float

    @property
    def difference(self) -> float:
        """Change of macro average precision; below 0 is a loss."""
        return self.ap_after - self.ap_before

    @property
    def accepted(self) -> bool:
        """Whether even the interval's worst end loses no more than is acceptable."""
        # nothing changed, or there is no interval to go by
        worst = self.difference if np.isnan(self.low) and self.difference == 0 else self.low
        return bool(worst >= -self.accept_loss)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; undefined numbers are None."""
        value = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "path"}
        value |= {"difference": self.difference, "accepted": self.accepted}
        kept = {name: None if isinstance(item, float) and np.isnan(item) else item for name, item in value.items()}
        return {**kept, "path": None if self.path is None else str(self.path)}

    def text(self) -> str:
        """Return a summary for people."""
        spread = "no interval" if np.isnan(self.low) else f"95 % over patients [{self.low:+.4f}, {self.high:+.4f}]"
        return "\n".join(
            [
                f"int8, {self.scheme}: {self.bytes_before / 1e6:.1f} MB become {self.bytes_after / 1e6:.1f} MB.",
                f"On {self.images:,} tune images of {self.patients:,} patients: macro AP {self.ap_before:.4f} becomes"
                f" {self.ap_after:.4f}, {self.difference:+.4f} ({spread}).",
                f"Largest change of a probability {self.largest_change:.4f}; {self.decisions_changed:.2%} of the"
                " decisions turn.",
            ]
        )


def quantise_onnx(
    source: Path | str,
    out: Path | str,
    manifest: Manifest,
    *,
    scheme: Scheme | None = None,
    accept_loss: float = 0.01,
    cache: Path | None = None,
    seed: int = 0,
) -> Quantised:
    """Make an int8 file of a float32 one, measure what it loses, and keep it only if that is acceptable.

    Probabilities of a `dynamic` file are computed one image at a time: its ranges are taken over a whole batch, and an
    image's answer must not depend on its company.

    Args:
        source: A file of `export_onnx`.
        out: A file that does not exist yet.
        manifest: The run's own table: ranges come from `train`, the loss from `tune`.
        scheme: `static` where most weights are those of convolutions, else `dynamic`, if None.
        accept_loss: Largest loss of macro average precision that the lower end of the paired interval may show, >= 0.
        cache: Folder of prepared pixels; the person's own if None.
        seed: Of the images drawn for ranges, and of the resamples.

    Returns:
        What it brought and cost; `path` is None, and no file is written, where it was refused.

    Raises:
        UsageError: `out` exists.
        MedtailError: The file is int8 already, the manifest lacks a fold or classes, or onnxruntime cannot quantise
            its graph.
    """
    out = new_file(out)
    if not accept_loss >= 0:
        raise MedtailError(f"accept_loss: found {accept_loss!r}; expected a loss of average precision >= 0.")
    before = OnnxDiagnoser(source)
    record = before.record
    if record.precision != "float32":
        raise MedtailError(f"{source}: is {record.precision} already; expected a float32 file of `medtail export`.")
    _check_folds(manifest)
    with tempfile.TemporaryDirectory() as folder, _quiet_quantiser():
        prepared = _prepare(Path(source), Path(folder) / "prepared.onnx")
        chosen = scheme or _cheaper(prepared)
        found = Path(folder) / "int8.onnx"
        try:
            if chosen == "dynamic":
                _dynamic(prepared, found)
            else:
                rows = _range_rows(manifest, seed=seed)
                store = open_store(match_classes(rows, record.labels), record.pixels, cache=cache)
                _static(prepared, found, store, needs_content=record.needs_content)
        except MedtailError:
            raise
        except Exception as error:  # onnxruntime's errors share no base but this one
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MedtailError(f"{source}: cannot be made int8, {chosen} ({reason}). Keep the float32 file.") from error
        _rewrite(found, replace(record, precision="int8", quantisation={"scheme": chosen}))
        made = _judge(before, OnnxDiagnoser(found), manifest, chosen, accept_loss, cache=cache, seed=seed)
        if not made.accepted:
            return made
        kept = {name: value for name, value in made.to_json().items() if name != "path"}
        with atomic_path(out) as temporary:
            temporary.write_bytes(found.read_bytes())
            _rewrite(temporary, replace(record, precision="int8", quantisation=kept))
    return replace(made, path=out)


def _check_folds(manifest: Manifest) -> None:
    for fold, purpose in (("train", "ranges come from it"), ("tune", "the loss is measured there")):
        if not (manifest.folds == fold).any():
            raise MedtailError(f"{manifest.name}, column 'fold': no row is in {fold!r}; {purpose}.")


def _range_rows(manifest: Manifest, *, seed: int) -> Manifest:
    train = manifest.in_fold("train")
    if "origin" in train.frame:
        real = (train.frame["origin"] != "synthetic").to_numpy()
        train = train.take(np.flatnonzero(real)) if real.any() else train
    count = min(RANGE_IMAGES, len(train))
    return train.take(np.sort(stream(seed, "quantise", "ranges").choice(len(train), size=count, replace=False)))


def _judge(
    before: OnnxDiagnoser,
    after: OnnxDiagnoser,
    manifest: Manifest,
    scheme: Scheme,
    accept_loss: float,
    *,
    cache: Path | None,
    seed: int,
) -> Quantised:
    first, second = (predict_onnx(item, manifest, fold="tune", cache=cache) for item in (before, after))
    config = ComparisonConfig(metrics=("ap",), levels=("macro",), bootstrap=1000, seed=seed)
    found = compare({"int8": second, "float32": first}, config=config)
    row = found.differences.iloc[0]
    values: Mapping[str, float] = dict(zip(found.systems["system"], found.systems["value"], strict=True))
    if np.isnan(values["float32"]):
        raise MedtailError(
            f"{manifest.name}: no class has both kinds of images in 'tune', so a loss cannot be measured. Keep the"
            " float32 file."
        )
    return Quantised(
        path=None,
        scheme=scheme,
        bytes_before=before.path.stat().st_size,
        bytes_after=after.path.stat().st_size,
        images=len(first),
        patients=len(set(first.patients)),
        ap_before=float(values["float32"]),
        ap_after=float(values["int8"]),
        low=float(row["low"]),
        high=float(row["high"]),
        accept_loss=accept_loss,
        largest_change=float(np.abs(second.scores - first.scores).max()),
        decisions_changed=float((decide(second) != decide(first)).mean()),
    )


def _prepare(source: Path, target: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    return target


def _cheaper(prepared: Path) -> Scheme:
    """Say which scheme pays: static where convolutions hold most of the weights."""
    import onnx

    graph = onnx.load(str(prepared)).graph
    sizes = {item.name: int(np.prod(item.dims, dtype=np.int64)) for item in graph.initializer}
    weights = {"conv": 0, "matrix": 0}
    for node in graph.node:
        kind = "conv" if node.op_type == "Conv" else "matrix" if node.op_type in DYNAMIC_OPERATORS else None
        if kind is not None:
            weights[kind] += sum(sizes.get(name, 0) for name in node.input)
    return "static" if weights["conv"] > weights["matrix"] else "dynamic"


def _dynamic(prepared: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]

    model = onnx.load(str(prepared))
    # it turns transposed matrices round without correcting the shapes noted for them
    del model.graph.value_info[:]
    quantize_dynamic(model, str(target), op_types_to_quantize=list(DYNAMIC_OPERATORS), per_channel=True)


def _static(prepared: Path, target: Path, store: PixelStore, *, needs_content: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(store), RANGE_BATCH):
            rows = np.arange(start, min(start + RANGE_BATCH, len(store)))
            content = {"content": store.content_boxes[rows].astype(np.int64)} if needs_content else {}
            yield {"images": store.images(rows), **content}

    @final
    class Images(CalibrationDataReader):  # type: ignore[misc] # the library has no types
        def __init__(self) -> None:
            self.left = batches()

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    quantize_static(
        str(prepared),
        str(target),
        Images(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(STATIC_OPERATORS),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"CalibMovingAverage": True},  # one odd image must not widen the range for all
    )


def _rewrite(path: Path, record: OnnxRecord) -> None:
    """Give a file the record again, which quantisation drops or leaves as it was."""
    import onnx

    model = onnx.load(str(path))
    model.producer_name = "medtail"
    onnx.helper.set_model_props(model, record.to_metadata())
    path.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Keep back what the quantiser says to the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
