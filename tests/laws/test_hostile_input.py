"""Files made to hurt: every reader answers with a MedtailError, quickly and in little memory, and runs nothing.

Each law holds for a family of readers. Longer searches for what is not thought of here are `tools/fuzz.py`'s; what it
found is kept in `test_fuzz_findings.py`. Archives of the challenges, images and DICOM have tests of their own beside
their readers.
"""

from __future__ import annotations

import gzip
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.config import read_yaml
from medtail.errors import MedtailError
from medtail.exchange.onnx_record import OnnxRecord
from medtail.judging.calibration_record import read_calibration
from medtail.judging.ensemble_record import read_ensemble
from medtail.judging.post_rule_trials import read_rules
from medtail.reporting.model_card import _cell
from medtail.reporting.section_page import PageTable, Section, write_section_page
from medtail.reporting.svg import element
from medtail.runs import read_json
from medtail.sampling.replay import read_schedule
from medtail.tables import frames
from medtail.tables.frames import read_table
from medtail.tables.manifest import read_manifest
from medtail.tables.predictions import read_predictions
from medtail.tables.results import read_results
from medtail.tables.vectors import read_image_vectors, read_text_vectors

Reader = Callable[[Path], object]
MOST_BYTES = 2**28
MOST_S = 5.0


def refuses(read: Reader, path: Path, *, watched: bool = False) -> str:
    """Read a file that must be refused within the bounds (of memory if watched: slow); return what was said."""
    if watched:
        tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(MedtailError) as caught:
            read(path)
        assert time.process_time() - began < MOST_S
        assert not watched or tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    return str(caught.value)


# --- tables ---------------------------------------------------------------------------------------------------------

TABLES: dict[str, Reader] = {
    "table": lambda path: read_table(path, what="table"),
    "manifest": read_manifest,
    "predictions": read_predictions,
    "results": read_results,
}
HEADER = b"image_id,path,patient_id,halo\n"
HOSTILE_CSV = {
    "zero bytes": HEADER + b"a,b.png,p,\0\n",
    "another encoding": HEADER + "a,bé.png,p,1\n".encode("latin-1"),
    "two encodings": HEADER + "a,é.png,p,1\n".encode() + "b,é.png,p,1\n".encode("latin-1"),
    "utf-16": (HEADER + b"a,b.png,p,1\n").decode().encode("utf-16"),
    "an open quote": HEADER + b'a,"b.png,p,1\n' * 1000,
    "quotes inside": HEADER + b'a,b"b"b,p,1\n"x"y,b,p,1\n',
    "a huge cell": HEADER + b"a," + b"x" * 300_000 + b",p,1\n",
    "ragged rows": HEADER + b"a,b.png\n" + b"a,b,c,d,e,f\n" * 1000,
    "many columns": b",".join(b"c%d" % n for n in range(20_000)) + b"\n",
    "one column many times": b",".join([b"halo"] * 16_000) + b"\n" + b",".join([b"1"] * 16_000),
    "nothing but separators": b"," * 20_000,
    "control characters": b"image_id,path,patient_id,ha\x1blo\na,b.png,p,1\n",
    "no table": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40,
}


