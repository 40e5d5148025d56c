from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError, UsageError
from medtail.synthesis import pool as module
from medtail.synthesis.config import SynthesisConfig
from medtail.synthesis.drawing import DrawingSettings, Mode
from medtail.synthesis.fit import train_generator
from medtail.synthesis.folder import Generator, load_generator
from medtail.synthesis.pool import make_pool
from medtail.synthesis.pool_items import asked_counts, pool_items, real_table
from medtail.tables.manifest import read_manifest
from medtail.tables.tail import count_classes

CYST, PAPILLOMA = "subtype=cyst_like", "subtype=papilloma_like"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pool_has_its_images_rows_and_record(generator: Generator, tmp_path: Path) -> None:
    outcome = make_pool(generator, tmp_path / "pool", per_class={CYST: 3, PAPILLOMA: 2})
    assert (outcome.images, outcome.made) == (5, 5)
    rows = pd.read_csv(tmp_path / "pool" / "pool.csv", dtype=str, keep_default_na=False)
    assert rows["meta_class"].tolist() == [CYST] * 3 + [PAPILLOMA] * 2
    assert rows["patient_id"].tolist() == [f"syn:{generator.digest[:12]}:{k}" for k in range(5)]
    assert set(rows["fold"]) == {"train"}
    assert set(rows["origin"]) == {"synthetic"}
    assert set(rows["meta_generator"]) == {generator.digest}
    assert (rows[CYST].tolist(), rows[PAPILLOMA].tolist()) == (list("11100"), list("00011"))
    for path, seed in zip(rows["path"], rows["meta_noise_seed"], strict=True):
        with Image.open(tmp_path / "pool" / path) as image:
            assert (image.size, image.mode) == ((32, 32), "L")
        assert 0 <= int(seed) < 2**63
    joined = read_manifest(tmp_path / "pool" / "manifest.csv")
    joined.check_files()
    joined.check_folds("train", "tune", "test")
    assert len(joined) == 35 + 5
    assert count_classes(joined).images == count_classes(real_table(generator, None)).images
    record = json.loads((tmp_path / "pool" / "record.json").read_text())
    assert set(record["train_patients"]) == generator.train_patients
    assert (record["generator_digest"], record["mode"], record["seed"]) == (generator.digest, "M2", 0)
    for strip in record["strips"].values():
        assert (tmp_path / "pool" / strip).is_file()


