"""A study on made-up rows: its plan, and cells whose scores are made instead of trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import pytest
import yaml

from medtail.runs import write_json
from medtail.sources.cxr_lt import edition
from medtail.studies import systems
from medtail.studies.arms import resolve_arms
from medtail.studies.cells import Cell
from medtail.studies.config import CrossValidationFolds, JudgeConfig
from medtail.studies.judged import Judged, judge
from medtail.studies.protocol import Study, begin
from medtail.studies.running import Tally
from medtail.studies.scores import ScoredSet, tune_set, whole_seeds
from medtail.studies.systems import SystemsRun
from medtail.studies.systems_config import load_systems
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
from medtail.tables.predictions import Predictions

MakeStudy = Callable[..., Study]
Fill = Callable[..., None]


def write_table(folder: Path) -> Manifest:
    """Write 90 rows of 60 patients without images: two sites, a common, a rarer and a barely assessed class."""
    random = np.random.default_rng(1)
    rows = []
    for index in range(90):
        patient = index if index < 30 else 30 + (index - 30) // 2
        rows.append(
            {
                "image_id": f"i{index:03d}",
                "path": f"{index}.png",
                "patient_id": f"p{patient:02d}",
                "site": "north" if patient % 2 else "south",
                "fold": ("train", "train", "tune", "test")[patient % 4],
                "FTC": int(patient % 3 == 0),
                "MTC": int(patient % 5 == 1),
                "ATC": np.nan if patient % 2 else int(random.random() < 0.3),
            }
        )
    manifest_from_frame(pd.DataFrame(rows), name="made_up.csv", root=folder).write(folder / "made_up.csv")
    return read_manifest(folder / "made_up.csv")


def study_of(folder: Path, **changes: Any) -> Study:
    """Return `full`, `twin` and `poor`, 3-fold and two seeds, with whatever is given laid over it."""
    base = {"manifest": str(folder / "made_up.csv"), "optimizer": {"epochs": 2, "keep": "last"}}
    overrides = changes.pop("overrides", {"full": {}, "twin": {"test_time_flip": True}, "poor": {"loss.kind": "focal"}})
    given: dict[str, Any] = {
        "name": "study.yaml",
        "title": "a study",
        "kind": "ablation",
        "arms": resolve_arms(base, overrides, where="study.yaml"),
        "reference": "full",
        "seeds": (0, 1),
        "folds": CrossValidationFolds(num_folds=3, duplicates=False, min_positives=0),
        "judge": JudgeConfig(bootstrap=200),
    }
    return Study(**(given | changes))


@pytest.fixture
def made_up(tmp_path: Path) -> Manifest:
    """The made-up table, in a folder of its own."""
    return write_table(tmp_path)


@pytest.fixture
def make_study(made_up: Manifest, tmp_path: Path) -> MakeStudy:
    """Make a study of the made-up table; see `study_of`."""
    return lambda **changes: study_of(tmp_path, **changes)


SKILL = {"full": 1.2, "twin": 1.2, "poor": 0.0}


def scores_of(cell: Cell, table: Manifest, *, skill: float) -> np.ndarray:
    """Scores that know as much of the truth as `skill` says; `twin` differs from `full` by little noise."""
    source = np.random.default_rng([cell.seed, cell.fold, len(table)])
    noise = source.normal(size=table.targets.shape)
    if cell.arm == "twin":
        noise = noise + 0.05 * source.normal(size=noise.shape)
    truth = np.where(np.isnan(table.targets), 0.5, table.targets)
    return np.asarray(1 / (1 + np.exp(-(skill * (2 * truth - 1) + noise - 0.5))))


@cache
def read_once(path: str) -> Manifest:
    return read_manifest(path)


def make_cell(
    cell: Cell, *, what: str = "tune", table: Manifest | None = None, skill: Mapping[str, float] = SKILL
) -> None:
    """Write what a finished cell holds, with made-up scores."""
    own = read_once(cell.config.manifest)
    rows = (own if table is None else table).in_fold(what) if table is None else table
    predictions = Predictions(
        image_ids=rows.frame["image_id"].to_numpy(dtype=object),
        patients=rows.patients,
        scores=scores_of(cell, rows, skill=skill.get(cell.arm, 1.0)),
        targets=rows.targets.astype(float),
        labels=rows.labels,
        folds=rows.folds,
        digests={"model": f"{cell.seed}{cell.fold}"},
    )
    predictions.write(cell.predictions(what))
    facts = {
        "cell": cell.name, "arm": cell.arm, "seed": cell.seed, "fold": cell.fold, "config_digest": cell.digest,
        "parameters": 1000, "epochs_run": 2, "seconds": 3.0 + cell.fold,
    }  # fmt: skip
    write_json(cell.record, facts)


@pytest.fixture
def fill() -> Callable[..., None]:
    """Finish the cells of a study whose plan is in a folder, or those whose name holds a text."""

    def make(study: Study, root: Path, *, only: str = "", test: bool = False, external: Manifest | None = None) -> None:
        for cell in study.cells(root):
            if only in cell.name:
                make_cell(cell)
                if external is not None:
                    make_cell(cell, what="external_far", table=external)
                if test:
                    make_cell(cell, what="test")

    return make


@pytest.fixture
def make_real(toy_manifest: Manifest, tmp_path: Path) -> MakeStudy:
    """Make a study of real trainings of two epochs on the toy images, with fixed folds unless said otherwise."""
    toy_manifest.write(tmp_path / "toy.csv")
    base = {
        "manifest": str(tmp_path / "toy.csv"),
        "classes": ["bright", "shape=*"],
        "pixels": {"size_px": 32},
        "backbone": {"kind": "resnet"},
        "optimizer": {"epochs": 2, "batch_size": 18, "learning_rate": 0.005},
        "cache": str(tmp_path / "cache"),
        "threads": 1,
        "accelerator": "cpu",
    }

    def make(overrides: Mapping[str, Any], **changes: Any) -> Study:
        given: dict[str, Any] = {
            "name": "real.yaml",
            "title": "real",
            "kind": "ablation",
            "arms": resolve_arms(base, overrides, where="real.yaml"),
            "reference": next(iter(overrides)),
            "seeds": (0,),
            "judge": JudgeConfig(bootstrap=50),
        }
        return Study(**(given | changes))

    return make


@final
@dataclass(frozen=True)
class Whole:
    """A finished study that nobody may change."""

    study: Study
    root: Path
    scored: ScoredSet
    judged: Judged


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The study with every cell finished, its tune scores gathered and judged by AUROC and AP. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    write_table(folder)
    study = study_of(folder, judge=JudgeConfig(bootstrap=200, metrics=("auroc", "ap")))
    root = folder / "out"
    begin(study, root)
    for cell in study.cells(root):
        make_cell(cell)
    scored = tune_set(study, root, whole_seeds(study, root))
    return Whole(study, root, scored, judge(scored, reference="full", config=study.judge))


@pytest.fixture
def finish() -> Callable[..., None]:
    """Write what a finished cell holds, with made-up scores of a given skill; see `make_cell`."""
    return make_cell


SYSTEMS: dict[str, Any] = {
    "edition": "nih14",
    "train": {"manifest": "table.csv", "cache": "cache"},
    "members": {
        "good": {"recipe": "cxrlt_yale/tiny"},
        "other": {"recipe": "cxrlt_ral/tiny"},
        "poor": {"recipe": "cxrlt_baseline/tiny"},
    },
    "systems": {
        "poor": {},
        "both": {"members": ["good", "other"], "repeats": 2, "how": "logits"},
        "fitted": {"members": ["good", "other", "poor"], "fit": "class_score", "against": "both"},
    },
    "folds": {"kind": "outer", "num_folds": 3, "duplicates": False},
    "judge": {"bootstrap": 100, "tail_cuts": [0.3, 0.15]},
}


@pytest.fixture(scope="session")
def systems_file() -> Mapping[str, Any]:
    """A file of three systems of three members."""
    return SYSTEMS


def systems_table(folder: Path) -> None:
    """Write 240 rows of 120 patients with the classes of nih14's task 1, without images."""
    random = np.random.default_rng(0)
    names = edition("nih14").task(1).class_names
    patients = np.arange(240) // 2
    labels = (random.random((240, len(names))) < np.linspace(0.12, 0.4, len(names))).astype(int)
    table = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(240)],
            "path": [f"{n}.png" for n in range(240)],
            "patient_id": [f"p{n}" for n in patients],
            "study_id": [f"s{n}" for n in range(240)],
            "fold": np.array(["train", "train", "tune", "test"])[patients % 4],
            **dict(zip(names, labels.T, strict=True)),
        }
    )
    manifest_from_frame(table, name="table.csv", root=folder).write(folder / "table.csv")


