"""What one request costs over the bare model call, stage by stage.

    python benchmarks/serve_overhead.py --threads 1                       # an untrained efficientnet_lite0 at 160 px
    python benchmarks/serve_overhead.py --threads 1 --engines torch,onnx --kinds png,jpeg,dicom
    python benchmarks/serve_overhead.py --run runs/my_run --image image.png --rounds 50

Starts `medtail serve` once an engine, each as a process of its own, and compares in interleaved rounds on one file, so
that a busy machine slows all alike: `bare`, the model on prepared pixels; `local`, opening the file, fitting it, the
model and the findings in words, in one process, as a script would do it; `served`, the same by HTTP. The floor is what
no server can save: reading and fitting the file, for PNG the unpacking of its bytes alone. Stages of a served request
come from the server's own log. Processor time is that of all processes and threads of the server, clients left out.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from serve_load import Server, make_pixels, make_run

from medtail.exchange.findings import findings_by
from medtail.exchange.onnx import export_onnx
from medtail.exchange.onnx_engine import MODEL_FILE
from medtail.pixels.decode import image_from_bytes
from medtail.pixels.letterbox import letterbox
from medtail.serving.decoder import name_by_content
from medtail.serving.diagnosis import Diagnosis

WARM_UP = 5
ASKED = 0.15
Way = Callable[[], object]


def make_file(kind: str, height: int, width: int) -> bytes:
    """The bytes of a grey image the size of an ultrasound image."""
    pixels = make_pixels(height, width)
    stream = io.BytesIO()
    if kind == "dicom":
        write_dicom(pixels, stream)
    else:
        Image.fromarray(pixels).save(stream, format=kind.upper(), **({"quality": 90} if kind == "jpeg" else {}))
    return stream.getvalue()


def write_dicom(pixels: np.ndarray, stream: io.BytesIO) -> None:
    """Write eight bits a pixel, not compressed."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = UltrasoundImageStorage, "2.25.1"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    header.add_new("PixelData", "OB", pixels.tobytes())
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    dcmwrite(stream, header, enforce_file_format=True)


def packed(content: bytes) -> bytes:
    """The packed pixels of a PNG file, for the time that unpacking them takes; nothing of other files."""
    found, at = bytearray(), 8
    while content.startswith(b"\x89PNG") and at + 8 <= len(content):
        size = struct.unpack(">I", content[at : at + 4])[0]
        if content[at + 4 : at + 8] == b"IDAT":
            found += content[at + 8 : at + 8 + size]
        at += 12 + size
    return bytes(found)


@dataclass(frozen=True)
class Served:
    """A server and the way to ask it."""

    server: Server
    connection: http.client.HTTPConnection
    path: str
    content: bytes

    def __call__(self) -> None:
        self.connection.request("POST", self.path, body=self.content, headers={"X-Medtail": "benchmark"})
        reply = self.connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise SystemExit(f"the server answered {reply.status}: {text[:300]!r}")

    def requests(self) -> list[dict[str, Any]]:
        """What the server logged of each, in order."""
        events = [json.loads(line) for line in self.server.log_path.read_text(encoding="utf-8").splitlines()]
        return [event for event in events if event["event"] == "request"]


def ways_of(content: bytes, models: dict[str, Diagnosis], roi: Any) -> dict[str, Way]:
    """What is timed in this process."""
    one = next(iter(models.values()))
    name = name_by_content(content)
    pixels = image_from_bytes(content, name=name)
    square, box = letterbox(pixels, config=one.pixels, roi=roi)
    scores = one.probabilities(square, box)
    idat = packed(content)
    ways: dict[str, Way] = {
        "read": lambda: image_from_bytes(content, name=name),
        "fit": lambda: letterbox(pixels, config=one.pixels, roi=roi),
        "words": lambda: json.dumps(findings_by(one.evidence, scores, image_id="x").to_json()),
    }
    if idat:
        ways = {"unpack": lambda: zlib.decompress(idat), **ways}

    def local(model: Diagnosis) -> Way:
        def run() -> str:
            found, where = letterbox(image_from_bytes(content, name=name), config=model.pixels, roi=roi)
            return json.dumps(model.findings(found, where, image_id="x").to_json())

        return run

    for engine, model in models.items():
        ways[f"bare {engine}"] = lambda model=model: model.probabilities(square, box)  # type: ignore[misc]
        ways[f"local {engine}"] = local(model)
    return ways


@dataclass(frozen=True)
class Times:
    """Milliseconds of one way, a round each."""

    wall: np.ndarray
    processor: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.wall))

    def __str__(self) -> str:
        low, high = np.percentile(self.wall, [5, 95])
        return f"{self.median:8.2f} {low:8.2f} {high:8.2f} {self.processor.mean():10.2f}"


