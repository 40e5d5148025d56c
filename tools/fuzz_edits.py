"""Small damages to a file: of its bytes, and of what the bytes mean, so that some reach past the first check.

Every damage asks a `Chooser` for numbers and bytes and for nothing else. Who answers is the engine's affair (see
`fuzz.py`): a random stream, Hypothesis, or atheris, which learns from the lines that were run.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
MOST_BYTES = 1 << 20
"""A damaged file never grows past this: a fuzzer looks for mistakes, not for large files."""

NASTY_TEXTS = (
    "", " ", "\0", "\r", "\n", "\t", '"', "'", ",", ";", "=1+1", "+1", "-1", "@SUM(A1)", "\ufeff", "\u202e", "\ud7ff",
    "nan", "NaN", "inf", "-inf", "1e999", "-0", "1e-400", "1_000", "0x10", "٣", "½", "true", "null", "~", "2", "-1",
    "9" * 30, "0." + "0" * 40 + "1", "../../etc/passwd", "/", "C:\\", "a" * 5000, "<script>alert(1)</script>", "&amp;",
    "{}", "[]", "{{7*7}}", "%s%n", "é", "𝒳", "image_id", "fold", "target:x", "shape=oval", "=", "a=", "=a",
)  # fmt: skip
NASTY_NUMBERS = (
    0, 1, -1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**40,
)  # fmt: skip
NASTY_VALUES: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [None], {"": None}, {"kind": "bce"}, "", "x", [0], [[0, 1]], ["a", "a"],
    *NASTY_TEXTS[:12], *NASTY_NUMBERS,
)  # fmt: skip
WORDS = tuple(word.to_bytes(4, order) for word in (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
              for order in ("little", "big"))  # fmt: skip


class Chooser(Protocol):
    """Where a fuzzer's choices come from."""

    def below(self, count: int) -> int:
        """Return a whole number of at least 0 and below `count`."""
        ...

    def bytes(self, count: int) -> bytes:
        """Return at most `count` bytes."""
        ...


Damage = Callable[[bytes, Chooser], bytes]


def one_of(choices: Sequence[T], chooser: Chooser) -> T:
    """Return one of them."""
    return choices[chooser.below(len(choices))]


# --- bytes ----------------------------------------------------------------------------------------------------------


def damage_bytes(content: bytes, chooser: Chooser) -> bytes:
    """Flip, overwrite, cut, repeat, move or insert a few bytes, whatever they mean."""
    at = chooser.below(len(content) + 1)
    length = 1 + chooser.below(min(64, len(content) + 1))
    match chooser.below(8):
        case 0:
            flipped = bytes([content[at] ^ (1 << chooser.below(8))]) if at < len(content) else b"\0"
            return content[:at] + flipped + content[at + 1 :]
        case 1:
            return content[:at]
        case 2:
            return content[:at] + content[at + length :]
        case 3:
            return content[:at] + content[at : at + length] * (1 + chooser.below(40)) + content[at + length :]
        case 4:
            return content[:at] + chooser.bytes(length) + content[at:]
        case 5:
            word = one_of(WORDS, chooser)
            return content[:at] + word + content[at + len(word) :]
        case 6:
            return content[at:] + content[:at]
        case _:
            return content[:at] + one_of(NASTY_TEXTS, chooser).encode("utf-8", "surrogatepass") + content[at:]


# --- meaning --------------------------------------------------------------------------------------------------------


def damage_table(content: bytes, chooser: Chooser) -> bytes:
    """Change cells, rows and columns of a CSV, and sometimes how it is written."""
    rows = list(csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline="")))
    if not rows:
        return damage_bytes(content, chooser)
    for _ in range(1 + chooser.below(3)):
        row = one_of(rows, chooser) if rows else []
        match chooser.below(9):
            case 0 | 1 | 2 | 3 if row:
                row[chooser.below(len(row))] = one_of(NASTY_TEXTS, chooser)
            case 4 if row:
                del row[chooser.below(len(row))]
            case 5:
                row.insert(chooser.below(len(row) + 1), one_of(NASTY_TEXTS, chooser))
            case 6 if rows:
                rows.insert(chooser.below(len(rows) + 1), list(one_of(rows, chooser)))
            case 7 if len(rows) > 1:
                del rows[chooser.below(len(rows))]
            case _ if row and rows[0]:
                column = chooser.below(len(rows[0]))  # a whole column, header and all, or all but the header
                text = one_of(NASTY_TEXTS, chooser)
                for other in rows[chooser.below(2) :]:
                    if column < len(other):
                        other[column] = text
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=one_of(",,,;\t|", chooser), lineterminator=one_of(("\n", "\n", "\r\n", "\r"), chooser),
               quoting=one_of((csv.QUOTE_MINIMAL, csv.QUOTE_ALL), chooser)).writerows(rows)  # fmt: skip
    return stream.getvalue().encode(one_of(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "latin-1"), chooser), "replace")


