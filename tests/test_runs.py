from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medtail.errors import MedtailError, UsageError
from medtail.runs import (
    atomic_path,
    copy_file,
    digest_bytes,
    digest_file,
    digest_json,
    new_file,
    new_folder,
    read_json,
    sweep,
    temporary_beside,
    versions,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


# --- atomic writes --------------------------------------------------------------------------------------------------


def test_a_finished_block_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "deep" / "er" / "table.csv"
    write_text(target, "old")
    with atomic_path(target) as path:
        assert path.suffix == ".csv"
        assert path.parent == target.parent
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(target.parent) == ["table.csv"]


@pytest.mark.parametrize(
    "mistake", [RuntimeError("boom"), KeyboardInterrupt(), MedtailError("bad table"), SystemExit(3)]
)
def test_whatever_stops_the_block_leaves_the_old_file(tmp_path, mistake):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def stop_half_way() -> None:
        with atomic_path(target) as path:
            path.write_text("half of the n")
            raise mistake

    with pytest.raises(type(mistake)) as caught:
        stop_half_way()
    assert caught.value is mistake
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_kill_in_the_block_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    script = (
        "import os, signal, sys\n"
        "from medtail.runs import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half of the n')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    # nobody can tidy up after such a kill, but what is left is hidden and never mistaken for the file
    assert all(name == "a.txt" or name.startswith(".a.tmp-") for name in names(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here to stand for a full disk")
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path):
    target = tmp_path / "a.csv"
    write_text(target, "old")

    def fill_the_disk() -> None:
        with atomic_path(target) as path:
            path.write_text("half of the n")
            Path("/dev/full").write_text("the rest")

    with pytest.raises(MedtailError, match=r"a\.csv: the disk is full; nothing was written there\. Free some space"):
        fill_the_disk()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "the disk is full; nothing was written there"),
        (errno.EDQUOT, "the disk is full; nothing was written there"),
        (errno.EACCES, r"may not be written \(Permission denied\)\. Choose another place with --out"),
        (errno.EROFS, r"may not be written \(Read-only file system\)\. Choose another place with --out"),
        (errno.EIO, r"cannot be written \(.*Input/output error.*\)\. Choose another place with --out"),
    ],
)
@pytest.mark.parametrize("where", ["mkdir", "write", "flush", "rename"])
def test_the_system_failing_at_any_step_is_explained_and_leaves_nothing(tmp_path, monkeypatch, number, expected, where):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    broken = {
        "mkdir": (Path, "mkdir"),
        "write": (Path, "write_text"),
        "flush": (os, "fsync"),
        "rename": (Path, "replace"),
    }
    with monkeypatch.context() as patched:
        patched.setattr(*broken[where], fail)
        with pytest.raises(MedtailError, match=rf"a\.txt: {expected}") as caught:
            write_text(tmp_path / "a.txt", "new")
    assert isinstance(caught.value.__cause__, OSError)
    assert names(tmp_path) == []


def test_a_folder_is_moved_into_place_as_a_whole(tmp_path):
    with atomic_path(tmp_path / "model") as path:
        path.mkdir()
        (path / "weights").write_text("w")
        assert names(tmp_path) == [path.name]
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["weights"]


def test_a_folder_that_failed_half_way_is_gone(tmp_path):
    def stop_half_way() -> None:
        with atomic_path(tmp_path / "model") as path:
            path.mkdir()
            (path / "weights").write_text("w")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        stop_half_way()
    assert names(tmp_path) == []


def test_a_folder_in_the_files_place_is_left_alone(tmp_path):
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "a.txt" / "kept").write_text("kept")
    with pytest.raises(MedtailError, match=r"a\.txt: cannot be written \(.*Is a directory"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"]
    assert names(tmp_path / "a.txt") == ["kept"]


def test_a_file_in_the_folders_place_is_explained(tmp_path):
    write_text(tmp_path / "out", "a file")
    with pytest.raises(MedtailError, match=r"a\.txt: cannot be written \(.*(File exists|Not a directory)"):
        write_text(tmp_path / "out" / "a.txt", "new")
    assert (tmp_path / "out").read_text() == "a file"


def test_a_name_too_long_is_explained(tmp_path):
    with pytest.raises(MedtailError, match=r"cannot be written .*File name too long"):
        write_text(tmp_path / ("x" * 300), "new")
    assert names(tmp_path) == []


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_json_is_sorted_readable_and_the_same_bytes_each_time(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "Müller ≥ 1"})
    assert (tmp_path / "a.json").read_bytes() == (
        '{\n "a": "Müller ≥ 1",\n "b": [\n  1,\n  2.5,\n  null\n ]\n}\n'.encode()
    )
    assert read_json(tmp_path / "a.json") == {"a": "Müller ≥ 1", "b": [1, 2.5, None]}


