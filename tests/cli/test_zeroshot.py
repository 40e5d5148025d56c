"""`medtail zero-shot` from phrases to a judged table, and every way to ask for too much."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import read_predictions
from medtail.tables.results import read_results
from medtail.tables.vectors import ImageVectors, Phrase, read_text_vectors, text_vectors, unit_rows

CLASSES = ("bright", "rare", "dark")


@pytest.fixture
def place(toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest with an unseen class whose labels are known in test alone, texts, and images that know `bright`."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    bright = toy_manifest.targets[:, toy_manifest.labels.index("bright")]
    frame = toy_manifest.frame.assign(dark=np.where(toy_manifest.folds == "test", 1 - bright, np.nan))
    frame.to_csv("manifest.csv", index=False)
    phrases = [Phrase(name, kind, word, f"{kind} {name} {word}") for name in CLASSES for kind in ("prompt", "negative")
               for word in "ab"]  # type: ignore[arg-type]  # fmt: skip
    axes = np.repeat(np.eye(3, 8), 4, axis=0) + 0.05 * random.normal(size=(12, 8))
    text_vectors(phrases, axes).write("texts.safetensors")
    images = random.normal(size=(len(frame), 8))
    images[:, 0] += 3 * bright
    images[:, 2] += 3 * (1 - bright)
    ids = frame["image_id"].to_numpy(dtype=object)
    ImageVectors(ids, unit_rows(images, what=[""] * len(ids))).write("images.safetensors")
    return tmp_path


PREDICT = ["zero-shot", "predict", "images.safetensors", "texts.safetensors", "manifest.csv"]


def test_phrases_are_listed_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["zero-shot", "prompts", "--classes", "Bulla,Scoliosis"]) == 0
    said = capsys.readouterr()
    assert "Scoliosis\n  prompt      scoliosis" in said.out
    assert "chest_xray.yaml, digest" in said.err
    assert call(["zero-shot", "prompts", "--phrases", "thyroid_us", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len({item["class"] for item in listed["phrases"]}) == 20
    assert call(["zero-shot", "prompts", "--classes", "Bula"]) == 1
    assert "class 'Bula': there are no phrases for it, so no text can ask for it; did you mean 'Bulla'" in (
        capsys.readouterr().err
    )


def test_embed_refuses_wrong_requests_before_a_tower_is_opened(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embed = ["zero-shot", "embed", "--tower", "./nowhere", "--out", "new.safetensors"]
    for words, code, said in (
        ([], 2, "either --phrases (texts) or --manifest (images)"),
        (["--phrases", "chest_xray", "--manifest", "manifest.csv"], 2, "either --phrases"),
        (["--manifest", "manifest.csv", "--classes", "Mass"], 2, "--classes: images are looked at whole"),
        (["--phrases", "chest_xray", "--classes", "Bula"], 1, "did you mean 'Bulla'"),
        (["--phrases", "chest_xray", "--classes", "Bulla"], 1, "--tower './nowhere': no such folder"),
    ):
        assert call([*embed, *words]) == code, words
        assert said in capsys.readouterr().err
    assert call([*embed[:-1], "texts.safetensors", "--phrases", "chest_xray"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_scores_shots_and_priors_make_ordinary_tables(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*PREDICT, "--fold", "test", "--out", "a.parquet"]) == 0
    assert "3 classes" in capsys.readouterr().out
    plain = read_predictions("a.parquet")
    manifest = read_manifest("manifest.csv").in_fold("test")
    assert plain.image_ids.tolist() == manifest.frame["image_id"].tolist()
    np.testing.assert_array_equal(plain.targets[:, 0], manifest.targets[:, manifest.labels.index("bright")])
    assert call(["evaluate", "a.parquet", "--out", "results", "--bootstrap", "0"]) == 0
    assert read_results("results/results.csv").value("auroc", class_name="bright") > 0.9

    assert call([*PREDICT, "--fold", "test", "--shots", "3", "--classes", "bright", "--out", "few.csv"]) == 0
    assert read_predictions("few.csv").labels.class_names == ("bright",)

    pd.DataFrame({"class": ["dark"], "prevalence": [0.02]}).to_csv("prior.csv", index=False)
    capsys.readouterr()
    assert call([*PREDICT, "--fold", "test", "--prior", "prior.csv", "--out", "moved.csv"]) == 0
    moved = read_predictions("moved.csv")
    assert moved.scores[:, 2].mean() < 0.05
    np.testing.assert_array_equal(moved.scores[:, 0], plain.scores[:, 0])
    np.testing.assert_array_equal(np.argsort(moved.scores[:, 2]), np.argsort(plain.scores[:, 2]))
    assert moved.thresholds is not None
    assert moved.thresholds["dark"] != 0.5


def test_wrong_requests_for_scores_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, said in (
        (["--fold", "tset"], 2, "--fold 'tset': expected one of"),
        (["--classes", "drak"], 1, "class 'drak': no vectors; did you mean 'dark'"),
        (["--classes", " , "], 2, "--classes: no names"),
        (["--mode", "descriptions"], 1, "no phrase of kind 'description'"),
        (["--mode", "prompts_posneg", "--shots", "2"], 2, "expected --mode prompts"),
    ):
        assert call([*PREDICT, *words, "--out", "a.csv"]) == code, words
        assert said in capsys.readouterr().err
        assert not Path("a.csv").exists()


def test_nearest_class_and_the_table_of_seen_and_unseen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*PREDICT, "--fold", "test", "--classes", "bright,rare", "--out", "seen.csv"]) == 0
    nearest = ["zero-shot", "nearest", "seen.csv", "texts.safetensors", "--manifest", "manifest.csv"]
    capsys.readouterr()
    assert call([*nearest, "--classes", "dark", "--out", "near.csv"]) == 0
    assert capsys.readouterr().out.startswith("dark: scored by ")
    assert not np.isnan(read_predictions("near.csv").targets).any()
    assert call([*nearest, "--classes", "Bright", "--out", "n.csv"]) == 1
    assert "'Bright': the model was trained on it, as 'bright'" in capsys.readouterr().err

    assert call([*PREDICT, "--fold", "test", "--out", "all.csv"]) == 0
    capsys.readouterr()
    judge = ["zero-shot", "judge", "all.csv", "--unseen", "dark", "--bootstrap", "50"]
    assert call([*judge, "--out", "judged.csv"]) == 0
    said = capsys.readouterr().out
    assert "harmonic" in said.splitlines()[-1]
    assert read_results("judged.csv").value("auroc", class_name="dark", subgroup="unseen") > 0.9
    assert call([*judge, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["header"]["unseen"] == ["dark"]
    assert call(["zero-shot", "judge", "all.csv", "--unseen", "drak"]) == 1


def test_wording_is_weighed_without_labels(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["zero-shot", "wording", "images.safetensors", "texts.safetensors"]
    assert call([*words, "--classes", "dark", "--out", "wording.csv"]) == 0
    assert "dark: without 'prompt dark" in capsys.readouterr().out
    assert len(pd.read_csv("wording.csv")) == 2
    assert call([*words, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6


def test_trained_model_is_asked_and_predicts_like_any_other(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("seen.yaml").write_text(
        "manifest: manifest.csv\nclasses: [bright, rare]\npixels: {size_px: 32, channels: 1}\nthreads: 1\n"
        "head: {kind: text_query, texts: texts.safetensors, text_width: 8, width: 16, heads: 2, inner: 16}\n"
        "backbone: {kind: resnet}\noptimizer: {epochs: 1, batch_size: 16}\n",
        encoding="utf-8",
    )
    assert call(["train", "seen.yaml", "--out", "run", "--quiet"]) == 0
    ask = ["zero-shot", "ask", "run", "texts.safetensors", "--manifest", "manifest.csv"]
    assert call([*ask, "--classes", "bright,dark", "--out", "asked"]) == 0
    assert "scores 2 classes, 1 of them never trained" in capsys.readouterr().out
    assert call(["predict", "asked", "manifest.csv", "--fold", "test", "--out", "p.parquet", "--quiet"]) == 0
    found = read_predictions("p.parquet")
    assert found.labels.class_names == ("bright", "dark")
    assert read_text_vectors("texts.safetensors").width == 8
    frame = pd.read_csv("manifest.csv", dtype=str)
    frame.assign(dark="0").to_csv("leaky.csv", index=False)
    assert call([*ask[:-1], "leaky.csv", "--classes", "dark", "--out", "again"]) == 1
    assert "have a label of it, column 'dark', in train, tune" in capsys.readouterr().err
    assert not Path("again").exists()