def damage_json(content: bytes, chooser: Chooser) -> bytes:
    """Change, remove or add values of a JSON document."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return damage_bytes(content, chooser)
    for _ in range(1 + chooser.below(2)):
        value = _damage_value(value, chooser)
    if chooser.below(40) == 0:
        return b"[" * 100_000
    return json.dumps(value).encode()


def _damage_value(value: Any, chooser: Chooser) -> Any:
    """Return the value with one place in it changed; strings may hold JSON themselves."""
    if isinstance(value, dict) and value and chooser.below(5):
        key = one_of(list(value), chooser)
        match chooser.below(6):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, one_of(NASTY_TEXTS, chooser): one_of(NASTY_VALUES, chooser)}
            case _:
                return {**value, key: _damage_value(value[key], chooser)}
    if isinstance(value, list) and value and chooser.below(5):
        at = chooser.below(len(value))
        match chooser.below(6):
            case 0:
                return [*value[:at], *value[at + 1 :]]
            case 1:
                return [*value[:at], value[at], *value[at:]]
            case _:
                return [*value[:at], _damage_value(value[at], chooser), *value[at + 1 :]]
    if isinstance(value, str) and value[:1] in ("{", "[") and chooser.below(4):
        try:
            return json.dumps(_damage_value(json.loads(value), chooser))
        except ValueError:
            pass
    return one_of(NASTY_VALUES, chooser)


YAML_TRICKS = (
    "&a [*a]", "!!python/object/apply:os.system ['true']", "!!binary AAAA", "!!set {a, b}", "!!timestamp 2001-01-01",
    "!!omap [a: 1]", "<<: {a: 1}", "? [a, b]\n: c", "{a: b, a: c}", "*missing", "&x {y: &y [*x]}", "!!float nan",
    ".inf", "2001-01-01", "0o17", "1:30", "|\n  text", "---\nb: 1", "%YAML 1.1\n---\na: yes", "- a", "'", "{", "[",
    "\t", "@", "!!int x", "!!null x", "!!merge <<", "!local thing", "\x07", "\u2028", "1e400", "0x" + "f" * 500,
    "[" * 3000,
)  # fmt: skip


def damage_yaml(content: bytes, chooser: Chooser) -> bytes:
    """Change values of a YAML file: plain ones, and what only YAML can say."""
    from ruamel.yaml import YAML

    lines = content.decode("utf-8", "replace").split("\n")
    for _ in range(1 + chooser.below(3)):
        at = chooser.below(len(lines))
        key, colon, _value = lines[at].partition(":")
        match chooser.below(7):
            case 0 | 1 if colon:
                lines[at] = f"{key}: {one_of(YAML_TRICKS, chooser)}"
            case 2 | 3 if colon:
                lines[at] = f"{key}: {json.dumps(one_of(NASTY_VALUES, chooser))}"
            case 4:
                lines.insert(at, one_of(lines, chooser))
            case 5:
                del lines[at]
                lines = lines or [""]
            case _:
                stream = io.StringIO()
                try:
                    value = YAML(typ="safe", pure=True).load("\n".join(lines))
                    YAML(typ="safe", pure=True).dump(_damage_value(value, chooser), stream)
                except Exception:  # it is no longer YAML: that is the damage
                    return "\n".join(lines).encode("utf-8", "surrogatepass")
                lines = stream.getvalue().split("\n")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damage_safetensors(content: bytes, chooser: Chooser) -> bytes:
    """Lie in the header: its length, and the shapes, types and places of tensors."""
    if len(content) < 8:
        return damage_bytes(content, chooser)
    length = struct.unpack("<Q", content[:8])[0]
    head, body = content[8 : 8 + length], content[8 + length :]
    match chooser.below(5):
        case 0:
            claimed = one_of((0, 1, length - 1, length + 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1), chooser)
            return struct.pack("<Q", max(0, claimed)) + head + body
        case 1:
            body = damage_bytes(body, chooser)
        case _:
            head = damage_json(head, chooser)
    return struct.pack("<Q", len(head)) + head + body


def damage_zip(content: bytes, chooser: Chooser, *, inside: Damage) -> bytes:
    """Damage a member and pack it again, rename it, or add one that lies."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            held = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, zlib.error, RuntimeError, NotImplementedError, EOFError):
        return damage_bytes(content, chooser)
    if not held:
        return damage_bytes(content, chooser)
    name = one_of(list(held), chooser)
    match chooser.below(6):
        case 0:
            held[one_of(("../x.csv", "/x.csv", "C:\\x.csv", "a/../../x.csv", "x.csv"), chooser)] = held.pop(name)
        case 1:
            held["second" + Path(name).suffix] = held[name]
        case 2:
            del held[name]
        case _:
            held[name] = inside(held[name], chooser)
    stream = io.BytesIO()
    method = one_of((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2), chooser)
    with zipfile.ZipFile(stream, "w", method) as archive:
        for member, value in held.items():
            archive.writestr(member, value)
    packed = stream.getvalue()
    return packed if chooser.below(3) else damage_bytes(packed, chooser)


