"""A server under many clients: latency, throughput, memory, and whether every answer is a proper one.

    python benchmarks/serve_load.py                     # an untrained efficientnet_lite0 at 160 px, 32 clients, 60 s
    python benchmarks/serve_load.py --run runs/my_run --image image.png
    python benchmarks/serve_load.py --seconds 5 --clients 8    # a short look

Starts `medtail serve` as a process of its own. Every answer must be a 200 or a 503 that says when to come back; all
else is counted as an error and ends the benchmark with code 1. What one request alone costs over the model call is
`serve_overhead.py`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from medtail.exchange.onnx import export_onnx
from medtail.exchange.onnx_engine import MODEL_FILE
from medtail.models.backbones import EfficientNetLite0Config
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.diagnoser import build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace

PAUSE_S = 0.1
"""What a client waits after a 503; the server asks for more, but a hurried client is the harder case."""


def make_run(folder: Path, size_px: int) -> Path:
    """Write an untrained run of `efficientnet_lite0` with 26 classes; its speed is a trained one's."""
    labels = LabelSpace(tuple(f"finding_{number:02d}" for number in range(26)))
    pixels = PixelConfig(size_px=size_px)
    parts = ModelParts(
        pixels=pixels, backbone=EfficientNetLite0Config(weights=None), head=LinearHeadConfig(), link="sigmoid"
    )
    model = build_diagnoser(
        backbone=parts.backbone, head=parts.head, labels=labels, link="sigmoid", channels=1, size_px=size_px
    )
    save_model(folder / "model", model, ModelCard(labels=labels, parts=parts))
    return folder


def make_pixels(height: int, width: int) -> np.ndarray:
    """Grey pixels, smooth as an ultrasound image, so that they compress like one."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    pixels: np.ndarray = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    return pixels


def make_image(height: int, width: int) -> bytes:
    """A grey PNG of the size of an ultrasound image."""
    stream = io.BytesIO()
    Image.fromarray(make_pixels(height, width)).save(stream, format="PNG")
    return stream.getvalue()


class Server:
    """`medtail serve` in a process of its own."""

    def __init__(self, run: Path, log: Path, *words: str) -> None:
        self.log_path = log
        self._log = log.open("w", encoding="utf-8")
        call = "import sys; from medtail.cli.main import call; sys.exit(call(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", call, "serve", str(run), "--port", "0", "--no-rate-limit", *words],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " open http" not in line:
            raise SystemExit(f"the server did not start; see {log}")
        self.address = urlsplit(line.split(" open ")[1].strip())

    def resident_mb(self) -> float:
        """Memory of the server and its decoders."""
        return sum(resident_mb(pid) for pid in [self.process.pid, *children(self.process.pid)])

    def cpu_seconds(self) -> float:
        """Processor time that the server and its decoders have used; unlike the clock, unmoved by a busy machine."""
        return sum(cpu_seconds(pid) for pid in [self.process.pid, *children(self.process.pid)])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        self._log.close()


def resident_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0.0)


def cpu_seconds(pid: int) -> float:
    """Nanoseconds on a core, as the scheduler counts them, summed over the threads."""
    return (
        sum(int(task.read_text(encoding="ascii").split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        / 1e9
    )


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in task.read_text(encoding="ascii").split()]
    return found


def percentiles(seconds: list[float]) -> str:
    values = np.array(seconds) * 1000
    return f"p50 {np.percentile(values, 50):7.1f} ms   p95 {np.percentile(values, 95):7.1f} ms"


async def client(server: Server, request: bytes, until: float, times: list[float], counts: Counter[str]) -> None:
    """Ask again and again over one connection until the time is over."""
    reader = writer = None
    while time.perf_counter() < until:
        started = time.perf_counter()
        try:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection(server.address.hostname, server.address.port)
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = head.split(" ", 2)[1]
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            await reader.readexactly(int(headers["content-length"]))
        except (OSError, asyncio.IncompleteReadError, KeyError, ValueError) as error:
            counts[f"error {type(error).__name__}"] += 1
            reader = writer = None
            await asyncio.sleep(PAUSE_S)
            continue
        counts[status if status != "503" or "retry-after" in headers else "503 without Retry-After"] += 1
        if status == "200":
            times.append(time.perf_counter() - started)
        else:
            await asyncio.sleep(PAUSE_S)
        if headers.get("connection") == "close":
            writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()


async def load(server: Server, content: bytes, *, clients: int, seconds: float, roi: str | None) -> bool:
    """Ask with many clients at once; print what came back and how memory went. Return whether all was as it should."""
    path = "/api/predict" if roi is None else f"/api/predict?roi={roi}"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {server.address.netloc}\r\nX-Medtail: load\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    times: list[float] = []
    counts: Counter[str] = Counter()
    memory: list[tuple[float, float]] = []
    started = time.perf_counter()

    async def watch() -> None:
        while True:
            memory.append((time.perf_counter() - started, server.resident_mb()))
            await asyncio.sleep(max(0.2, seconds / 60))

    watcher = asyncio.create_task(watch())
    request = head.encode() + content
    await asyncio.gather(*(client(server, request, started + seconds, times, counts) for _ in range(clients)))
    watcher.cancel()
    took = time.perf_counter() - started
    memory.append((took, server.resident_mb()))
    # from the second quarter on: the first fills caches and starts threads
    early = statistics.median(value for at, value in memory if seconds / 4 <= at <= seconds / 2)
    late = statistics.median(value for at, value in memory if at >= seconds * 3 / 4)
    answered = ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))
    print(f"  {clients} clients, {took:.1f} s: {answered}")
    print(f"  answered {len(times) / took:.1f} images a second; {percentiles(times) if times else 'none'}")
    print(f"  memory {early:.0f} MB in the second quarter, {late:.0f} MB in the last: {late - early:+.1f} MB")
    return set(counts) <= {"200", "503"} and bool(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a trained run; an untrained efficientnet_lite0 if left out")
    parser.add_argument("--image", type=Path, help="a file to send; a made-up 480 x 640 PNG if left out")
    parser.add_argument("--roi", help="x,y,width,height, for models that need a region")
    parser.add_argument("--size", type=int, default=160, help="pixels a side, without --run")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the model")
    parser.add_argument("--engine", default="torch", help="torch, or onnx (exported first if it is not there)")
    options = parser.parse_args()
    content = make_image(480, 640) if options.image is None else options.image.read_bytes()
    words = ["--no-heat", "--queue", str(options.queue), "--engine", options.engine]
    if options.threads is not None:
        words += ["--threads", str(options.threads)]
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or make_run(Path(folder), options.size)
        if options.engine == "onnx" and not (run / MODEL_FILE).exists():
            export_onnx(run, run / MODEL_FILE)
        server = Server(run, Path(folder) / "log.jsonl", *words)
        try:
            print(
                f"{run if options.run else f'efficientnet_lite0, {options.size} px, untrained'}; file of"
                f" {len(content):,} bytes; {os.cpu_count()} cores, {options.engine}"
            )
            print(f"load, queue of {options.queue}")
            good = asyncio.run(load(server, content, clients=options.clients, seconds=options.seconds, roi=options.roi))
        finally:
            server.stop()
    print("only 200 and 503 with Retry-After" if good else "ERRORS: see the counts")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
