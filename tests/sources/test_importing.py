from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from medtail.errors import MedtailError, UsageError
from medtail.pixels.decode import read_image
from medtail.sources import importing
from medtail.sources.importing import LAYOUTS, TAKES, ImportOptions, import_layout

GIVEN: dict[str, Any] = {
    "image_column": "a", "patient_column": "a", "label_column": "a", "label_columns": ("a",), "separator": "|",
    "negative": ("a",), "keep": ("a",), "images": Path("a"), "labels": Path("a"), "patient_pattern": "a",
    "test_fold": 1, "images_out": Path("a"), "class_names": ("a",), "masks_out": Path("a"),
    "edition": "2024", "task": 1,
}  # fmt: skip


def test_unknown_layout_is_a_usage_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"layout 'busbra': unknown; did you mean 'bus_bra'\? Known: csv, folders,"):
        import_layout("busbra", "x")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_dispatched_and_names_itself_or_the_missing_file(layout: str, tmp_path: Path) -> None:
    options = ImportOptions(images_out=tmp_path / "out") if layout == "medmnist" else ImportOptions()
    with pytest.raises(MedtailError, match="nowhere"):
        import_layout(layout, tmp_path / "nowhere", options=options, read_image=read_image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_options_are_refused_exactly_where_they_are_not_taken(layout: str, tmp_path: Path) -> None:
    assert {option.name for option in fields(ImportOptions)} == set(GIVEN)
    for name, value in GIVEN.items():
        with pytest.raises(MedtailError) as caught:
            import_layout(layout, tmp_path / "nowhere", options=replace(ImportOptions(), **{name: value}),
                          read_image=read_image)  # fmt: skip
        is_refused = f"option '{name}': not one of this layout's" in str(caught.value)
        assert is_refused == (name not in TAKES.get(layout, ()))
        assert isinstance(caught.value, UsageError) or not is_refused


def test_every_option_that_a_layout_takes_is_handed_on() -> None:
    tree = ast.parse(inspect.getsource(importing.import_layout))
    (match,) = [node for node in ast.walk(tree) if isinstance(node, ast.Match)]
    handed = {}
    for case in match.cases:
        assert isinstance(case.pattern, ast.MatchValue)
        assert isinstance(case.pattern.value, ast.Constant)
        used = [node for node in ast.walk(case) if isinstance(node, ast.Attribute)]
        handed[case.pattern.value.value] = {node.attr for node in used if ast.unparse(node.value) == "options"}
    assert handed == {layout: set(TAKES.get(layout, ())) for layout in LAYOUTS}


def test_busi_needs_a_reader(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="busi: no read_image"):
        import_layout("busi", tmp_path)


def test_real_data_is_imported_through_the_door(shared_data: Path) -> None:
    manifest = import_layout("bus_bra", shared_data / "bus_bra", options=ImportOptions(test_fold=4))
    assert (manifest.folds == "test").sum() == 365
    assert len(import_layout("breast_usg", shared_data / "breast_usg")) == 256


def test_no_source_loads_torch() -> None:
    modules = ["importing", *LAYOUTS]
    code = (
        f"import sys, importlib; [importlib.import_module('medtail.sources.' + name) for name in {modules}];"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
