"""Cells: where they are, what is known of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtail.config import dump_yaml
from medtail.errors import MedtailError
from medtail.runs import read_json, write_json
from medtail.studies.cells import STATES, facts_of, failure_of, is_finished, state_of
from medtail.studies.claims import release, take
from medtail.studies.protocol import begin
from medtail.training.config import portable
from medtail.training.fit import written_digest_of


def test_a_cell_goes_through_its_states(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    cell = study.cells(root)[0]
    assert cell.name == "full/seed_0/fold_0"
    seen = [state_of(cell)]
    claim = take(cell.claim)
    seen.append(state_of(cell))
    (cell.folder).mkdir(parents=True)
    (cell.folder / "config.yaml").write_text("")
    release(cell.claim, claim)
    seen.append(state_of(cell))
    write_json(cell.failure, {"message": "diverged"})
    seen.append(state_of(cell))
    assert failure_of(cell) == "diverged"
    fill(study, root, only=cell.name)
    seen.append(state_of(cell))
    assert seen == ["waiting", "running", "begun", "failed", "finished"]
    assert set(seen) == set(STATES)


def test_every_arm_seed_and_fold_has_a_cell_of_its_own(make_study, tmp_path: Path) -> None:
    study = make_study()
    cells = study.cells(tmp_path)
    assert len(cells) == len({cell.folder for cell in cells}) == 3 * 2 * 3
    assert len({cell.digest for cell in cells}) == 3 * 2, "the fold is the manifest's business"
    assert {cell.config.seed for cell in cells} == {0, 1}
    # all arms of a seed's fold come before the next fold, so early tables are of all arms
    assert [cell.name for cell in cells[:4]] == [
        "full/seed_0/fold_0", "twin/seed_0/fold_0", "poor/seed_0/fold_0", "full/seed_0/fold_1",
    ]  # fmt: skip


def test_a_cell_of_another_config_is_refused(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    cell = study.cells(root)[0]
    assert not is_finished(cell)
    fill(study, root, only=cell.name)
    assert is_finished(cell)
    assert facts_of(study.cells(root)) == [read_json(cell.record)]
    write_json(cell.record, read_json(cell.record) | {"config_digest": "0" * 64})
    with pytest.raises(MedtailError, match=r"cell.json: was trained with another config \(digest 000000000000, now"):
        is_finished(cell)


def test_a_cell_trained_before_a_key_existed_is_finished(make_study, fill, tmp_path: Path) -> None:
    study, root = make_study(), tmp_path / "out"
    begin(study, root)
    cell = study.cells(root)[0]
    fill(study, root, only=cell.name)
    # as that day's version wrote it: without a key that has come since
    values = portable(cell.config, folder=cell.folder)
    older = {**values, "optimizer": {k: v for k, v in values["optimizer"].items() if k != "freeze_epochs"}}
    (cell.folder / "config.yaml").write_text(dump_yaml(older))
    write_json(cell.record, read_json(cell.record) | {"config_digest": written_digest_of(older)})
    assert read_json(cell.record)["config_digest"] != cell.digest
    assert is_finished(cell)
    # a config that is not what the cell was trained with proves nothing
    (cell.folder / "config.yaml").write_text(dump_yaml(values))
    with pytest.raises(MedtailError, match="was trained with another config"):
        is_finished(cell)
    # of another value than today's default it is another training
    other = {**values, "optimizer": {**values["optimizer"], "freeze_epochs": 1}}
    (cell.folder / "config.yaml").write_text(dump_yaml(other))
    with pytest.raises(MedtailError, match="was trained with another config"):
        is_finished(cell)
    write_json(cell.record, read_json(cell.record) | {"config_digest": written_digest_of(other)})
    with pytest.raises(MedtailError, match="was trained with another config"):
        is_finished(cell)
