"""The shape of the project as tests: who may import whom, what never loads torch, what no file may hold."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src" / "medtail"
MODULES = sorted(SOURCE.rglob("*.py"))
PACKAGES = sorted(path.parent for path in SOURCE.glob("*/__init__.py"))
HEAVY = ("torch", "lightning", "transformers", "kornia")
NEVER_TORCH = (
    "config",
    "runs",
    "seeding",
    "processes",
    "errors",
    "tables",
    "sources",
    "judging",
    "lexicons",
    "challenges",
    "reporting",
)
MOST_LINES = 450
UNPICKLERS = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def short(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def loaded_after(statement: str) -> set[str]:
    """Return the names of all modules a fresh interpreter has loaded after a statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    value = next((word.value for word in call.keywords if word.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else value


# --- imports --------------------------------------------------------------------------------------------------------


def test_import_contracts_are_kept():
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=PROJECT, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("name", NEVER_TORCH)
def test_the_torch_free_packages_load_no_torch(name):
    if (SOURCE / f"{name}.py").exists():
        statement = f"import medtail.{name}"
    elif (SOURCE / name / "__init__.py").exists():
        inside = [path for path in sorted((SOURCE / name).rglob("*.py")) if path.name != "__init__.py"]
        assert inside, f"{name} is an empty shell"
        parts = (".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in inside)
        statement = "import " + ", ".join(f"medtail.{part}" for part in parts)
    else:
        pytest.skip(f"medtail.{name} is not there yet")
    assert loaded_after(statement).isdisjoint(HEAVY)


def test_importing_medtail_loads_none_of_the_libraries_it_stands_on():
    loaded = {module.partition(".")[0] for module in loaded_after("import medtail")}
    assert loaded.isdisjoint({*HEAVY, "numpy", "pandas", "pyarrow", "pydantic", "PIL", "rich", "typer", "numba"})


def test_the_command_line_starts_without_torch():
    if not (SOURCE / "cli" / "main.py").exists():
        pytest.skip("medtail.cli is not there yet")
    assert loaded_after("import medtail.cli.main").isdisjoint({*HEAVY, "pandas", "numba", "matplotlib"})


# --- files ----------------------------------------------------------------------------------------------------------


def test_no_module_is_named_after_being_handy():
    handy = {"utils", "util", "common", "helpers", "helper", "base", "misc", "core", "tools"}
    assert [short(path) for path in MODULES if handy & {*path.relative_to(SOURCE).with_suffix("").parts}] == []


def test_no_module_grows_past_reading_in_one_go():
    lengths = {short(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_sub_packages_have_an_empty_init_and_at_least_one_module():
    for package in PACKAGES:
        assert (package / "__init__.py").read_text(encoding="utf-8") == "", f"{package.name}/__init__.py is not empty"
    folders = [path for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    assert [path.name for path in folders if not (path / "__init__.py").exists()] == []
    assert [path.name for path in PACKAGES if len(list(path.rglob("*.py"))) < 2] == []


def test_every_module_says_what_lives_there_and_reads_annotations_late():
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not tree.body:
            continue
        assert ast.get_docstring(tree), f"{short(path)} has no docstring"
        late = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
        assert late, f"{short(path)} lacks `from __future__ import annotations`"


def test_every_test_module_has_its_subject():
    families = ("laws", "flow")
    for path in sorted((PROJECT / "tests").rglob("test_*.py")):
        inside = path.relative_to(PROJECT / "tests")
        if inside.parts[0] in families or path.name == "test_architecture.py":
            continue
        # test_report_browser.py is about report.py too
        words = path.stem.removeprefix("test_").split("_")
        names = {"_".join(words[:count]) for count in range(1, len(words) + 1)}
        subjects = [(top / inside.parent / f"{name}.py") for top in (SOURCE, PROJECT) for name in names]
        assert any(subject.exists() for subject in subjects), f"tests/{inside} mirrors no module"


# --- code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_nothing_is_ever_unpickled(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        else:
            continue
        assert not [name for name in imported if name.partition(".")[0] in UNPICKLERS], f"line {node.lineno}"
    for name, call in calls(tree):
        if name == "torch.load":
            assert keyword(call, "weights_only") is True, f"line {call.lineno}: torch.load without weights_only=True"
        assert not name.endswith("read_pickle"), f"line {call.lineno}"
        assert keyword(call, "allow_pickle") in (None, False), f"line {call.lineno}: allow_pickle"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_a_class_is_final_or_an_interface(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = " ".join(ast.unparse(base) for base in node.bases)
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        interface = any(word in bases for word in ("Protocol", "ABC", "TypedDict", "NamedTuple", "Enum"))
        mistake = any(word in bases for word in ("Error", "Exception"))
        assert "final" in decorators or interface or mistake, f"class {node.name}, line {node.lineno}: neither"
