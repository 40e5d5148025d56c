from __future__ import annotations

from pathlib import Path

import pytest

from medtail.config import build_config, config_to_dict, read_yaml
from medtail.errors import UsageError
from medtail.synthesis.config import SynthesisConfig, load_synthesis_config, portable, synthesis_config

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "synthesis").glob("*.yaml"))


def test_a_size_fills_in_what_a_config_leaves_out() -> None:
    small = synthesis_config({"manifest": "a.csv"}).resolved(train_images=710)
    assert (small.prepared.size_px, small.denoiser.steps, small.denoiser.batch_size) == (64, 5000, 32)
    assert (small.drawing.solver, small.drawing.steps, small.drawing.class_scale) == ("dpm++", 20, 2.0)
    own = synthesis_config({"manifest": "a.csv", "denoiser": {"steps": 7}}).resolved(train_images=710)
    assert (own.denoiser.steps, own.denoiser.learning_rate) == (7, 5e-4)


def test_full_takes_200_passes() -> None:
    full = synthesis_config({"manifest": "a.csv", "size": "full"}).resolved(train_images=1000)
    assert (full.autoencoder.steps, full.denoiser.steps) == (12_500, 3_125)


def test_resolving_twice_changes_nothing() -> None:
    once = synthesis_config({"manifest": "a.csv"}).resolved(train_images=10)
    assert once.resolved(train_images=10) == once


def test_the_resolved_config_can_be_read_again(tmp_path: Path) -> None:
    config = synthesis_config({"manifest": str(tmp_path / "a.csv"), "size": "tiny"}).resolved(train_images=10)
    again = synthesis_config(portable(config, folder=tmp_path / "gen"), folder=tmp_path / "gen")
    assert again == config


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(UsageError) as error:
        synthesis_config({"manifest": "a.csv", "size": "huge", "denoiser": {"drop_boht": 1, "steps": 0}})
    for word in ("size", "'huge'", "did you mean 'drop_both'", "denoiser.steps"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [({"size_px": 60}, r"size_px: found 60; expected a multiple of 8"), ({"channels": 3}, r"channels: found 3")],
)
def test_pixels_a_generator_cannot_make_are_refused(pixels: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        synthesis_config({"manifest": "a.csv", "pixels": {"size_px": 64} | pixels})


def test_paths_start_at_the_file_and_overridden_ones_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "a.yaml"
    file.write_text("manifest: ../data/m.csv\n")
    monkeypatch.chdir(tmp_path)
    assert load_synthesis_config(file).manifest == str(tmp_path / "data" / "m.csv")
    assert load_synthesis_config(file, overrides=["manifest=m.csv"]).manifest == str(tmp_path / "m.csv")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_repository_is_valid(path: Path) -> None:
    config = build_config(SynthesisConfig, read_yaml(path), where=path.name)
    assert config_to_dict(config.resolved(train_images=100))["pixels"]["channels"] == 1


def test_there_are_configs_to_check() -> None:
    assert {path.stem for path in CONFIGS} >= {"phantom_tiny", "phantom_small", "bus_bra_small", "full"}
