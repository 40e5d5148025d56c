"""Damage small valid files for a while and see whether a reader answers with anything but success or a MedtailError.

    python tools/fuzz.py manifest_csv --minutes 2 --engine mutate --seed 0
    python tools/fuzz.py all --minutes 10 --out findings

Readers and their files are in `fuzz_readers.py`, the damages in `fuzz_edits.py`. Three engines make the choices:
`mutate`, a random stream; `hypothesis`, which shrinks what it finds; `atheris`, which learns from what was run (extra
`fuzz`). A finding is any other exception, a wrong answer, more than `SECONDS` of CPU time or `MEBIBYTES` of further
memory for one file, or the death of the process. Each is kept as a folder with the damaged files and what was raised,
once per place it was raised at. Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_edits import Chooser, damaged
from fuzz_readers import READERS, Reader

ENGINES = ("mutate", "hypothesis", "atheris")
SECONDS = 10.0
MEBIBYTES = 2048
SILENCE_S = 120.0
"""A process that answers nothing for so long is stuck where no timer reaches it."""


class TooSlow(BaseException):
    """One file took more than `SECONDS` of CPU time."""


class FoundError(Exception):
    """A finding, for an engine that wants to be told by an exception."""


@dataclass
class Tally:
    """What was tried and what came of it."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    findings: dict[str, str] = field(default_factory=dict)


@dataclass
class Session:
    """A reader, its valid files, and the tally so far."""

    reader: Reader
    folder: Path
    out: Path
    tally: Tally = field(default_factory=Tally)
    valid: dict[str, bytes] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the valid files and read them once: what is imported then is not charged to a case."""
        self.reader.make(self.folder)
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        self.valid = {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}
        self._read()
        self._clean()

    @property
    def targets(self) -> list[str]:
        """The files that are damaged."""
        return [name for name in self.valid if re.fullmatch(self.reader.damage, name)]

    def case(self, chooser: Chooser) -> str | None:
        """Damage one file, read, and return the place of a new finding; None if there is none."""
        targets = self.targets
        name = targets[chooser.below(len(targets))]
        content = damaged(self.valid[name], name, chooser)
        (self.folder / name).write_bytes(content)
        (self.out / "now.txt").write_text(f"{name}\n{time.monotonic()}")
        self.tally.tried += 1
        began = time.process_time()
        try:
            with _cpu_limit(SECONDS):
                self._read()
            self.tally.accepted += 1
            return None
        except BaseException as error:
            return self._judge(error, name)
        finally:
            self.tally.slowest_s = max(self.tally.slowest_s, time.process_time() - began)
            self._clean()
            (self.folder / name).write_bytes(self.valid[name])
            if self.tally.tried % 20 == 0:
                self.save()

    def save(self) -> None:
        """Keep the tally where the watching process finds it."""
        (self.out / "tally.json").write_text(json.dumps(asdict(self.tally)))

    def _read(self) -> None:
        (self.folder / "out").mkdir(exist_ok=True)
        self.reader.read(self.folder)

    def _clean(self) -> None:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in self.valid:
                path.unlink()

    def _judge(self, error: BaseException, name: str) -> str | None:
        from medtail.errors import MedtailError

        if isinstance(error, MedtailError):
            self.tally.refused += 1
            return None
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        place = _place(error)
        if place in self.tally.findings:
            return None
        self.tally.findings[place] = f"{type(error).__name__}: {error}"[:300]
        kept = self.out / f"finding_{len(self.tally.findings)}"
        shutil.copytree(self.folder, kept, dirs_exist_ok=True)
        (kept / "raised.txt").write_text(f"{name}\n{place}\n" + "".join(traceback.format_exception(error)))
        self.save()
        return place


def _place(error: BaseException) -> str:
    """Return what was raised and the innermost line of medtail it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}medtail{os.sep}" in frame.filename] or frames
    return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"


@contextlib.contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {seconds:g} s of CPU time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEBIBYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# --- engines --------------------------------------------------------------------------------------------------------


class RandomChooser:
    """Choices of a random stream."""

    def __init__(self, stream: random.Random) -> None:
        self.stream = stream

    def below(self, count: int) -> int:
        """See `Chooser`."""
        return self.stream.randrange(count)

    def bytes(self, count: int) -> bytes:
        """See `Chooser`."""
        return self.stream.randbytes(count)


