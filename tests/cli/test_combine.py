"""`medtail combine`: the verbs over files, and their refusals."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call as call_main
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions, read_predictions
from medtail.tables.tail import ClassCounts

NAMES = ("Normal", "Fracture", "Rib Fracture")


def call(line: str) -> int:
    return call_main(shlex.split(line))


def write(folder: Path, name: str, *, fold: str, skill: float, seed: int, counts: bool = False) -> Path:
    random = np.random.default_rng(seed)
    truth = np.random.default_rng(7 if fold == "tune" else 8)
    broken = truth.random(200) < 0.3
    rib = broken & (truth.random(200) < 0.5)
    targets = np.column_stack([~broken, broken, rib]).astype(float)
    scores = 1 / (1 + np.exp(-(skill * (2 * targets - 1) + random.normal(size=targets.shape))))
    ids = np.array([f"{fold}{k}" for k in range(200)], dtype=object)
    seen = ClassCounts(NAMES, (900, 90, 5), (900, 90, 5), (1000, 1000, 1000)) if counts else None
    table = Predictions(
        ids, ids, scores, targets, LabelSpace(NAMES), np.array([fold] * 200, dtype=object), train_counts=seen,
        digests={"model": name},
    )  # fmt: skip
    path = folder / f"{name}_{fold}.parquet"
    table.write(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for fold in ("tune", "test"):
        write(tmp_path, "a", fold=fold, skill=2.0, seed=1, counts=True)
        write(tmp_path, "b", fold=fold, skill=0.0, seed=2)
    return tmp_path


def test_fit_then_ensemble_use_the_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = "combine fit a_tune.parquet b_tune.parquet --method class_best --bootstrap 100 --out w.json"
    assert call(fit) == 0
    assert "on patients not seen" in capsys.readouterr().out
    assert call("combine ensemble a_test.parquet b_test.parquet --weights w.json --out e.parquet") == 0
    weights = json.loads((folder / "w.json").read_text())
    assert weights["method"] == "class_best"
    share = np.array(weights["weights"])
    parts = [read_predictions(folder / f"{name}_test.parquet").scores for name in "ab"]
    expected = share[0] * parts[0] + share[1] * parts[1]
    np.testing.assert_allclose(read_predictions(folder / "e.parquet").scores, expected)
    assert call(fit.replace("w.json", "v.json") + " --json") == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1]) == weights
    # the members in another order are other members
    assert call("combine ensemble b_test.parquet a_test.parquet --weights w.json --out f.parquet") == 1
    assert "scores of another model" in capsys.readouterr().err


def test_weights_are_not_chosen_on_test_scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("combine fit a_test.parquet b_test.parquet --out w.json") == 1
    assert "not in fold 'tune'" in capsys.readouterr().err
    assert not (folder / "w.json").exists()


def test_of_a_table_with_several_folds_only_tune_chooses(folder: Path) -> None:
    parts = {name: [read_predictions(folder / f"{name}_{fold}.parquet") for fold in ("tune", "test")] for name in "ab"}
    for name, tables in parts.items():
        frame = pd.concat([table.frame for table in tables])
        frame[["image_id", *NAMES]].to_csv(folder / f"{name}.csv", index=False)
    truth = pd.concat([table.frame for table in parts["a"]])
    labels = {name: truth[f"target:{name}"].astype(int) for name in NAMES}
    truth[["image_id", "fold"]].assign(path="x.png", patient_id=truth["image_id"], **labels).to_csv(
        folder / "truth.csv", index=False
    )
    fit = "combine fit a.csv b.csv --truth truth.csv --method score --guard-folds 0 --out w.json"
    assert call(fit) == 0
    assert json.loads((folder / "w.json").read_text())["evidence"]["tune"]["rows"] == 200
    rules = "combine try-rules a.csv --truth truth.csv --rules normal_gate --bootstrap 20 --out r.json"
    assert call(rules) == 0
    assert json.loads((folder / "r.json").read_text())["tune"]["rows"] == 200


@pytest.mark.parametrize("how", ["mean", "logits", "rank", "median"])
def test_every_way_to_combine_writes_a_table(folder: Path, how: str) -> None:
    words = f"combine ensemble a_test.parquet b_test.parquet --how {how} --out e.parquet"
    assert call(words) == 0
    assert len(read_predictions(folder / "e.parquet")) == 200


def test_switch_takes_tail_classes_from_the_second(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "combine ensemble a_test.parquet b_test.parquet --how switch --out e.parquet"
    assert call(words) == 0
    assert "1 rare classes from b_test.parquet: Rib Fracture" in capsys.readouterr().out
    found, a, b = (read_predictions(folder / f"{name}.parquet").scores for name in ("e", "a_test", "b_test"))
    np.testing.assert_allclose(found, np.column_stack([a[:, :2], b[:, 2]]))
    assert call("combine ensemble b_test.parquet a_test.parquet --how switch --out f.parquet") == 1
    assert "carries no train counts" in capsys.readouterr().err
    assert call("combine ensemble a_test.parquet --how switch --out f.parquet") == 2
    both = "combine ensemble a_test.parquet b_test.parquet --how mean --weights w.json --out f.parquet"
    assert call(both) == 2


def test_views_are_combined_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = read_predictions(folder / "a_test.parquet").image_ids
    table = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": "test"})
    table["study_id"] = [f"s{k // 2}" for k in range(200)]
    table["patient_id"] = table["study_id"]
    table["view"] = [("PA", "LATERAL")[k % 2] for k in range(200)]
    table.assign(**dict.fromkeys(NAMES, 0)).to_csv(folder / "m.csv", index=False)
    scores = read_predictions(folder / "a_test.parquet")
    Predictions(
        scores.image_ids, table["patient_id"].to_numpy(dtype=object), scores.scores, scores.targets, scores.labels,
        scores.folds,
    ).write(folder / "studies.parquet")  # fmt: skip
    words = "combine views studies.parquet --manifest m.csv --rule frontal --frontal-weight 0.7 --out v.parquet"
    assert call(words + " --json") == 0
    assert json.loads(capsys.readouterr().out)["several"] == 100
    found = read_predictions(folder / "v.parquet").scores
    np.testing.assert_allclose(found[0], 0.7 * scores.scores[0] + 0.3 * scores.scores[1])
    assert np.array_equal(found[::2], found[1::2])


def test_rules_are_tried_on_tune_and_the_kept_ones_applied(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "combine try-rules a_tune.parquet --rules normal_gate,exclusive_normal,hierarchy --bootstrap 100 --out r.json"
    )
    assert call(words) == 0
    out = capsys.readouterr().out
    assert all(kind in out for kind in ("normal_gate", "exclusive_normal", "hierarchy"))
    kept = json.loads((folder / "r.json").read_text())["rules"]
    assert call("combine rules a_test.parquet --rules r.json --out ruled.parquet") == 0
    assert f"{len(kept)} rules applied" in capsys.readouterr().out
    before, after = (read_predictions(folder / f"{name}.parquet").scores for name in ("a_test", "ruled"))
    assert np.array_equal(before, after) == (not kept)


def test_rules_of_ones_own_come_from_yaml_and_mistakes_are_usage_errors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own.yaml").write_text("rules: [{kind: hierarchy, implies: {Rib Fracture: [Fracture]}}]\n")
    words = "combine try-rules a_tune.parquet --bootstrap 50 --out {} --rules {}"
    assert call(words.format("r.json", "own.yaml")) == 0
    assert call(words.format("s.json", "normal_gat")) == 2
    assert "--rules 'normal_gat': unknown; did you mean 'normal_gate'" in capsys.readouterr().err
    (folder / "bad.yaml").write_text("rules: [{kind: hierarchy, implys: {}}]\n")
    assert call(words.format("s.json", "bad.yaml")) == 2
    assert "implys" in capsys.readouterr().err
    assert call(words.format("r.json", "own.yaml")) == 2  # it exists
