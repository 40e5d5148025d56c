"""The site's made pages: links that lead somewhere, every command and public name, nothing fetched from elsewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import medtail

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "tools" / "docs_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_the_readme_lead_to_pages_of_the_site(pages: ModuleType) -> None:
    readme = "![a](docs/report.png) [b](docs/concepts.md#c), scripts in [`examples/`](examples), [d](https://d.org)"
    assert pages.start_page(readme) == "![a](report.png) [b](concepts.md#c), scripts in `examples/`, [d](https://d.org)"


def test_the_whole_readme_has_no_other_links(pages: ModuleType) -> None:
    made = pages.start_page((ROOT / "README.md").read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)]+)\)", made):
        page = target.partition("#")[0]
        assert page in pages.MADE or target.startswith("https://") or (ROOT / "docs" / page).is_file(), target


def test_every_command_stands_there_with_its_options(pages: ModuleType) -> None:
    made = pages.commands_page()
    for words in ("train", "data import", "study ladder", "cxr-lt pack", "serve"):
        assert f"## medtail {words}\n" in made
        assert f"Usage: medtail {words} [OPTIONS]" in made
    assert max(len(line) for line in made.splitlines()) <= 100


def test_every_public_name_stands_there_once(pages: ModuleType) -> None:
    made = pages.names_page(medtail._HOME)
    found = re.findall(r"^::: medtail\.(?:\S+\.)?(\w+)$", made, flags=re.MULTILINE)
    assert sorted(found) == sorted(medtail._HOME)


def test_a_name_of_an_unknown_package_stops_the_build(pages: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="PARTS: no heading for cellar; add one"):
        pages.names_page({"wine": "cellar.red"})


def test_scripts_from_elsewhere_are_taken_out(pages: ModuleType) -> None:
    page = '<script src="https://far.org/a.js"></script><script src="near.js"></script>'
    assert pages.on_post_page(page) == '<script src="near.js"></script>'
    assert pages.on_post_template(page) == '<script src="near.js"></script>'