def test_json_refuses_nan_before_touching_the_disk(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"a\.json: is not readable JSON"),
        (b"{'a': 1}", r"a\.json: is not readable JSON"),
        (b'{"a": 1', r"a\.json: is not readable JSON"),
        (b"\xff\xfe", r"a\.json: is not readable JSON"),
        (b"[1]", r"a\.json: found list; expected a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_file_named(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(MedtailError, match=expected):
        read_json(tmp_path / "a.json")


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(MedtailError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")


# --- output places --------------------------------------------------------------------------------------------------


def test_a_new_or_empty_folder_is_made_and_given_back(tmp_path):
    assert new_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert new_folder(str(tmp_path / "a" / "b")).is_dir()


@pytest.mark.parametrize("inside", ["result.csv", ".hidden"])
def test_a_folder_that_holds_anything_is_refused_and_untouched(tmp_path, inside):
    (tmp_path / inside).write_text("kept")
    with pytest.raises(UsageError, match=r"--out .*: is not empty; medtail never overwrites\. Give a new folder or"):
        new_folder(tmp_path)
    assert (tmp_path / inside).read_text() == "kept"


def test_a_file_given_as_output_folder_is_refused(tmp_path):
    write_text(tmp_path / "out", "kept")
    with pytest.raises(UsageError, match=r"--out .*out: is a file; give a folder that is new or empty"):
        new_folder(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "kept"


def test_a_folder_that_cannot_be_made_is_explained(tmp_path, monkeypatch):
    write_text(tmp_path / "out", "a file")
    with pytest.raises(MedtailError, match="cannot be written"):
        new_folder(tmp_path / "out" / "deeper")

    def fail(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "locked").mkdir()
    for step, name in (("mkdir", "elsewhere"), ("iterdir", "locked")):
        with monkeypatch.context() as patched:
            patched.setattr(Path, step, fail)
            with pytest.raises(MedtailError, match=r"may not be written.*with --out"):
                new_folder(tmp_path / name)


def test_an_output_file_that_exists_is_refused_and_a_new_one_given_back(tmp_path):
    assert new_file(tmp_path / "new.csv") == tmp_path / "new.csv"
    assert not (tmp_path / "new.csv").exists()
    for taken in ("file", "folder", "link to nowhere"):
        path = tmp_path / taken
        if taken == "file":
            path.write_text("kept")
        elif taken == "folder":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(
            UsageError, match=r"exists already; medtail never overwrites\. Give a new name or remove it"
        ):
            new_file(path)


# --- digests and versions -------------------------------------------------------------------------------------------


def test_digests_are_sha256_and_parts_are_not_glued_together(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * (3 << 20))
    assert digest_file(tmp_path / "big") == hashlib.sha256(b"x" * (3 << 20)).hexdigest()
    assert digest_bytes() == hashlib.sha256(b"").hexdigest()
    assert len({digest_bytes(b"ab"), digest_bytes(b"a", b"b"), digest_bytes(b"", b"ab"), digest_bytes(b"ab", b"")}) == 4


def test_the_digest_of_json_knows_values_not_the_order_of_keys():
    assert digest_json({"a": {"x": 1, "y": 2}}) == digest_json({"a": {"y": 2, "x": 1}})
    assert digest_json({"a": [1, 2]}) != digest_json({"a": [2, 1]})
    assert digest_json({"a": 1}) != digest_json({"a": "1"})


def test_versions_are_told_without_importing_the_libraries():
    script = (
        "import json, sys\nfrom medtail.runs import versions\nprint(json.dumps([versions(), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    found, torch_loaded = json.loads(done.stdout)
    assert found == versions()
    assert not torch_loaded
    assert {"medtail", "python", "platform", "torch", "pandas"} <= set(found)
    assert all(found.values())


# --- what kills leave -----------------------------------------------------------------------------------------------


def left_by(folder: Path, name: str, *, script: str = "") -> Path:
    """Have another process begin to write a file and be killed."""
    program = f"""
import os, signal, sys
from pathlib import Path
from medtail.runs import temporary_beside
path = temporary_beside(Path(sys.argv[1]))
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("half")
print(path, flush=True)
{script}
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return Path(done.stdout.strip())


def test_a_folder_with_nothing_but_what_a_kill_left_is_a_new_one(tmp_path):
    stray = left_by(tmp_path / "run", "config.yaml")
    assert stray.exists()
    (tmp_path / "run" / ".lock").write_text("held by whoever calls")
    assert new_folder(tmp_path / "run") == tmp_path / "run"
    assert names(tmp_path / "run") == [".lock"]


def test_what_a_living_process_writes_is_no_leftover(tmp_path):
    mine = temporary_beside(tmp_path / "config.yaml")
    mine.write_text("half")
    with pytest.raises(UsageError, match="is not empty"):
        new_folder(tmp_path)
    assert sweep(tmp_path, alone=False) == 0
    assert mine.exists()
    assert sweep(tmp_path, alone=True) == 1
    assert not mine.exists()


def test_leftovers_are_swept_at_any_depth_and_other_names_stay(tmp_path, monkeypatch):
    strays = [left_by(tmp_path, "a.csv"), left_by(tmp_path / "deep" / "er", "state.safetensors")]
    kept = [tmp_path / name for name in (".a.tmp-1.csv", "a.tmp-0123456789abcdef01234567.csv", ".hidden", "deep/b.csv")]
    for path in kept:
        path.write_text("kept")
    # another machine's process may be alive: nothing is known of it
    with monkeypatch.context() as patched:
        patched.setattr("medtail.runs._machine", lambda: "0000")
        assert sweep(tmp_path, alone=False) == 0
    assert sweep(tmp_path, alone=False) == 2
    assert not any(path.exists() for path in strays)
    assert all(path.exists() for path in kept)
    assert sweep(tmp_path / "nowhere", alone=True) == 0


def test_a_copied_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "from.txt", "new")
    write_text(tmp_path / "to.txt", "old")

    def half(source, target):
        Path(target).write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("medtail.runs.shutil.copyfile", half)
        with pytest.raises(MedtailError, match=r"to\.txt: the disk is full"):
            copy_file(tmp_path / "from.txt", tmp_path / "to.txt")
    assert (tmp_path / "to.txt").read_text() == "old"
    copy_file(tmp_path / "from.txt", tmp_path / "to.txt")
    assert (tmp_path / "to.txt").read_text() == "new"
    assert names(tmp_path) == ["from.txt", "to.txt"]
