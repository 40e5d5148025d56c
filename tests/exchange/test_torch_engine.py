"""The reference of every export is what `medtail predict` gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.exchange.torch_engine import TorchDiagnoser, model_folder
from medtail.pixels.frequency import BandConfig
from medtail.pixels.store import open_store
from medtail.tables.manifest import Manifest
from medtail.training.predict import predict


@pytest.mark.parametrize(
    ("band", "tta", "mirrored"),
    [("none", None, "scores"), ("extra", None, "scores"), ("none", "flip", "logits"), ("none", "none", None)],
)
def test_probabilities_are_those_of_predict(
    band: str,
    tta: str | None,
    mirrored: str | None,
    make_small_run: Callable[..., Path],
    toy_manifest: Manifest,
    tmp_path: Path,
) -> None:
    run = make_small_run(tmp_path / "run", tta=tta, band=BandConfig(kind=band, low=20 if band == "extra" else 10))
    engine, expected = TorchDiagnoser(run), predict(run, toy_manifest, quiet=True)
    store = open_store(toy_manifest, engine.card.parts.pixels)
    rows = np.arange(len(toy_manifest))
    found = engine.probabilities(store.images(rows), store.content_boxes[rows])
    np.testing.assert_allclose(found, expected.scores, rtol=0, atol=1e-6)
    assert engine.needs_content is (band == "extra")
    assert engine.mirrored == mirrored


def test_a_run_and_its_model_folder_are_the_same_place(small_run: Path) -> None:
    assert model_folder(small_run) == model_folder(small_run / "model") == small_run / "model"


def test_versions_of_an_image_that_no_graph_makes_are_refused(
    make_small_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_small_run(tmp_path / "run", tta="flip_rotate_scale")
    with pytest.raises(MedtailError, match=r"turned and scaled versions of an image \(tta 'flip_rotate_scale'\)"):
        TorchDiagnoser(run)