@pytest.mark.parametrize("name", HOSTILE_CSV)
def test_hostile_csv_is_refused_by_every_table_reader(name: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(HOSTILE_CSV[name])
    for read in TABLES.values():
        assert "t.csv" in refuses(read, tmp_path / "t.csv")


def test_a_packed_table_that_explodes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_UNPACKED_BYTES", 2**22)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(HEADER + b"a,b,c,1\n" * 2**20))
    assert (tmp_path / "t.csv.gz").stat().st_size < 2**15
    for read in TABLES.values():
        assert "unpacks to more than 4 MiB; is it a table?" in refuses(read, tmp_path / "t.csv.gz")


@pytest.mark.parametrize("record", [b"[" * 100_000, b"[]", b"\xff", b"{", b'{"labels": {"class_names": 3}}'])
def test_a_hostile_header_beside_or_inside_a_table_is_refused(record: bytes, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "t.csv").write_bytes(b"image_id,halo,target:halo\na,0.5,1\n")
    (tmp_path / "t.csv.json").write_bytes(record)
    table = pa.table({"image_id": ["a"], "halo": [0.5], "target:halo": [1.0]})
    pq.write_table(table.replace_schema_metadata({b"medtail": record}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        assert "t." in refuses(read_predictions, tmp_path / name)


@settings(max_examples=8)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(str.strip), min_size=1))
def test_whatever_ids_hold_comes_back_byte_for_byte(ids: list[str]) -> None:
    """No quote is put before a formula, nothing is escaped: tables are for machines, and ids must join."""
    import tempfile

    import pandas as pd

    kept = [*dict.fromkeys(name for name in ids if name), "=1+1", "+a", "-b", "@c", "'d", '"e"', "a,b", "x;y"]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("t.csv", "t.parquet"):
            frames.write_table(Path(folder) / name, pd.DataFrame({"id": kept}))
            assert read_table(Path(folder) / name, what="table")[0]["id"].tolist() == kept


# --- configs and records --------------------------------------------------------------------------------------------

BILLION = "a: &a [x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(9)
)
HOSTILE_YAML = {
    "a billion by aliases": (BILLION, "stands for 2,345,679,012 values once its aliases are followed"),
    "an alias in itself": ("a: &a {b: [*a]}", "an alias stands inside what it names"),
    "python objects": ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "python names": ("a: !!python/name:os.system", "could not determine a constructor"),
    "a tag of its own": ("a: !thing x", "could not determine a constructor"),
    "a number that is none": ("a: !!int x", "not valid YAML"),
    "a date that is none": ("a: 2001-13-45", "not valid YAML"),
    "a number without end": ("a: 0x" + "f" * 9999, "more than 300 digits"),
    "digits without end": ("a: " + "9" * 9999, "not valid YAML"),
    "nesting without end": ("a: " + "[" * 400, "not valid YAML"),
    "a key twice": ("a: 1\na: 2", "not valid YAML"),
    "a key twice by a merge": ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", "not valid YAML"),
    "no mapping": ("- a", "expected 'key: value' lines"),
    "two documents": ("a: 1\n---\nb: 1", "not valid YAML"),
    "control characters": ("a: \x07", "not valid YAML"),
    "a file without end": ("#" * (2**20 + 1), "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_is_refused(name: str, tmp_path: Path) -> None:
    text, said = HOSTILE_YAML[name]
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    assert said in refuses(read_yaml, tmp_path / "c.yaml")


def test_aliases_that_a_person_would_write_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {b: 1}\nc: {<<: *a, d: 2}\ne: [*a, *a]\n")
    assert read_yaml(tmp_path / "c.yaml") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}, "e": [{"b": 1}, {"b": 1}]}


RECORDS: dict[str, Reader] = {
    "json": read_json,
    "calibration": read_calibration,
    "ensemble": read_ensemble,
    "rules": read_rules,
    "schedule": read_schedule,
    "onnx": lambda path: OnnxRecord.from_metadata({"medtail": path.read_text("utf-8", "replace")}, where="x"),
}
NO_RECORD = (b"", b"[", b"[" * 100_000, b"[]", b"3", b'"x"', b"\xff\xfe", b'{"a": 1e999}', b"9" * 5000, b"{}")


@pytest.mark.parametrize("reader", RECORDS)
def test_what_is_no_record_is_refused(reader: str, tmp_path: Path) -> None:
    for content in NO_RECORD:
        (tmp_path / "r.json").write_bytes(content)
        if reader == "json" and content in (b"{}", b'{"a": 1e999}'):
            continue  # an object is all that this one asks for
        refuses(RECORDS[reader], tmp_path / "r.json")


# --- tensors --------------------------------------------------------------------------------------------------------


