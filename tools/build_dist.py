"""Build the wheel and the source archive twice and say whether the bytes agree.

    python tools/build_dist.py dist

The clock of everything inside is that of the last commit (or `SOURCE_DATE_EPOCH` where that is set), so that anybody
who builds the same commit with the same setuptools gets the same files. Each build runs in a copy of the files that git
knows, so that nothing lying about is packed. Needs `pip install build` and the build requirements of pyproject.toml
beside it (no isolated environment is made, so nothing is downloaded). Writes both files and `SHA256SUMS`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def committed_at(root: Path) -> str:
    """Return the time of the last commit in seconds since 1970, as text; `SOURCE_DATE_EPOCH` goes before it."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def known_files(root: Path) -> list[Path]:
    """Return the files git knows and those it would not ignore, as relative paths, those that are there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.decode().split("\0")
    return sorted(Path(name) for name in listed if name and (root / name).is_file())


def copied(root: Path, copy: Path) -> Path:
    """Copy the files of a checkout into a folder; return it."""
    for name in known_files(root):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((root / name).read_bytes())
        (copy / name).chmod(0o644)
    return copy


def build(source: Path, out: Path, *, epoch: str) -> list[Path]:
    """Build wheel and source archive of a copy; return them.

    Args:
        source: A copy of a checkout; the build leaves traces in it.
        out: A folder for the two files.
        epoch: Seconds since 1970 that everything inside is dated.
    """
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    built = sorted(out.iterdir())
    for path in built:
        if path.name.endswith(".tar.gz"):
            path.write_bytes(dated(path.read_bytes(), epoch=int(epoch)))
    return built


def dated(archive: bytes, *, epoch: int) -> bytes:
    """Return a source archive with one date, no owners and members in order; setuptools leaves those to chance.

    Args:
        archive: A `.tar.gz`.
        epoch: Seconds since 1970.
    """
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as source,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in sorted(source.getmembers(), key=lambda item: item.name):
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.size, plain.mtime = member.type, member.size, epoch
            plain.mode = 0o755 if member.isdir() else 0o644
            target.addfile(plain, source.extractfile(member) if member.isfile() else None)
    return gzip.compress(packed.getvalue(), 9, mtime=epoch)


def main() -> None:
    """Build twice, compare, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the files; made if missing")
    options = parser.parse_args()
    epoch = committed_at(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        one = copied(ROOT, Path(folder) / "one")  # both from one moment of the checkout
        shutil.copytree(one, Path(folder) / "other")
        first, second = (build(Path(folder) / name, Path(folder) / f"{name}-dist", epoch=epoch)
                         for name in ("one", "other"))  # fmt: skip
        sums = [
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in built} for built in (first, second)
        ]
        if sums[0] != sums[1]:
            sys.exit(f"two builds differ: {sums[0]} and {sums[1]}")
        options.out.mkdir(parents=True, exist_ok=True)
        for path in first:
            (options.out / path.name).write_bytes(path.read_bytes())
    listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums[0].items()))
    (options.out / "SHA256SUMS").write_text(listed, encoding="utf-8")
    sys.stdout.write(f"{listed}two builds agree, dated {epoch}\n")


if __name__ == "__main__":
    main()
