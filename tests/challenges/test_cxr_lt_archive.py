"""Archives from strangers: the one CSV comes out in memory, everything hostile is refused, nothing reaches the disk."""

from __future__ import annotations

import gzip
import random
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from medtail.challenges import cxr_lt_archive
from medtail.challenges.cxr_lt_archive import read_submission_bytes, read_table_bytes
from medtail.errors import MedtailError

TABLE = b"dicom_id,Hernia\na,0.5\n"


def make(path: Path, entries: dict[str, bytes] | list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, content)
    return path


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def refused(path: Path) -> str:
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(MedtailError) as caught:
        read_submission_bytes(path)
    assert sorted(path.parent.rglob("*")) == before, "something was written"
    return str(caught.value)


@pytest.mark.parametrize("name", ["s.csv", "deep/er/s.CSV", "mycode/s.csv"])
def test_the_one_csv_is_found_at_any_depth(tmp_path, name):
    found = {name: TABLE, "code/train.csv": b"x", "run/code/y.csv": b"x", "__MACOSX/._s.csv": b"x", "._s.csv": b"x"}
    path = make(tmp_path / "s.zip", {**found, "readme.txt": b"x", "code/": b""})
    assert read_submission_bytes(path) == TABLE
    assert list(tmp_path.iterdir()) == [path], "nothing is extracted"


def test_two_csvs_are_named(tmp_path):
    text = refused(make(tmp_path / "s.zip", {"a.csv": TABLE, "b/c.csv": TABLE}))
    assert "holds 2 CSVs ('a.csv', 'b/c.csv'); expected exactly one" in text


def test_one_name_twice_is_two_csvs(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = make(tmp_path / "s.zip", [("a.csv", TABLE), ("a.csv", TABLE)])
    assert "holds 2 CSVs" in refused(path)


def test_no_csv_says_what_is_there(tmp_path):
    text = refused(make(tmp_path / "s.zip", {"code/a.csv": TABLE, "inner.zip": b"PK"}))
    assert "holds no CSV outside code/ and __MACOSX/" in text
    assert "code/a.csv, inner.zip" in text


@pytest.mark.parametrize(
    "name",
    ["../s.csv", "a/../../s.csv", "/etc/s.csv", "C:/s.csv", "..\\s.csv", "\\\\server\\s.csv", "a/..", "//s.csv"],
)
def test_a_path_outside_the_archive_is_refused_even_beside_a_good_table(tmp_path, name):
    text = refused(make(tmp_path / "s.zip", {"fine.csv": TABLE, name: b"x"}))
    assert "a path outside the archive" in text


def test_a_name_cut_by_a_zero_byte_is_refused(tmp_path):
    path = patched(make(tmp_path / "s.zip", {"s.csvXYZ": TABLE}), b"s.csvXYZ", b"s.csv\x00YZ")
    assert "a path outside the archive" in refused(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    entry = zipfile.ZipInfo("s.csv")
    entry.external_attr = (kind | 0o777) << 16
    assert "'s.csv': a link, not a file" in refused(make(tmp_path / "s.zip", [(entry, b"/etc/passwd")]))


def test_an_encrypted_entry_is_refused(tmp_path):
    path = make(tmp_path / "s.zip", {"s.csv": TABLE})
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)
    assert "'s.csv': encrypted; expected no password" in refused(path)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path):
    path = make(tmp_path / "s.zip", {"s.csv": b"0" * (3 * 2**20)})
    assert path.stat().st_size < 10_000
    assert "unpacks" in refused(path)
    assert "A zip bomb?" in refused(path)


def test_a_table_beyond_the_limit_is_refused_by_what_it_declares(tmp_path):
    path = make(tmp_path / "s.zip", {"s.csv": bytes(random.Random(0).randbytes(3_000))})
    with pytest.raises(MedtailError, match=r"'s.csv': 3,000 bytes unpacked; expected at most 1,000 bytes"):
        read_submission_bytes(path, max_bytes=1_000)


