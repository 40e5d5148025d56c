"""A study's file: what is read, what is refused, and that all mistakes are named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtail.config import build_config, config_to_dict
from medtail.errors import UsageError
from medtail.studies.config import EqualConfig, ExternalConfig, JudgeConfig, StudyConfig, load_study


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_study_starts_from_a_file_and_lays_its_own_keys_over_it(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text("manifest: ../a.csv\nseed: 3\noptimizer: {epochs: 7}\n")
    path = write(tmp_path, "base: configs/base.yaml\ntrain: {optimizer: {batch_size: 8}}\narms: {full: {}}\n")
    study, values = load_study(path)
    assert values["manifest"] == str(tmp_path / "a.csv")
    assert values["optimizer"] == {"epochs": 7, "batch_size": 8}
    assert study.lead == "full"
    assert study.seeds == (0, 1, 2)


def test_weights_in_a_folder_beside_the_file_are_found_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "vit").mkdir()
    backbone = (
        "{kind: dual, cnn: {kind: efficientnet, weights: google/efficientnet-b2}, vit: {kind: vit, weights: vit}}"
    )
    _, values = load_study(write(tmp_path, f"train: {{manifest: a.csv, backbone: {backbone}}}\narms: {{full: {{}}}}\n"))
    assert values["backbone"]["vit"]["weights"] == str(tmp_path / "vit")
    assert values["backbone"]["cnn"]["weights"] == "google/efficientnet-b2"


def test_keys_are_overridden_from_the_command_line(tmp_path: Path) -> None:
    study, _ = load_study(write(tmp_path, "train: {manifest: a.csv}\narms: {full: }\n"), overrides=["seeds=[4]"])
    assert study.seeds == (4,)


def test_external_tables_become_absolute(tmp_path: Path) -> None:
    text = (
        "train: {manifest: a.csv}\narms: {full: {}}\nexternal: {far: b.csv, farther: {manifest: c.csv, fold: test}}\n"
    )
    study, _ = load_study(write(tmp_path, text))
    assert study.external["far"] == ExternalConfig(manifest=str(tmp_path / "b.csv"))
    assert study.external["farther"] == ExternalConfig(manifest=str(tmp_path / "c.csv"), fold="test")


def test_a_judge_reads_back_from_plain_values() -> None:
    judge = JudgeConfig(metrics=("ap",), levels=("class",), tail_cuts=(0.2, 0.05), holm="classes")
    assert build_config(JudgeConfig, config_to_dict(judge), where="plan") == judge


def test_budgets_bind_unless_said_otherwise() -> None:
    equal = EqualConfig(batch=False, unless={"wide": ("steps",)})
    assert [equal.binds("wide", "steps"), equal.binds("full", "steps"), equal.binds("full", "batch")] == [
        False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: {full: {}}", r"no training to start from; expected `base: FILE.yaml`"),
        ("train: {manifest: a.csv}\narms: {}", r"arms: found none"),
        ("train: {manifest: a.csv}\narms: {a/b: {}}", r"arm 'a/b': expected letters"),
        ("train: {manifest: a.csv}\narms: {full: {}}\nreference: ful", r"no arm 'ful'; did you mean 'full'\?"),
        ("train: {manifest: a.csv}\narms: {full: {}}\nseeds: [1, 1]", r"seeds: found \[1, 1\]; expected at least one"),
        ("train: {manifest: a.csv}\narms: {full: {}}\nequal: {unless: {ful: [steps]}}", r"equal.unless: no arm 'ful'"),
        ("train: {manifest: a.csv}\narm: {full: {}}", r"arm: unknown key; did you mean 'arms'\?"),
        ("train: {manifest: a.csv}\narms: {full: {}}\nfolds: {kind: kfold}", r"folds.kind: found 'kfold'; expected"),
        ("train: {manifest: a.csv}\narms: {full: {}}\njudge: {metrics: [aurok]}", r"metric 'aurok': unknown; did you"),
        ("train: {manifest: a.csv}\narms: {full: {}}\njudge: {fold: train}", r"judge.fold: found 'train'; expected"),
        ("train: {seed: 1}\narms: {full: {}}", r"manifest: missing"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_study(write(tmp_path, text))


def test_several_mistakes_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        build_config(StudyConfig, {"arms": {"a b": None}, "reference": "c", "seeds": []}, where="study.yaml")
    text = str(caught.value)
    assert all(part in text for part in ("no training", "arm 'a b'", "reference: no arm 'c'", "seeds: found []"))