def tensors(header: object, body: bytes = bytes(8), *, length: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + body


def one(**changes: object) -> dict[str, object]:
    return {"vectors": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8], **changes}}


HOSTILE_TENSORS = {
    "no header": b"",
    "a pickle": b"\x80\x04\x95" + bytes(40),
    "a header longer than the file": tensors(one(), length=2**20),
    "a header of exabytes": tensors(one(), length=2**63),
    "a header without end": tensors(b'{"a":' + b"[" * 100_000),
    "no JSON": tensors(b"{"),
    "a shape larger than the data": tensors(one(shape=[2**31, 2**31])),
    "a shape that overflows": tensors(one(shape=[2**63, 2**63])),
    "a negative shape": tensors(one(shape=[-1, -2])),
    "data beyond the end": tensors(one(data_offsets=[0, 2**40], shape=[2**38])),
    "data backwards": tensors(one(data_offsets=[8, 0])),
    "an unknown type": tensors(one(dtype="O64")),
    "overlapping tensors": tensors({**one(), "other": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    "a hole": tensors({**one(), "other": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}}, bytes(24)),
    "too much data": tensors(one(), bytes(64)),
    "metadata that is no text": tensors({**one(), "__metadata__": {"medtail": 3}}),
    "metadata without end": tensors({**one(), "__metadata__": {"medtail": "[" * 100_000, "progress": "[" * 100_000}}),
    "not of ours": tensors({"vectors": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}),
}


def _torch_readers() -> list[Reader]:
    from medtail.synthesis.state import read_state as read_synthesis
    from medtail.training.state import read_state as read_training

    return [read_training, read_synthesis]


@pytest.mark.parametrize("name", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused_by_every_reader(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(HOSTILE_TENSORS[name])
    for read in (read_text_vectors, read_image_vectors, *_torch_readers()):
        refuses(read, path, watched=True)


# --- what people are shown ------------------------------------------------------------------------------------------

NASTY = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["<script>alert(1)</script>", '" onload="x', "' onload='x", "]]>", "<!--", "&lt;", "javascript:x",
                     "[a](javascript:x)", "![a](http://x/y)", "a\n\n# b", "</style>", "{{7*7}}", "\u202egnp"]),
)  # fmt: skip


class Parsed(HTMLParser):
    """Every element and every word of a page, as a browser takes them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@given(NASTY, NASTY)
def test_a_drawing_holds_one_element_whatever_its_words(text: str, value: str) -> None:
    found = Parsed(f"<svg>{element('text', text, data_name=value)}</svg>")
    assert [tag for tag, _ in found.tags] == ["svg", "text"]
    assert found.tags[1][1] == {"data-name": value}
    assert "".join(found.words) == text


@settings(max_examples=8)
@given(NASTY, NASTY)
def test_a_page_of_sections_holds_its_own_elements_whatever_its_words(text: str, title: str) -> None:
    import tempfile

    def elements(said: str, headed: str) -> list[str]:
        table = PageTable(said, (said, "b"), ((said, "1"),), (0,), said)
        with tempfile.TemporaryDirectory() as folder:
            page = write_section_page(
                Path(folder) / "p.html", kicker=said, title=headed, lede=said, references=(), cautions=[said],
                sections=[Section("one", said, (said,), (table,))],
            )  # fmt: skip
            return [tag for tag, _ in Parsed(page.read_text("utf-8")).tags]

    # an empty text or line may leave an element out; a name of the data's making is never one
    assert elements(f"x{' '.join(text.split())}", f"x{title}") == elements("plain", "plain")


@given(NASTY)
def test_a_cell_of_a_model_card_is_one_cell_without_markup(text: str) -> None:
    from markdown_it import MarkdownIt

    page = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n|---|---|\n| {_cell(text)} | end |\n")
    assert page.count("<td>") == 2
    cell = page.split("<td>")[1].split("</td>")[0]
    assert "<" not in cell, "no element but text: no link, image, emphasis or tag"
    assert page.split("<td>")[2].startswith("end")
