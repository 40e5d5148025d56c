"""A study of generated images is read from YAML; what is the study's own business is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtail.config import dump_yaml
from medtail.errors import UsageError
from medtail.studies.genaug_config import BreastTrack, BusBraTrack, GenaugConfig, TableTrack, load_genaug


def load(folder: Path, **keys: Any) -> GenaugConfig:
    (folder / "study.yaml").write_text(dump_yaml({"track": {"kind": "breast6"}} | keys), encoding="utf-8")
    return load_genaug(folder / "study.yaml")


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.track == BreastTrack()
    assert (config.main, config.title, config.seeds) == ("ab", "study", (0, 1, 2))


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    bus = load(tmp_path, track={"kind": "bus_bra12", "path": "bus"}, train={"cache": "cache"}, generator={"cache": "c"})
    assert isinstance(bus.track, BusBraTrack)
    assert bus.track.path == str(tmp_path / "bus")
    assert (bus.train["cache"], bus.generator["cache"]) == (str(tmp_path / "cache"), str(tmp_path / "c"))
    table = load(tmp_path, track={"kind": "table", "manifest": "t.csv"})
    assert isinstance(table.track, TableTrack)
    assert table.track.manifest == str(tmp_path / "t.csv")


def test_seeds_and_overrides_are_laid_over(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(dump_yaml({"track": {"kind": "breast6"}}), encoding="utf-8")
    config = load_genaug(tmp_path / "study.yaml", overrides=["track.size_px=32"], seeds=range(2))
    assert isinstance(config.track, BreastTrack)
    assert (config.track.size_px, config.seeds) == (32, (0, 1))


def test_what_is_the_studys_business_is_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(
            tmp_path,
            generator={"manifest": "a.csv"},
            generators={"a b": {}},
            train={"sampler": {"kind": "uniform"}, "optimizer": {"epochs": 3}},
            policy={"kind": "policy"},
            final_steps=35,
            seeds=[1, 1],
        )
    for words in (
        "generator.manifest: is the study's business", "train.sampler: is the study's", "policy.kind: is the study's",
        "train.optimizer.epochs: follows from policy", "'a b': expected letters", "final_steps: found 35; expected",
        "seeds: found [1, 1]",
    ):  # fmt: skip
        assert words in str(caught.value), words


def test_an_unknown_key_or_track_is_named_with_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'generator"):
        load(tmp_path, generatorz={})
    with pytest.raises(UsageError, match="breast7"):
        load(tmp_path, track={"kind": "breast7"})