def damage_npy(content: bytes, chooser: Chooser) -> bytes:
    """Lie in an array's header: its shape, type and order."""
    if len(content) < 10 or chooser.below(3) == 0:
        return damage_bytes(content, chooser)
    length = struct.unpack("<H", content[8:10])[0]
    head = content[10 : 10 + length].decode("latin-1").rstrip()
    old, new = one_of((
        ("'descr': '", "'descr': '|O"), ("|u1", "|O"), ("|u1", "<i8"), ("<i8", ">i8"), ("<i8", "|V0"), ("<i8", "<f2"),
        ("False", "True"), ("(", "(-1, "), ("(", "(99999999999, "), ("(", "(0, "), ("'shape'", "'shapes'"),
        ("{", "{'x': 1, "), ("(", "(" * 200), (",)", ")"),
    ), chooser)  # fmt: skip
    header = head.replace(old, new, 1).encode("latin-1") + b"\n"
    return content[:8] + struct.pack("<H", min(len(header), 65535)) + header + content[10 + length :]


def damage_gzip(content: bytes, chooser: Chooser, *, inside: Damage) -> bytes:
    """Damage what is packed and pack it again; now and then the packing itself."""
    try:
        plain = gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return damage_bytes(content, chooser)
    packed = gzip.compress(inside(plain, chooser), 1)
    return packed if chooser.below(4) else damage_bytes(packed, chooser)


