from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
from medtail.tables.places import Remote, is_url, place_of, rebased, url_problem


def table(*paths: str, root: Path | str | None = None) -> Manifest:
    numbers = [str(number) for number in range(len(paths))]
    frame = {"image_id": numbers, "path": list(paths), "mask_path": list(paths), "patient_id": numbers, "x": 1}
    return manifest_from_frame(pd.DataFrame(frame), root=root, name="t.csv")


@pytest.mark.parametrize("text", ["a.png", "/a.png", "C:/a.png", "C:\\a.png", "s3:/b/a.png", "://a", "1s3://a", ""])
def test_everything_not_written_as_a_url_is_a_path(text: str) -> None:
    assert not is_url(text)
    assert place_of(text, root=Path("r")) == Path("r") / text


@pytest.mark.parametrize("text", ["s3://b/a.png", "HTTPS://host/a.png", "memory://a/b.png", "gs://b/../../etc/passwd"])
def test_no_part_of_a_url_becomes_a_path(text: str) -> None:
    place = place_of(text, root=Path("r"))
    assert place == Remote(text)
    assert not isinstance(place, Path)
    assert not hasattr(place, "__fspath__")


def test_a_file_url_is_a_path_of_this_machine() -> None:
    assert place_of("file:///data/a%20b.png", root=Path("r")) == Path("/data/a b.png")
    assert place_of("FILE://localhost/data/a.png", root=Path("r")) == Path("/data/a.png")


@pytest.mark.parametrize(
    ("url", "told"),
    [("s4://b/a", "'s4' is no kind"), ("simplecache::s3://b/a", "is no URL"), ("zip://a.png::s3://b/a.zip", "'zip'"),
     ("s3://b/a::zip://x", "chain"), ("s3://b", "names no file"), ("s3:///a.png", "names no file"),
     ("http://host/", "names no file"), ("http://[x/a", "no whole URL"), ("file://server/a", "this machine"),
     ("file:///", "this machine"), ("reference://a", "'reference'"), ("local:///a", "'local'")],
)  # fmt: skip
def test_urls_that_cannot_be_read_are_told(url: str, told: str) -> None:
    problem = url_problem(url)
    assert problem is not None
    assert told in problem


def test_a_manifest_refuses_them_with_their_row() -> None:
    with pytest.raises(MedtailError, match=r"row 3, column 'path': found 's4://b/a.png'; expected a file \('s4' is no"):
        table("s3://b/a.png", "s4://b/a.png")


def test_relative_paths_behind_a_url_become_urls() -> None:
    found = table("a.png", "./b/c.png", "gs://other/d.png", "/data/e.png", root="s3://bucket/images/")
    assert found.image_paths() == [
        Remote("s3://bucket/images/a.png"), Remote("s3://bucket/images/b/c.png"), Remote("gs://other/d.png"),
        Path("/data/e.png"),
    ]  # fmt: skip
    assert found.frame["mask_path"].tolist() == found.frame["path"].tolist()


def test_urls_survive_writing_reading_and_moving(tmp_path: Path) -> None:
    urls = ["s3://bucket//a/../b.png", "https://host/a%20b.png?x=1&y=2", "file:///data/a.png", "memory://a/b.png"]
    written = table(*urls, "c.png", root=tmp_path / "images")
    written.write(tmp_path / "elsewhere" / "t.csv")
    found = read_manifest(tmp_path / "elsewhere" / "t.csv")
    assert found.frame["path"].tolist() == [*urls, "../images/c.png"]
    assert [found.image_path(row) for row in range(2)] == [Remote(url) for url in urls[:2]]
    cells = rebased(pd.Series([*urls, "", "c.png"]), root=Path("/a/b"), to=Path("/a"))
    assert cells.tolist() == [*urls, "", "b/c.png"]