@pytest.fixture
def write_systems_table() -> Callable[[Path], None]:
    """Write the table of the systems' file into a folder; see `systems_table`."""
    return systems_table


def systems_cells(asked: list[str]) -> Callable[..., Tally]:
    """Return what finishes cells of systems with scores of a known skill, and notes which were asked for."""

    def run_cells(cells: Sequence[Cell], **_: Any) -> Tally:
        for cell in cells:
            if not cell.record.exists():
                asked.append(cell.name)
                for what in ("tune", "test"):
                    make_cell(cell, what=what, skill={"good": 2.0, "other": 2.0, "poor": 0.3})
        return Tally(tuple(cells), (), ())

    return run_cells


@pytest.fixture
def make_systems_cells() -> Callable[[list[str]], Callable[..., Tally]]:
    """Stand in for trainings of systems; see `systems_cells`."""
    return systems_cells


@pytest.fixture(scope="session")
def systems_run(tmp_path_factory: pytest.TempPathFactory) -> SystemsRun:
    """The systems' file, finished with made-up scores. Read only, but for the pages written into it."""
    folder = tmp_path_factory.mktemp("systems")
    systems_table(folder)
    (folder / "systems.yaml").write_text(yaml.safe_dump(SYSTEMS, sort_keys=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems, "run_cells", systems_cells([]))
        return systems.run_systems(load_systems(folder / "systems.yaml"), folder / "out")