def with_mutate(session: Session, *, seed: int, seconds: float) -> None:
    """Choose at random until the time is over; the n-th case depends on seed and n alone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        session.case(RandomChooser(random.Random(f"{seed}/{session.tally.tried}")))


def with_hypothesis(session: Session, *, seed: int, seconds: float) -> None:
    """Let Hypothesis choose, and shrink what it finds."""
    import hypothesis
    from hypothesis import strategies as st

    class Drawn:
        def __init__(self, data: st.DataObject) -> None:
            self.data = data

        def below(self, count: int) -> int:
            return self.data.draw(st.integers(0, count - 1))

        def bytes(self, count: int) -> bytes:
            return self.data.draw(st.binary(max_size=count))

    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds += 1
        known = dict(session.tally.findings)

        @hypothesis.seed(seed * 10_000 + rounds)
        @hypothesis.settings(
            max_examples=25, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False, verbosity=hypothesis.Verbosity.quiet,
        )  # fmt: skip
        @hypothesis.given(st.data())
        def one(data: st.DataObject) -> None:
            session.tally.findings = dict(known)  # noqa: B023 - run within its round; shrinking finds it again and again
            if place := session.case(Drawn(data)):
                raise FoundError(place)

        with contextlib.suppress(FoundError):
            one()


def with_atheris(session: Session, *, seed: int, seconds: float) -> None:
    """Let libFuzzer choose by what was run. Does not return: libFuzzer ends the process."""
    import atheris

    class Consumed:
        def __init__(self, data: bytes) -> None:
            self.provider = atheris.FuzzedDataProvider(data)

        def below(self, count: int) -> int:
            return int(self.provider.ConsumeIntInRange(0, count - 1))

        def bytes(self, count: int) -> bytes:
            return bytes(self.provider.ConsumeBytes(count))

    def one(data: bytes) -> None:
        session.case(Consumed(data))

    corpus = session.out / "corpus"
    corpus.mkdir(exist_ok=True)
    for number in range(32):
        (corpus / str(number)).write_bytes(random.Random(f"{seed}/{number}").randbytes(64))
    arguments = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed + 1}", "-max_len=512", "-rss_limit_mb=0",
                 "-print_final_stats=0", "-verbosity=0", f"-artifact_prefix={session.out}/", str(corpus)]  # fmt: skip
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def work(name: str, engine: str, seed: int, seconds: float, out: Path) -> None:
    """Fuzz one reader in this process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["medtail"]):
            _run(name, with_atheris, seed=seed, seconds=seconds, out=out)
    else:
        _run(name, {"mutate": with_mutate, "hypothesis": with_hypothesis}[engine], seed=seed, seconds=seconds, out=out)


def _run(name: str, engine: Callable[..., None], *, seed: int, seconds: float, out: Path) -> None:
    folder = out / "files"
    folder.mkdir(parents=True)
    session = Session(READERS[name], folder, out)
    session.prepare()
    _limit_memory()
    session.save()
    try:
        engine(session, seed=seed, seconds=seconds)
    finally:
        session.save()


# --- watching -------------------------------------------------------------------------------------------------------


def fuzz(name: str, *, engine: str, seed: int, seconds: float, out: Path) -> Tally:
    """Fuzz one reader in a process of its own, so that its death is a finding and not the end.

    Args:
        name: A key of `READERS`.
        engine: One of `ENGINES`.
        seed: Of its choices.
        seconds: How long, by the clock, imports aside.
        out: A new folder: the tally, the files being read, and a folder a finding.
    """
    out.mkdir(parents=True)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(name, engine, seed, seconds, out))
    process.start()
    while process.is_alive():
        process.join(2.0)
        now = out / "now.txt"
        if process.is_alive() and now.exists() and time.time() - now.stat().st_mtime > SILENCE_S:
            process.kill()
            process.join()
    tally = Tally(**json.loads((out / "tally.json").read_text())) if (out / "tally.json").exists() else Tally()
    ended = process.exitcode or 0
    if ended < 0 or (ended > 0 and engine != "atheris") or not tally.tried:
        what = f"signal {-ended}" if ended < 0 else f"exit code {ended}"
        tally.findings[f"the process ended by {what}"] = f"while reading {out / 'files'}"
    else:
        shutil.rmtree(out / "files", ignore_errors=True)
    return tally


def main() -> None:
    """Fuzz the readers named and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("readers", nargs="+", metavar="READER", help=f"all, or some of: {', '.join(READERS)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all of them together")
    parser.add_argument("--engine", choices=ENGINES, default="mutate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="new folder for findings; a temporary one if left out")
    options = parser.parse_args()
    names = list(READERS) if options.readers == ["all"] else options.readers
    unknown = sorted(set(names) - set(READERS))
    if unknown:
        parser.error(f"no reader {', '.join(unknown)}; there are: {', '.join(READERS)}")
    out: Path = options.out or Path(tempfile.mkdtemp(prefix="fuzz-"))
    sys.stdout.write(f"{'reader':20} {'tried':>7} {'accepted':>8} {'refused':>7} {'slowest s':>9}  findings\n")
    total: dict[str, Any] = {"tried": 0, "findings": 0}
    for name in names:
        tally = fuzz(name, engine=options.engine, seed=options.seed, seconds=60 * options.minutes / len(names),
                     out=out / options.engine / name)  # fmt: skip
        sys.stdout.write(
            f"{name:20} {tally.tried:7} {tally.accepted:8} {tally.refused:7} {tally.slowest_s:9.2f}"
            f"  {len(tally.findings) or ''}\n"
        )
        for place, said in tally.findings.items():
            sys.stdout.write(f"    {place}: {said}\n")
        sys.stdout.flush()
        total["tried"] += tally.tried
        total["findings"] += len(tally.findings)
    sys.stdout.write(f"{total['tried']} files tried, {total['findings']} findings (kept in {out})\n")
    sys.exit(1 if total["findings"] else 0)


if __name__ == "__main__":
    main()