def damage_parquet(content: bytes, chooser: Chooser) -> bytes:
    """Change a column's type, values or name, or the header record inside; or just bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if chooser.below(3) == 0:
        return damage_bytes(content, chooser)
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError, ValueError):
        return damage_bytes(content, chooser)
    size = len(table)
    columns: tuple[Any, ...] = (
        pa.nulls(size), pa.array([None] * size, pa.string()), pa.array([b"\xff\xfe"] * size, pa.binary()),
        pa.array([[1, 2]] * size), pa.array([{"a": 1}] * size), pa.array([2**63 - 1] * size, pa.int64()),
        pa.array([float("nan")] * size), pa.array([True] * size), pa.array(["x"] * size).dictionary_encode(),
        pa.array([0] * size, pa.timestamp("ns")), pa.array([2**63 - 1] * size, pa.timestamp("s")),
        pa.array([0] * size, pa.date32()), pa.array([0] * size, pa.duration("s")),
        pa.array([-1] * size, pa.time64("us")),
        pa.array(["1.50"] * size).cast(pa.decimal128(5, 2)), pa.array(["a\0b"] * size), pa.array(["1"] * size),
        pa.array([1.0] * size, pa.float16()) if hasattr(pa, "float16") else pa.nulls(size),
    )  # fmt: skip
    at = chooser.below(table.num_columns) if table.num_columns else 0
    match chooser.below(6):
        case 0 if table.num_columns:
            table = table.remove_column(at)
        case 1:
            table = table.append_column(one_of(NASTY_TEXTS, chooser), one_of(columns, chooser))
        case 2:
            table = table.slice(0, chooser.below(size + 1))
        case 3:
            kept = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
            if kept:
                key = one_of(list(kept), chooser)
                kept[key] = damage_json(kept[key], chooser)
            table = table.replace_schema_metadata(kept or {b"medtail": b"[]"})
        case _ if table.num_columns:
            table = table.set_column(at, table.column_names[at], one_of(columns, chooser))
    stream = io.BytesIO()
    try:
        pq.write_table(table, stream)
    except (pa.ArrowException, ValueError, NotImplementedError):
        return damage_bytes(content, chooser)
    return stream.getvalue()


def damage_dicom(content: bytes, chooser: Chooser) -> bytes:
    """Change elements of a DICOM header, as a careless or hostile program would write them."""
    import pydicom
    from pydicom.uid import (
        JPEG2000,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEGBaseline8Bit,
        RLELossless,
    )

    if chooser.below(3) == 0:
        return damage_bytes(content, chooser)
    changes: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("Rows", (0, 1, 65535)), ("Columns", (0, 1, 65535)), ("BitsAllocated", (0, 1, 8, 12, 16, 32, 64)),
        ("BitsStored", (0, 1, 7, 12, 16, 40)), ("HighBit", (0, 7, 99)), ("PixelRepresentation", (0, 1, 2)),
        ("SamplesPerPixel", (0, 1, 3, 4)), ("PlanarConfiguration", (0, 1, 2)),
        ("NumberOfFrames", ("0", "2", "-1", "99")),
        ("PhotometricInterpretation", ("RGB", "YBR_FULL", "MONOCHROME1", "PALETTE COLOR", "", "X")),
        ("RescaleSlope", ("0", "1e30", "-1")), ("RescaleIntercept", ("1e30", "-5000")),
        ("WindowWidth", ("0", "-1", "1e-30", "1e30", ["1", "2"])), ("WindowCenter", ("0", "1e30", ["1", "2"])),
        ("VOILUTFunction", ("SIGMOID", "X")), ("PixelData", (b"", b"\0", b"\xff" * 70_000)),
        ("PatientAge", ("999Y", "", "abc")), ("PixelSpacing", ([0, 0], [-1, -1], [1e30, 1e30])),
        ("PatientID", ("", "a\\b", "../x")), ("SOPInstanceUID", ("", "1.2.3", "x/../y")),
    )  # fmt: skip
    try:
        header = pydicom.dcmread(io.BytesIO(content), force=True)
        for _ in range(1 + chooser.below(3)):
            name, values = one_of(changes, chooser)
            if chooser.below(5) == 0 and name in header:
                del header[name]
            else:
                setattr(header, name, one_of(values, chooser))
        if chooser.below(5) == 0:
            header.file_meta.TransferSyntaxUID = one_of((
                DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000,
                JPEGBaseline8Bit, RLELossless,
            ), chooser)  # fmt: skip
        stream = io.BytesIO()
        header.save_as(stream, enforce_file_format=False)
        return stream.getvalue()
    except Exception:  # pydicom does not write everything that can be thought of
        return damage_bytes(content, chooser)


XML_TRICKS = (
    "<!ENTITY a 'b'>", "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>", "&b;", "<![CDATA[x]]>",
    "<mark/>", "<mark><image>1</image><svg>[{\"points\": [{\"x\": 1e308, \"y\": -1e308}]}]</svg></mark>",
    "[[[[", "{\"points\": 3}",
    "<?xml version='1.0' encoding='utf-16'?>", "\x00", "<a xmlns='x'>", "]]>", "<number>../../x</number>",
    "NaN", "1e999",
)  # fmt: skip


def damage_xml(content: bytes, chooser: Chooser) -> bytes:
    """Insert what only XML can say, or change a number in it."""
    if chooser.below(3) == 0:
        return damage_bytes(content, chooser)
    at = chooser.below(len(content) + 1)
    near = content.find(b">", at) + 1
    trick = one_of((*XML_TRICKS, *NASTY_TEXTS), chooser).encode("utf-8", "surrogatepass")
    changed = content[:near] + trick + content[near + chooser.below(12) :]
    return changed if chooser.below(8) else changed.decode("utf-8", "replace").encode("utf-16")


def by_ending(name: str) -> Damage:
    """Return the damage that knows what files of this name mean."""
    name = name.lower()
    if name.endswith(".csv.gz"):
        return lambda content, chooser: damage_gzip(content, chooser, inside=damage_table)
    if name.endswith(".zip"):
        return lambda content, chooser: damage_zip(content, chooser, inside=damage_table)
    if name.endswith(".npz"):
        return lambda content, chooser: damage_zip(content, chooser, inside=damage_npy)
    known: dict[str, Damage] = {
        ".csv": damage_table, ".txt": damage_table, ".json": damage_json, ".yaml": damage_yaml, ".yml": damage_yaml,
        ".safetensors": damage_safetensors, ".parquet": damage_parquet, ".dcm": damage_dicom, ".xml": damage_xml,
    }  # fmt: skip
    return known.get(Path(name).suffix, damage_bytes)


def damaged(content: bytes, name: str, chooser: Chooser) -> bytes:
    """Return a file's bytes, damaged in one to three ways.

    Args:
        content: The whole file.
        name: Its name; the ending says what it means.
        chooser: Who decides.

    Example:
        >>> class First:
        ...     def below(self, count): return 0
        ...     def bytes(self, count): return bytes(count)
        >>> damaged(b"\\x00abc", "picture.png", First())
        b'\\x01abc'
    """
    knowing = by_ending(name)
    for _ in range(1 + chooser.below(3)):
        content = (damage_bytes if chooser.below(4) == 0 else knowing)(content, chooser)[:MOST_BYTES]
    return content