def measure(ways: dict[str, Way], *, rounds: int, pause_s: float) -> dict[str, Times]:
    """Time every way once a round."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + WARM_UP):
        for name, way in ways.items():
            clock = way.server.cpu_seconds if isinstance(way, Served) else time.process_time
            before, started = clock(), time.perf_counter()
            way()
            took = time.perf_counter() - started
            if isinstance(way, Served):
                time.sleep(0.002)  # it writes its log after the answer
            if number >= WARM_UP:
                wall[name].append(1000 * took)
                spent[name].append(1000 * (clock() - before))
        time.sleep(pause_s)
    return {name: Times(np.array(wall[name]), np.array(spent[name])) for name in ways}


def tell(engine: str, times: dict[str, Times], served: Served, *, rounds: int) -> None:
    """Print one engine's overhead and where it comes from."""
    bare, local, whole = times[f"bare {engine}"], times[f"local {engine}"], times[f"served {engine}"]
    log = served.requests()[-rounds:]

    def logged(name: str) -> np.ndarray:
        return np.array([event[name] for event in log], dtype=float)

    body, opened, decoder, work, total = (
        logged(name) for name in ("body_ms", "open_ms", "decoder_ms", "work_ms", "ms")
    )
    floor = times["read"].median + times["fit"].median
    rows = [
        ("body received", None, body),
        ("file read and fitted", floor, decoder),
        ("  handed to its process and back", None, opened - decoder),
        ("model and findings", bare.median, work),
        ("frame, hand-overs, JSON", times["words"].median, total - body - opened - work),
        ("client and network", None, whole.wall - total),
    ]
    print(f"\n{engine}: where the milliseconds go, medians" + " " * 7 + "one process   served")
    for name, alone, values in rows:
        shown = "" if alone is None else f"{alone:.2f}"
        print(f"  {name:44} {shown:>11} {np.median(values):8.2f}")
    print(f"  {'together':44} {local.median:11.2f} {whole.median:8.2f}")
    for name, other in (("bare model call", bare), ("same work in one process", local)):
        paired = float(np.median(whole.wall - other.wall))
        share = whole.median / other.median - 1
        work_share = whole.processor.mean() / other.processor.mean() - 1
        print(f"served over the {name:25} {share:+7.1%} ({paired:+.2f} ms paired); processor {work_share:+7.1%}")
    print(f"no server can save: reading and fitting the file, {floor / bare.median:.1%} of the bare call", end="")
    print(f", unpacking it {times['unpack'].median / bare.median:.1%}" if "unpack" in times else "")
    print(
        f"asked: at most {ASKED:.0%} over the bare call: {'kept' if whole.median <= 1.15 * bare.median else 'NOT kept'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a trained run; an untrained efficientnet_lite0 if left out")
    parser.add_argument("--image", type=Path, help="a file to send; made-up ones of 480 x 640 if left out")
    parser.add_argument("--roi", help="x,y,width,height, for models that need a region")
    parser.add_argument("--size", type=int, default=160, help="pixels a side, without --run")
    parser.add_argument("--engines", default="torch", help="by commas: torch, onnx (exported first if it is not there)")
    parser.add_argument("--kinds", default="png", help="of made-up files, by commas: png, jpeg, bmp, dicom")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between rounds, to be gentle to others")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model, on both sides")
    options = parser.parse_args()
    engines = options.engines.split(",")
    torch.set_num_threads(options.threads)
    region: Any = None if options.roi is None else tuple(int(word) for word in options.roi.split(","))
    path = "/api/predict" if options.roi is None else f"/api/predict?roi={options.roi}"
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or make_run(Path(folder), options.size)
        if "onnx" in engines and not (run / MODEL_FILE).exists():
            export_onnx(run, run / MODEL_FILE)
        models: dict[str, Diagnosis] = {
            engine: Diagnosis(run, with_heat=False, engine=engine, threads=options.threads)  # type: ignore[arg-type]
            for engine in engines
        }
        words = ["--no-heat", "--threads", str(options.threads)]
        servers = {
            engine: Server(run, Path(folder) / f"{engine}.jsonl", "--engine", engine, *words) for engine in engines
        }
        try:
            for kind in options.kinds.split(",") if options.image is None else [options.image.name]:
                content = make_file(kind, 480, 640) if options.image is None else options.image.read_bytes()
                print(
                    f"\n{run.name if options.run else f'efficientnet_lite0, {options.size} px, untrained'}; {kind} of"
                    f" {len(content):,} bytes; {os.cpu_count()} cores, torch {torch.__version__},"
                    f" {options.threads} threads; {options.rounds} interleaved rounds"
                )
                ways = ways_of(content, models, region)
                for engine, server in servers.items():
                    host, port = str(server.address.hostname), server.address.port
                    connection = http.client.HTTPConnection(host, port, timeout=60)
                    ways[f"served {engine}"] = Served(server, connection, path, content)
                times = measure(ways, rounds=options.rounds, pause_s=options.pause)
                print(f"{'':14} {'p50':>8} {'p5':>8} {'p95':>8} {'processor':>10}   ms an image")
                for name, found in times.items():
                    print(f"{name:14} {found}")
                for engine in engines:
                    served = ways[f"served {engine}"]
                    assert isinstance(served, Served)
                    tell(engine, times, served, rounds=options.rounds)
                    served.connection.close()
        finally:
            for server in servers.values():
                server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