@pytest.mark.slow
def test_two_processes_draw_the_pool_of_one(
    generator_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load_generator(generator_folder)  # as it is on disk, where the processes read it
    asked = {CYST: 65, PAPILLOMA: 2}
    assert sum(asked.values()) > module.AT_ONCE, "a batch for each process"
    settings = replace(DrawingSettings.of(generator), steps=2)
    make_pool(generator, tmp_path / "one", per_class=asked, settings=settings)
    outcome = make_pool(generator, tmp_path / "two", per_class=asked, settings=settings, devices=2)
    assert outcome.made == 67
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    monkeypatch.setattr(module._Drawer, "draw", lambda self, items: pytest.fail("all was drawn by the processes"))
    again = make_pool(generator, tmp_path / "two", per_class=asked, settings=settings, devices=2, resume=True)
    assert again.made == 0


def test_the_same_seed_gives_the_same_files_and_a_subset_the_same_images(generator: Generator, tmp_path: Path) -> None:
    make_pool(generator, tmp_path / "a", per_class=2)
    make_pool(generator, tmp_path / "b", per_class=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    make_pool(generator, tmp_path / "c", per_class={CYST: 1})
    make_pool(generator, tmp_path / "d", per_class={CYST: 1}, seed=1)
    few, other = pd.read_csv(tmp_path / "c" / "pool.csv"), pd.read_csv(tmp_path / "d" / "pool.csv")
    whole = pd.read_csv(tmp_path / "a" / "pool.csv").query("meta_class == @CYST").iloc[0]
    assert few["meta_noise_seed"][0] == whole["meta_noise_seed"] != other["meta_noise_seed"][0]
    assert few["meta_sketch_source"][0] == whole["meta_sketch_source"]
    one, same = (
        np.asarray(Image.open(path), dtype=int)
        for path in (tmp_path / "c" / few["path"][0], tmp_path / "a" / whole["path"])
    )
    assert np.abs(one - same).max() <= 1


@pytest.mark.parametrize("mode", ["M0", "M1", "M2"])
def test_every_mode_works_without_any_mark(generator: Generator, mode: Mode, tmp_path: Path) -> None:
    make_pool(generator, tmp_path / "pool", per_class={CYST: 2, PAPILLOMA: 1}, mode=mode)
    rows = pd.read_csv(tmp_path / "pool" / "pool.csv", dtype=str, keep_default_na=False)
    assert "mask_path" not in rows
    assert set(rows["meta_mode"]) == {mode}
    sketched = [(tmp_path / "pool" / "sketches" / f"{name}.png").is_file() for name in rows["image_id"]]
    assert [source != "" for source in rows["meta_sketch_source"]] == sketched
    if mode == "M0":
        assert not any(sketched)
    if mode == "M1":
        assert set(rows["meta_sketch_source"]) <= {"self", ""}
    if mode == "M2":
        train = real_table(generator, None).in_fold("train")
        for source, asked in zip(rows["meta_sketch_source"], rows["meta_class"], strict=True):
            if source:
                assert train.frame.set_index("image_id").loc[source, asked] == 1


def test_a_pool_cut_off_goes_on_to_the_same_files(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 4)
    make_pool(generator, tmp_path / "whole", per_class=2)
    real, calls = module.draw_latents, []

    def cut(*values: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*values, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_latents", cut)
        with pytest.raises(KeyboardInterrupt):
            make_pool(generator, tmp_path / "cut", per_class=2)
    assert not (tmp_path / "cut" / "record.json").exists()
    assert len(list((tmp_path / "cut" / "images").iterdir())) == 4
    next((tmp_path / "cut" / "images").iterdir()).unlink()  # killed in the middle of a batch
    outcome = make_pool(generator, tmp_path / "cut", per_class=2, resume=True)
    assert outcome.made == 12
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert make_pool(generator, tmp_path / "cut", per_class=2, resume=True).made == 0


def test_a_pool_is_never_overwritten_nor_resumed_with_other_settings(generator: Generator, tmp_path: Path) -> None:
    make_pool(generator, tmp_path / "pool", per_class={CYST: 1})
    with pytest.raises(UsageError, match="is not empty"):
        make_pool(generator, tmp_path / "pool", per_class={CYST: 1})
    with pytest.raises(UsageError, match="seed: found 1; the pool began with 0"):
        make_pool(generator, tmp_path / "pool", per_class={CYST: 1}, seed=1, resume=True)
    with pytest.raises(UsageError, match=r"no plan\.json"):
        make_pool(generator, tmp_path / "nothing", per_class={CYST: 1}, resume=True)


def test_fill_asks_for_what_balance_needs(generator: Generator) -> None:
    table = real_table(generator, None)
    assert list(asked_counts(generator, table, "fill").values()) == [2, 3, 4, 5, 6, 7]
    assert sum(asked_counts(generator, table, 4).values()) == 24
    full = replace(generator, config=replace(generator.config, size="full", pixels=None))
    assert asked_counts(full, table, "fill")[PAPILLOMA] == 7  # the cap of 25 images each is not reached


def test_impossible_counts_are_refused(generator: Generator) -> None:
    table = real_table(generator, None)
    with pytest.raises(UsageError, match=r"class 'subtype=cyst': unknown; did you mean 'subtype=cyst_like'\?"):
        asked_counts(generator, table, {"subtype=cyst": 1})
    with pytest.raises(UsageError, match="found -1; expected 0 or more"):
        asked_counts(generator, table, {CYST: -1})
    with pytest.raises(UsageError, match="asks for no image at all"):
        asked_counts(generator, table, 0)


def test_a_class_without_train_images_is_named(
    quick_config: Callable[..., SynthesisConfig], phantoms: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(phantoms)
    frame = frame[~((frame["fold"] == "train") & (frame[PAPILLOMA] == 1))]
    frame["path"] = [str(phantoms.parent / path) for path in frame["path"]]
    frame.to_csv(tmp_path / "m.csv", index=False)
    config = quick_config(manifest=str(tmp_path / "m.csv"))
    said: list[str] = []
    generator = load_generator(train_generator(config, tmp_path / "gen", say=said.append).folder)
    assert said[0] == f"class '{PAPILLOMA}': no train image; it cannot be generated."
    for asked in ("fill", 3, {PAPILLOMA: 1}):
        with pytest.raises(MedtailError, match=f"class '{PAPILLOMA}': no train image shows it"):
            make_pool(generator, tmp_path / "pool", per_class=asked)  # type: ignore[arg-type]
    assert make_pool(generator, tmp_path / "pool", per_class={CYST: 1}).images == 1


def test_a_table_of_other_classes_is_refused(generator: Generator, phantoms: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(phantoms)
    frame["path"] = [str(phantoms.parent / path) for path in frame["path"]]
    frame.drop(columns=[PAPILLOMA])[lambda t: t.filter(like="subtype=").sum(axis=1) > 0].to_csv(
        tmp_path / "fewer.csv", index=False
    )
    with pytest.raises(MedtailError, match=f"not those the generator was trained on .*{PAPILLOMA}"):
        make_pool(generator, tmp_path / "pool", manifest=tmp_path / "fewer.csv")
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize("fold", ["reward", "tune", "test"])
def test_a_patient_the_generator_has_seen_must_not_judge(
    generator: Generator, phantoms: Path, tmp_path: Path, fold: str
) -> None:
    frame = pd.read_csv(phantoms)
    frame["path"] = [str(phantoms.parent / path) for path in frame["path"]]
    frame.loc[0, "fold"] = fold
    frame.to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(MedtailError, match=f"has learnt from patient 'p_train_0_0' whose images are in {fold}"):
        make_pool(generator, tmp_path / "pool", manifest=tmp_path / "m.csv")


def test_seeds_depend_on_pool_class_and_number_alone(generator: Generator) -> None:
    few, many = (pool_items(generator, {CYST: n, PAPILLOMA: 1}, seed=0) for n in (1, 3))
    assert few[0].noise_seed == many[0].noise_seed
    assert few[1].noise_seed == many[3].noise_seed
    assert len({item.noise_seed for item in many}) == 4
    assert pool_items(generator, {CYST: 1}, seed=1)[0].noise_seed != few[0].noise_seed


def test_random_solvers_are_refused(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match="'ddpm' draws noise at every step"):
        make_pool(generator, tmp_path / "pool", settings=DrawingSettings.of(generator, solver="ddpm"))


def test_combinable_findings_are_asked_for_as_they_occur_together(
    quick_config: Callable[..., SynthesisConfig], phantoms: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(phantoms)
    names = [c for c in frame.columns if c.startswith("subtype=")]
    frame["path"] = [str(phantoms.parent / path) for path in frame["path"]]
    found = frame.drop(columns=names).assign(dark=frame[names[1]] + frame[names[5]], rare=frame[names[5]], odd=0.0)
    found.loc[2, "odd"] = np.nan
    found.loc[frame[names[3]] == 1, "odd"] = 1.0
    found = found.assign(roi_x=2, roi_y=2, roi_w=20, roi_h=20)
    found.to_csv(tmp_path / "m.csv", index=False)
    config = quick_config(manifest=str(tmp_path / "m.csv"), pixels={"size_px": 32, "crop": "roi"})
    generator = load_generator(train_generator(config, tmp_path / "gen").folder)
    make_pool(generator, tmp_path / "pool", per_class={"rare": 3, "odd": 2})
    rows = pd.read_csv(tmp_path / "pool" / "pool.csv")
    assert rows.loc[rows["meta_class"] == "rare", "dark"].tolist() == [1.0] * 3  # every rare one is dark
    assert rows.loc[rows["meta_class"] == "odd", "dark"].tolist() == [0.0] * 2
    assert rows[["roi_x", "roi_y", "roi_w", "roi_h"]].drop_duplicates().to_numpy().tolist() == [[0, 0, 32, 32]]
