"""Ten thousand malformed requests against a running server: no crash, no traceback, no hang, no file left.

    python benchmarks/serve_fuzz.py                              # 10,000 cases from seed 0
    python benchmarks/serve_fuzz.py --cases 300 --seed 7         # a short look
    python benchmarks/serve_fuzz.py --only 4711                  # one case again, with what came back

Case number n is made from the seed and n alone. Bodies: images of every format Pillow writes here and pydicom's own
test files, broken by flipped bits, cuts, splices, repeated parts and extreme numbers in their headers; archives, text,
scripts and noise; images that claim to be gigantic; DICOM whose elements lie. Requests: wrong lengths, chunks, methods,
hosts, origins, paths and queries, endless headers, clients that hang up. After all of them the server must still be the
same process, hold about the same memory, answer correctly, have logged no error, and its working and temporary folders
must be as empty as before. Ends with code 1 if not.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.diagnoser import build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace

ALLOWED = {200, 400, 403, 404, 405, 413, 414, 421, 422, 431, 499, 503, 504}
LEAKS = (b"Traceback", b'File "', b"site-packages", b".py", b"/proc/", b" at 0x")
PATHS = ("/api/predict", "/api/preview", "/api/heat?class_name=one")
CHUNKED = "Transfer-Encoding: chunked"
HANGS_UP = {"length too long", "length gigantic", "length over limit", "cut off", "noise"}
MUST_BE_ANSWERED = {"body over limit", "good chunks", "other origin", "odd method", "old protocol"}
"""Of the odd requests, those that are proper HTTP: the others may end without a word."""
LARGEST_SEED = 60_000
MAX_MB = 1.0
TIMEOUT_S = 10.0
MARGIN_S = 20.0
"""A busy machine may answer late; a hang is longer."""


def seeds() -> list[bytes]:
    """Whole files to break: every format written here, and the small test files that come with pydicom."""
    rng = np.random.default_rng(0)
    gray = Image.fromarray(rng.integers(0, 256, (37, 53), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (29, 31, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (21, 19), dtype=np.uint16))
    found = []
    for image in (
        gray,
        colour,
        deep,
        gray.convert("P"),
        colour.convert("RGBA"),
        gray.convert("1"),
        colour.convert("CMYK"),
    ):
        for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM"):
            stream = io.BytesIO()
            try:
                image.save(stream, format=kind)
            except (OSError, KeyError, ValueError):
                continue
            found.append(stream.getvalue())
    stream = io.BytesIO()
    gray.save(stream, format="GIF", save_all=True, append_images=[gray.rotate(90), gray.rotate(180)])
    found.append(stream.getvalue())
    import pydicom

    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size <= LARGEST_SEED)
    found += [path.read_bytes() for path in files if path.suffix in (".dcm", "")]
    return found


def broken(rng: np.random.Generator, whole: list[bytes]) -> bytes:
    """Break a file in one to four ways."""
    content = bytearray(whole[int(rng.integers(len(whole)))])
    for _ in range(int(rng.integers(1, 5))):
        if not content:
            return b""
        size = len(content)
        place = int(rng.integers(size)) if rng.random() < 0.5 else int(rng.integers(min(size, 400)))
        match int(rng.integers(9)):
            case 0:
                content[place] ^= 1 << int(rng.integers(8))
            case 1:
                content[place] = int(rng.integers(256))
            case 2:
                del content[place:]
            case 3:
                del content[place : place + int(rng.integers(1, 64))]
            case 4:
                content[place:place] = rng.bytes(int(rng.integers(1, 64)))
            case 5:
                other = whole[int(rng.integers(len(whole)))]
                content[place:] = other[min(place, len(other)) :]
            case 6:
                content[place:place] = content[place : place + int(rng.integers(1, 2000))] * int(rng.integers(1, 8))
            case 7:
                number = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                code = str(rng.choice(["<I", ">I", "<H", ">H"]))
                packed = struct.pack(code, number & (0xFFFF if code.endswith("H") else 0xFFFFFFFF))
                content[place : place + len(packed)] = packed
            case 8:
                for at in rng.integers(0, size, int(rng.integers(2, 60))):
                    content[int(at)] = int(rng.integers(256))
    return bytes(content[: int(MAX_MB * 1e6)])


def strange(rng: np.random.Generator) -> bytes:
    """A file that is no image, or an image that lies about its size."""
    size = int(rng.choice([0, 1, 2, 65_535, 100_000, 2**31 - 1, 2**32 - 1]))
    match int(rng.integers(13)):
        case 0:
            return rng.bytes(int(rng.integers(0, 5000)))
        case 1:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("../../evil.png", bytes(int(rng.integers(0, 3_000_000))))
            return stream.getvalue()
        case 2:
            return zlib.compress(bytes(int(rng.integers(0, 5_000_000))))
        case 3:
            height, colour = int(rng.integers(0, 2**31)), int(rng.integers(0, 8))
            header = struct.pack(">IIBBBBB", size % 2**31, height, 8, colour, 0, 0, 0)
            chunk = b"IHDR" + header
            data = zlib.compress(bytes(int(rng.integers(0, 3_000_000))))
            parts = [struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))]
            for name, body in ((b"iCCP", b"x\0\0" + data), (b"zTXt", b"x\0\0" + data), (b"IDAT", data)):
                if rng.random() < 0.6:
                    parts.append(
                        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
                    )
            return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
        case 4:
            most = rng.choice([0, 1, 255, 65535, 99999])
            return f"P{rng.integers(1, 8)} {size} {rng.integers(0, 2**31)} {most} ".encode()
        case 5:
            return b"GIF89a" + struct.pack("<HH", size % 65536, 65535) + rng.bytes(int(rng.integers(0, 300)))
        case 6:
            depth, packing = int(rng.choice([1, 4, 8, 24, 32])), int(rng.integers(0, 5))
            wide = size % 2**31
            numbers = (0, 0, 0, 54, 40, wide, -wide, 1, depth, packing, 0, 0, 0, 0, 0)
            return b"BM" + struct.pack("<IHHIIiiHHIIiiII", *numbers)
        case 7:
            packing, samples = int(rng.integers(0, 9)), int(rng.integers(0, 9))
            tags = [(256, 4, 1, size), (257, 4, 1, 65535), (258, 3, 1, 8), (259, 3, 1, packing), (262, 3, 1, 1)]
            tags += [(273, 4, 1, 8), (277, 3, 1, samples), (279, 4, 1, size)]
            entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
            follow = int(rng.choice([0, 8, 2**32 - 1]))  # 8 leads round in a circle
            return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", follow)
        case 8:
            return lying_dicom(rng)
        case 9:
            return b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><svg>&b;</svg>"
        case 10:
            return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"
        case 11:
            return b"%PDF-1.7\n" + rng.bytes(200)
        case _:
            return (
                b"\xff\xd8\xff\xe0" + struct.pack(">H", size % 65536) + b"JFIF\0" + rng.bytes(int(rng.integers(0, 400)))
            )


def lying_dicom(rng: np.random.Generator) -> bytes:
    """DICOM by its mark, with elements whose lengths, sizes, codings and nesting do not fit."""

    def element(group: int, number: int, kind: bytes, value: bytes, length: int | None = None) -> bytes:
        size = len(value) if length is None else length
        if kind in (b"OB", b"OW", b"SQ", b"UN"):
            return struct.pack("<HH", group, number) + kind + b"\0\0" + struct.pack("<I", size & 0xFFFFFFFF) + value
        return struct.pack("<HH", group, number) + kind + struct.pack("<H", size & 0xFFFF) + value

    syntaxes = [b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99",
                b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.4.80",
                b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.4.100", b"9.9.9"]  # fmt: skip
    syntax = syntaxes[int(rng.integers(len(syntaxes)))]
    meta = element(2, 0x10, b"UI", syntax + b"\0" * (len(syntax) % 2))
    numbers = [int(rng.choice([0, 1, 8, 12, 16, 32, 64, 255, 65535])) for _ in range(8)]
    body = b"".join(
        element(0x28, tag, b"US", struct.pack("<H", number))
        for tag, number in zip((0x02, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x06), numbers, strict=True)
        if rng.random() < 0.9
    )
    body += element(
        0x28, 0x04, b"CS", bytes(rng.choice([b"MONOCHROME2 ", b"RGB ", b"PALETTE COLOR ", b"YBR_FULL", b"??"]))
    )
    if rng.random() < 0.4:
        body += element(0x28, 0x08, b"IS", bytes(rng.choice([b"0 ", b"-1", b"999999999 ", b"x ", b"2 "])))
    if rng.random() < 0.4:
        body += element(0x28, 0x1050, b"DS", bytes(rng.choice([b"nan ", b"1e999 ", b"5\\6 ", b"", b"-0"])))
        body += element(0x28, 0x1051, b"DS", bytes(rng.choice([b"0 ", b"-5", b"1e-9", b"inf ", b"\\ "])))
    if rng.random() < 0.3:  # sequences in sequences
        nested = b""
        for _ in range(int(rng.integers(1, 400))):
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(nested)) + nested
            nested = element(0x08, 0x1140, b"SQ", item)
        body += nested
    pixels = rng.bytes(int(rng.integers(0, 3000)))
    length = int(rng.choice([len(pixels), 0, 2**32 - 1, 2**31, len(pixels) * 7 + 1]))
    body += element(0x7FE0, 0x10, bytes(rng.choice([b"OW", b"OB"])), pixels, length)
    if syntax.endswith(b".99"):
        packer = zlib.compressobj(wbits=-15)
        body = packer.compress(body + bytes(int(rng.integers(0, 20_000_000)))) + packer.flush()
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + body


@dataclass(frozen=True)
class Case:
    """One request as bytes; `is_whole` where a proper answer must come."""

    kind: str
    request: bytes
    is_whole: bool = True
    hangs_up: bool = False


def make_case(number: int, seed: int, host: str, whole: list[bytes]) -> Case:
    """Make the case of a number."""
    rng = np.random.default_rng((seed, number))
    kind = str(rng.choice(["broken", "strange", "request"], p=[0.62, 0.23, 0.15]))
    if kind != "request":
        body = broken(rng, whole) if kind == "broken" else strange(rng)[: int(MAX_MB * 1e6)]
        path = PATHS[int(rng.integers(len(PATHS)))]
        if rng.random() < 0.15:
            path += ("&" if "?" in path else "?") + f"frame={rng.integers(0, 4)}"
        return Case(kind, post(host, path, body))
    body = whole[int(rng.integers(len(whole)))]
    predict, preview = PATHS[:2]
    noise = "".join(chr(int(code)) for code in rng.integers(33, 127, int(rng.integers(1, 60))))
    length = len(body)
    sized = f"Content-Length: {length}"
    plain = noise.replace("#", "").replace("?", "")
    method = str(rng.choice(["PUT", "DELETE", "TRACE", "OPTIONS"]))
    odd = f"{predict}?frame={plain}&roi={plain}&size_mm={plain}"
    long = "X-Long: " + "x" * int(rng.integers(1, 40_000))
    many = [f"X-{n}: y" for n in range(int(rng.integers(1, 900)))]
    over = bytes(int(MAX_MB * 1e6) + int(rng.integers(1, 900_000)))
    chunk = f"{length:x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    cases: dict[str, bytes] = {
        "length too long": post(host, predict, body, length=length + 50),
        "length gigantic": post(host, predict, body, length=10**30),
        "length over limit": post(host, predict, body, length=50_000_000),
        "cut off": post(host, predict, body)[: int(rng.integers(1, 300))],
        "noise": rng.bytes(int(rng.integers(1, 2000))),
        "length too short": post(host, predict, body, length=max(0, length - 50)),
        "length no number": post(host, predict, body, length=noise),
        "bad chunks": head(host, predict, CHUNKED) + b"zz\r\n" + body,
        "chunks and length": head(host, predict, CHUNKED, "Content-Length: 5") + b"0\r\n\r\n",
        "wrong host": post(noise.replace(":", ""), predict, body),
        "odd path": post(host, "/" + plain, b""),
        "path out": post(host, f"/static/%2e%2e/%2e%2e/{plain}", b"", method="GET"),
        "odd query": post(host, odd, body),
        "unknown class": post(host, f"/api/heat?class_name={plain}", body),
        "long query": post(host, predict + "?frame=" + "0" * int(rng.integers(1, 5000)), body),
        "long header": head(host, predict, long, sized) + body,
        "many headers": head(host, predict, *many, sized) + body,
        "zero in header": head(host, predict, "X-Zero: a\0b", "Content-Length: 0"),
        "two hosts": head(host, predict, "Host: evil.example", "Content-Length: 0"),
        "upgrade": head(host, "/api/model", "Upgrade: websocket", "Connection: Upgrade", "Content-Length: 0"),
        "expects": head(host, preview, "Expect: 100-continue", sized) + body,
        "body over limit": post(host, preview, over),
        "good chunks": head(host, preview, CHUNKED) + chunk,
        "other origin": head(host, predict, "Origin: http://evil.example", sized) + body,
        "odd method": post(host, predict, b"", method=method),
        "old protocol": post(host, preview, body).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    }
    name = list(cases)[int(rng.integers(len(cases)))]
    return Case(name, cases[name], is_whole=name in MUST_BE_ANSWERED, hangs_up=name in HANGS_UP)


def head(host: str, path: str, *lines: str, method: str = "POST") -> bytes:
    text = [f"{method} {path} HTTP/1.1", f"Host: {host}", "X-Medtail: fuzz", "Connection: close", *lines]
    return ("\r\n".join(text) + "\r\n\r\n").encode("latin-1")


def post(host: str, path: str, body: bytes, *, length: object = None, method: str = "POST") -> bytes:
    return head(host, path, f"Content-Length: {len(body) if length is None else length}", method=method) + body


@dataclass
class Tally:
    """What came back of all cases."""

    answers: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    lock: threading.Lock = field(default_factory=threading.Lock)


def ask(address: Any, case: Case) -> tuple[int | None, bytes]:
    """Send a case; return the status and everything that came back. None where the server closed without a word."""
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S + MARGIN_S) as connection:
        reply = b""
        try:
            connection.sendall(case.request)
            if case.hangs_up:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(1 << 16):
                reply += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
    start = reply
    while start.startswith(b"HTTP/1.1 100"):
        start = start.partition(b"\r\n\r\n")[2]
    words = start[:40].split(b" ")
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else None), reply


def check(number: int, seed: int, address: Any, whole: list[bytes], tally: Tally, *, is_shown: bool = False) -> None:
    """Run one case and note what is wrong with its answer."""
    case = make_case(number, seed, address.netloc, whole)
    started = time.monotonic()
    wrong = ""
    status: int | None = None
    reply = b""
    try:
        status, reply = ask(address, case)
    except TimeoutError:
        wrong = "no answer in time"
    except OSError as error:
        wrong = f"cannot be reached ({error})"
    took = time.monotonic() - started
    text = reply.replace(b"app.py", b"")
    if not wrong and status is None and case.is_whole:
        wrong = "closed without an answer"
    elif status is not None and status not in ALLOWED:
        wrong = f"status {status}"
    elif status is not None and status >= 400 and any(leak in text for leak in LEAKS):
        wrong = f"says too much: {reply[-200:]!r}"
    if is_shown:
        print(f"case {number}, {case.kind}: {len(case.request):,} bytes sent, {took:.2f} s, status {status}")
        print(case.request[:300], "...", reply.decode("utf-8", "replace")[-600:], sep="\n")
    with tally.lock:
        tally.answers[str(status)] += 1
        tally.kinds[case.kind] += 1
        tally.slowest = max(tally.slowest, (took, number))
        if wrong:
            tally.wrong.append(f"case {number} ({case.kind}): {wrong}")


def make_run(folder: Path) -> Path:
    labels, pixels = LabelSpace(("one", "two")), PixelConfig(size_px=32)
    parts = ModelParts(pixels=pixels, backbone=ResNetConfig(), head=LinearHeadConfig(), link="sigmoid")
    model = build_diagnoser(
        backbone=parts.backbone, head=parts.head, labels=labels, link="sigmoid", channels=1, size_px=32
    )
    save_model(folder / "model", model, ModelCard(labels=labels, parts=parts))
    return folder


def resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone and show it")
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what Pillow says while the seeds are written
    whole = seeds()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("work", "temporary", "run"):
            (folder / part).mkdir()
        run = make_run(folder / "run")
        log = folder / "log.jsonl"
        call = "import sys; from medtail.cli.main import call; sys.exit(call(sys.argv[1:]))"
        with log.open("w", encoding="utf-8") as stream:
            server = subprocess.Popen(
                [sys.executable, "-P", "-c", call, "serve", str(run), "--port", "0", "--no-rate-limit", "--max-mb",
                 str(MAX_MB), "--max-pixels", "4000000", "--timeout", str(TIMEOUT_S), "--threads", "1"],
                stdout=subprocess.PIPE, stderr=stream, text=True, cwd=folder / "work",
                env={**os.environ, "TMPDIR": str(folder / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
            assert server.stdout is not None
            line = server.stdout.readline()
            if " open http" not in line:
                raise SystemExit(f"the server did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
            address = urlsplit(line.split(" open ")[1].strip())
            tally = Tally()
            numbers = [options.only] if options.only is not None else list(
                range(options.first, options.first + options.cases)
            )  # fmt: skip
            print(
                f"seed {options.seed}, cases {numbers[0]} to {numbers[-1]}, {len(whole)} whole files, python"
                f" {sys.version.split()[0]}"
            )
            check_good(address, whole)
            for number in numbers[:100] if len(numbers) > 1 else []:  # memory is compared after these
                check(number, options.seed, address, whole, Tally())
            before = resident_mb(server.pid)
            memory: list[float] = []
            started = time.monotonic()
            queue = iter(numbers)
            lock = threading.Lock()

            def work() -> None:
                while True:
                    with lock:
                        number = next(queue, None)
                        if sum(tally.answers.values()) >= len(numbers) * (len(memory) + 1) / 4:
                            memory.append(resident_mb(server.pid))
                    if number is None:
                        return
                    check(number, options.seed, address, whole, tally, is_shown=options.only is not None)

            workers = [threading.Thread(target=work) for _ in range(options.clients)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            took = time.monotonic() - started
            is_alive = server.poll() is None
            after = resident_mb(server.pid) if is_alive else 0.0
            if is_alive:
                check_good(address, whole)
                server.send_signal(signal.SIGINT)
                server.wait(30)
        lines = log.read_text(encoding="utf-8").splitlines()
        events, odd = [], []
        for line in lines:
            try:
                events.append(json.loads(line))
            except ValueError:
                odd.append(line)
        failed = [event for event in events if event.get("event") == "failed"]
        left = [str(path.relative_to(folder)) for part in ("work", "temporary") for path in (folder / part).rglob("*")]
    total = sum(tally.answers.values())
    print(
        f"{total:,} cases in {took:.0f} s ({total / took:.0f} a second), slowest {tally.slowest[0]:.2f} s (case"
        f" {tally.slowest[1]})"
    )
    print("answers: " + ", ".join(f"{count:,} x {status}" for status, count in tally.answers.most_common()))
    print("kinds: " + ", ".join(f"{count:,} {kind}" for kind, count in tally.kinds.most_common()))
    print(
        f"server alive: {is_alive}; memory {before:.0f} -> {after:.0f} MB (at the quarters"
        f" {', '.join(f'{value:.0f}' for value in memory)}); files left: {len(left)}; errors logged:"
        f" {len(failed)}; lines that are no JSON: {len(odd)}"
    )
    for text in [*tally.wrong[:20], *(str(event) for event in failed[:5]), *odd[:5], *left[:5]]:
        print(f"  ! {text}")
    good = is_alive and not (tally.wrong or failed or odd or left)
    print("nothing crashed, leaked, hung or stayed behind" if good else "NOT GOOD")
    return 0 if good else 1


def check_good(address: Any, whole: list[bytes]) -> None:
    """A proper file must be answered properly, before and after."""
    status, reply = ask(address, Case("good", post(address.netloc, PATHS[0], whole[0])))
    if status != 200 or b'"findings"' not in reply:
        raise SystemExit(f"a good file was not answered: {status} {reply[-300:]!r}")


if __name__ == "__main__":
    sys.exit(main())