def test_a_bomb_that_declares_less_is_refused_by_what_it_is(tmp_path):
    content = random.Random(0).randbytes(200_000)
    path = make(tmp_path / "s.zip", {"s.csv": content})
    patched(path, struct.pack("<I", len(content)), struct.pack("<I", 500))
    assert "cannot be read as a zip" in refused(path)  # its check sum is that of the whole


def test_a_table_that_declares_more_than_it_holds_is_refused(tmp_path):
    path = make(tmp_path / "s.zip", {"s.csv": TABLE})
    patched(path, struct.pack("<I", len(TABLE)), struct.pack("<I", len(TABLE) + 7))
    assert "declared; the archive is broken" in refused(path)


def test_a_wrong_check_sum_is_refused(tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("s.csv", TABLE)
    patched(path, b"a,0.5", b"a,0.9")
    assert "cannot be read as a zip (Bad CRC-32" in refused(path)


def test_other_packing_than_deflate_is_refused(tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("s.csv", TABLE)
    assert "packed by method 14; expected deflate" in refused(path)


def test_a_list_of_contents_beyond_reason_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    path = make(tmp_path / "s.zip", {f"code/{number}.py": b"" for number in range(30)} | {"s.csv": TABLE})
    monkeypatch.setattr(cxr_lt_archive, "MAX_ENTRIES", 30)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was parsed"))
    assert "lists 31 entries" in refused(path)


def test_all_reasons_are_told_at_once(tmp_path):
    link = zipfile.ZipInfo("b.csv")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    text = refused(make(tmp_path / "s.zip", [("../x", b""), ("a.csv", b"1" * (2 * 2**20)), (link, b"a")]))
    for reason in ("outside the archive", "a link", "holds 2 CSVs", "zip bomb"):
        assert reason in text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("s.zip", TABLE, "is not a zip archive"),
        ("s.zip", b"", "is not a zip archive"),
        ("s.zip", b"PK\x03\x04", "its end is missing"),
        ("s.zip", b"PK\x05\x06" + bytes(18), "holds no CSV"),
        ("s.csv", b"PK\x03\x04" + bytes(30), "rename it to .zip"),
        ("s.txt", TABLE, "unknown ending '.txt'"),
        ("s", TABLE, "unknown ending"),
    ],
)
def test_what_is_no_submission_says_so(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert reason in refused(tmp_path / name)


def test_missing_files_and_folders_say_so(tmp_path):
    assert "no such file" in refused(tmp_path / "nowhere.csv")
    (tmp_path / "folder.zip").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.zip")


def test_damage_anywhere_is_an_error_and_never_a_crash(tmp_path):
    good = make(tmp_path / "good.zip", {"a/s.csv": TABLE * 20, "code/x.py": b"pass"}).read_bytes()
    chance = random.Random(1)
    path = tmp_path / "bad.zip"
    refusals = 0
    for _ in range(150):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        try:
            assert read_submission_bytes(path) == TABLE * 20
        except MedtailError:
            refusals += 1
    assert refusals > 75


def test_label_tables_are_read_plain_or_gzipped_within_the_limit(tmp_path):
    (tmp_path / "t.csv").write_bytes(TABLE)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(TABLE))
    assert read_table_bytes(tmp_path / "t.csv") == read_table_bytes(tmp_path / "t.csv.gz") == TABLE
    with pytest.raises(MedtailError, match="larger than 10 bytes"):
        read_table_bytes(tmp_path / "t.csv.gz", max_bytes=10)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(TABLE)[:-9])
    with pytest.raises(MedtailError, match="Is the file whole"):
        read_table_bytes(tmp_path / "t.csv.gz")
    (tmp_path / "t.xlsx").write_bytes(TABLE)
    with pytest.raises(MedtailError, match=r"unknown ending '\.xlsx'"):
        read_table_bytes(tmp_path / "t.xlsx")
