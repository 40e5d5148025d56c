from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bounds() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lower_bounds", PROJECT / "tools" / "lower_bounds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_higher_of_two_lower_bounds_counts(bounds: ModuleType) -> None:
    assert bounds.lowest(["a>=1.9,<3", "a>=1.10", "b~=2.0", "c==1"]) == {"a": "1.10", "b": "2.0", "c": "1"}


@pytest.mark.parametrize("text", ["a", "a<2", "a!=1"])
def test_a_library_without_a_lowest_version_is_refused(bounds: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="states no lowest version"):
        bounds.lowest([text])


def test_every_library_of_this_project_states_its_lowest_version(bounds: ModuleType) -> None:
    everything = bounds.requirements_of(PROJECT / "pyproject.toml")
    pins = bounds.lowest(everything)
    assert {"torch", "pandas", "pytest"} <= set(pins)
    assert len(bounds.lowest(bounds.requirements_of(PROJECT / "pyproject.toml", ["serve"]))) < len(pins)
    with pytest.raises(ValueError, match="no extra nonsense"):
        bounds.requirements_of(PROJECT / "pyproject.toml", ["nonsense"])
