"""Laws that every sampler must obey, on made-up and real label tables.

A new member of `SamplerConfig` must be listed here: `test_every_member_of_the_union_is_under_the_laws` sees to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.sampling.build import (
    ClassBalancedSamplerConfig,
    CopiesSamplerConfig,
    DeferredSamplerConfig,
    MixtureSamplerConfig,
    PolicySamplerConfig,
    ProgressiveSamplerConfig,
    RepeatFactorSamplerConfig,
    ReplaySamplerConfig,
    SamplerConfig,
    SitesSamplerConfig,
    SquareRootSamplerConfig,
    TwoBranchesSamplerConfig,
    TwoStreamSamplerConfig,
    UniformSamplerConfig,
    build_sampler,
)
from medtail.sampling.contract import Feedback, Sampler, shard
from medtail.sampling.replay import Schedule
from medtail.tables.labels import one_hot
from medtail.tables.manifest import Manifest, manifest_from_frame

EPOCHS = 5
CONFIGS: dict[str, SamplerConfig] = {
    "uniform": UniformSamplerConfig(),
    "class_balanced": ClassBalancedSamplerConfig(),
    "square_root": SquareRootSamplerConfig(),
    "progressive": ProgressiveSamplerConfig(),
    "repeat_factor": RepeatFactorSamplerConfig(threshold=0.3),
    "sites": SitesSamplerConfig(),
    "copies": CopiesSamplerConfig(classes=("*[cdr]*",), copies=3),  # some classes of every table below
    "two_streams": TwoStreamSamplerConfig(from_epoch=1),
    "two_streams plain": TwoStreamSamplerConfig(rake=False, ledger=False),
    "two_branches": TwoBranchesSamplerConfig(),
    "two_branches reversed": TwoBranchesSamplerConfig(second="reversed"),
    "deferred": DeferredSamplerConfig(balance_from=0.5),
    "mixture without a pool": MixtureSamplerConfig(levels=0.0),
}
NEEDS_POSITIVES = (
    "class_balanced",
    "square_root",
    "progressive",
    "sites",
    "two_branches",
    "two_branches reversed",
    "deferred",
)
every_sampler = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


# those that want generated rows beside the real ones; None stands for a schedule made for the table at hand
WITH_POOL: dict[str, SamplerConfig | None] = {
    "mixture": MixtureSamplerConfig(levels=0.5),
    "replay logged": None,
    "replay reversed": None,
}


def test_every_member_of_the_union_is_under_the_laws() -> None:
    known = {type(config) for config in (*CONFIGS.values(), *WITH_POOL.values()) if config is not None}
    # a policy draws only through the schedule it leaves
    assert known | {ReplaySamplerConfig, PolicySamplerConfig} == set(get_args(get_args(SamplerConfig)[0]))


def test_a_policy_draws_only_through_the_schedule_it_leaves() -> None:
    with pytest.raises(MedtailError, match=r"'policy': has no levels before it has learnt them.*sampler 'replay'"):
        build(PolicySamplerConfig(), made_up("multiclass"))


def made_up(task: str) -> Manifest:
    """Ninety rows of thirty patients with a long tail; two fifths are outside the train fold."""
    random = np.random.default_rng(5)
    count = 90
    patients = np.arange(count) // 3
    columns: dict[str, np.ndarray] = {}
    if task in ("multiclass", "mixed"):
        values = random.choice(["a", "b", "c", "d"], size=count, p=[0.6, 0.25, 0.1, 0.05]).astype(object)
        values[random.random(count) < 0.1] = None
        columns |= one_hot(values, group="type", absent=("d",) if task == "mixed" else ())
    if task in ("multilabel", "mixed"):
        for name, prevalence in {"common": 0.5, "rare": 0.08, "never": 0.0}.items():
            column = (random.random(count) < prevalence).astype(float)
            column[random.random(count) < 0.15] = np.nan
            columns[name] = column
    ids = [f"i{row:02d}" for row in range(count)]
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "path": ids,
            "patient_id": [f"p{patient:02d}" for patient in patients],
            "fold": np.array(["train", "train", "tune", "train", "test"])[patients % 5],
            "site": np.array(["north", "north", "south", ""])[patients % 4],
            **columns,
        }
    )
    return manifest_from_frame(frame, name=f"{task}.csv")


@pytest.fixture(params=["multiclass", "multilabel", "mixed"])
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return made_up(request.param)


@pytest.fixture(scope="session")
def bus_bra(shared_data: Path) -> Manifest:
    """28 histologies of real patients, down to 2 images: official folds 1-3 train, 4 test."""
    table = pd.read_csv(shared_data / "bus_bra" / "labels.csv")
    frame = pd.DataFrame(
        {
            "image_id": table["image"],
            "path": "images/" + table["image"],
            "patient_id": table["patient"].astype(str),
            "fold": np.where(table["fold5"] == 4, "test", "train"),
            **one_hot(table["histology"], group="histology"),
        }
    )
    return manifest_from_frame(frame, name="bus_bra.csv")


@pytest.fixture(scope="session")
def nih_cxr(shared_data: Path) -> Manifest:
    """The label table of 112,120 chest X-rays, 14 findings, every fifth patient outside the train fold."""
    table = pd.read_csv(shared_data / "nih_cxr" / "nih14_labels_full.csv.gz")
    fold = np.where(table["patient"] % 5 == 0, "test", "train")
    names = table.columns[2:]
    ids = {"image_id": table["image"], "path": table["image"], "patient_id": table["patient"].astype(str)}
    return manifest_from_frame(pd.DataFrame({**ids, "fold": fold, **table[names]}), name="nih.csv")


def build(config: SamplerConfig, manifest: Manifest, *, seed: int = 0, epoch_rows: int | None = None) -> Sampler:
    return build_sampler(config, manifest, seed=seed, epochs=EPOCHS, epoch_rows=epoch_rows)


def assert_obeys(sampler: Sampler, manifest: Manifest) -> None:
    """Only train rows, and shares that are shares."""
    np.testing.assert_array_equal(sampler.rows, np.flatnonzero(manifest.folds == "train"))
    for epoch in range(EPOCHS):
        draws, promised = sampler.draw(epoch), sampler.frequencies(epoch)
        assert draws.dtype == np.int64
        assert draws.ndim == 1
        assert (manifest.folds[draws] == "train").all()
        assert promised.shape == sampler.rows.shape
        assert (promised >= 0).all()
        assert promised.sum() == pytest.approx(1.0)


@every_sampler
@pytest.mark.parametrize("epoch_rows", [None, 17, 200])
def test_only_train_rows_are_drawn(config: SamplerConfig, manifest: Manifest, epoch_rows: int | None) -> None:
    sampler = build(config, manifest, epoch_rows=epoch_rows)
    assert_obeys(sampler, manifest)
    assert len(sampler.draw(0)) == (epoch_rows or len(sampler.rows))


@every_sampler
def test_the_same_seed_draws_the_same_and_another_does_not(config: SamplerConfig, manifest: Manifest) -> None:
    first, again, other = build(config, manifest), build(config, manifest), build(config, manifest, seed=1)
    later = first.draw(3)
    for epoch in range(EPOCHS):
        np.testing.assert_array_equal(first.draw(epoch), again.draw(epoch))
        assert not np.array_equal(first.draw(epoch), other.draw(epoch))
    np.testing.assert_array_equal(first.draw(3), later)  # whatever was drawn between


@every_sampler
def test_another_epoch_draws_otherwise(config: SamplerConfig, manifest: Manifest) -> None:
    sampler = build(config, manifest)
    drawn = {sampler.draw(epoch).tobytes() for epoch in range(EPOCHS)}
    assert len(drawn) == EPOCHS


@every_sampler
@pytest.mark.parametrize("epoch", [0, 2, EPOCHS - 1])
def test_the_long_run_frequency_is_the_promised_one(config: SamplerConfig, manifest: Manifest, epoch: int) -> None:
    seeds = 250
    draws = np.concatenate([build(config, manifest, seed=seed).draw(epoch) for seed in range(seeds)])
    sampler = build(config, manifest)
    promised = sampler.frequencies(epoch)
    found = np.bincount(draws, minlength=len(manifest))[sampler.rows] / len(draws)
    error = np.sqrt(promised * (1 - promised) / len(draws))
    assert (np.abs(found - promised) <= 4 * error).all()


@every_sampler
def test_every_draw_belongs_to_a_stream(config: SamplerConfig, manifest: Manifest) -> None:
    sampler = build(config, manifest)
    streams = sampler.streams(3)
    assert streams.dtype == np.int64
    assert (streams >= 0).all()
    assert len(streams) == len(sampler.draw(3))


@every_sampler
def test_a_resumed_sampler_draws_on_as_if_nothing_had_happened(config: SamplerConfig, manifest: Manifest) -> None:
    whole = build(config, manifest)
    stopped = build(config, manifest)
    for epoch in range(2):
        for sampler in (whole, stopped):
            rows = sampler.draw(epoch)
            losses = np.random.default_rng(epoch).random(len(rows))
            sampler.observe(Feedback(rows=rows, losses=losses, streams=sampler.streams(epoch), epoch=epoch))
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = build(config, manifest)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    for epoch in range(2, EPOCHS):
        np.testing.assert_array_equal(resumed.draw(epoch), whole.draw(epoch))
        np.testing.assert_array_equal(resumed.frequencies(epoch), whole.frequencies(epoch))


@every_sampler
def test_the_state_of_another_seed_is_refused(config: SamplerConfig, manifest: Manifest) -> None:
    with pytest.raises(MedtailError, match=r"sampler state: found .*seed 9"):
        build(config, manifest).load_state_dict(build(config, manifest, seed=9).state_dict())


@every_sampler
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_shares_of_all_processes_are_the_draws_of_one(
    config: SamplerConfig, manifest: Manifest, world_size: int, batch_size: int | None
) -> None:
    draws = build(config, manifest).draw(0)
    shares = [shard(draws, rank=rank, world_size=world_size, batch_size=batch_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    merged = np.stack(shares, axis=1).ravel()
    np.testing.assert_array_equal(merged[: len(draws)], draws)
    surplus = len(merged) - len(draws)
    assert surplus < world_size * (batch_size or 1)
    np.testing.assert_array_equal(merged[len(draws) :], draws[:surplus])
    if batch_size is not None:
        together = batch_size * world_size
        alone = shard(draws, rank=0, world_size=1, batch_size=together)
        for k in range(len(alone) // together):
            batches = [share[k * batch_size : (k + 1) * batch_size] for share in shares]
            assert sorted(np.concatenate(batches)) == sorted(alone[k * together : (k + 1) * together])


@every_sampler
def test_drawing_changes_neither_manifest_nor_promise(config: SamplerConfig, manifest: Manifest) -> None:
    before, folds, patients = manifest.digest, manifest.folds.copy(), manifest.patients.copy()
    sampler = build(config, manifest)
    promised = sampler.frequencies(0)
    sampler.draw(0)[:] = -1
    sampler.frequencies(0)[:] = -1.0
    np.testing.assert_array_equal(sampler.frequencies(0), promised)
    assert (sampler.draw(0) >= 0).all()
    assert made_up(manifest.name.removesuffix(".csv")).digest == before == manifest.digest
    np.testing.assert_array_equal(manifest.folds, folds)
    np.testing.assert_array_equal(manifest.patients, patients)


@every_sampler
def test_an_empty_train_fold_is_refused(config: SamplerConfig, manifest: Manifest) -> None:
    empty = manifest.with_folds(np.full(len(manifest), "tune"))
    with pytest.raises(MedtailError, match=r"column 'fold': no row is in 'train'.*`medtail data split"):
        build(config, empty)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_train_fold_without_positives_is_uniform_or_refused(kind: str) -> None:
    manifest = made_up("multilabel").with_classes(["never"])
    if kind in NEEDS_POSITIVES:
        with pytest.raises(MedtailError, match=r"multilabel.csv: no class has a positive row in the train fold"):
            build(CONFIGS[kind], manifest)
    else:
        assert np.ptp(build(CONFIGS[kind], manifest).frequencies(0)) == 0.0


def with_generated(manifest: Manifest) -> Manifest:
    """Add rows made for each class that has a train row, the rarer the more, among the real ones of the train fold."""
    frame, targets = manifest.frame, manifest.targets
    parts = [frame.assign(meta_class="")]
    for c, name in enumerate(manifest.labels.class_names):
        rows = np.flatnonzero((manifest.folds == "train") & (targets[:, c] == 1))
        if len(rows):
            chosen = frame.iloc[np.resize(rows, 4 + 2 * c)]
            ids = [f"syn{c}_{number}" for number in range(len(chosen))]
            made = {"image_id": ids, "patient_id": ids, "origin": "synthetic", "fold": "train", "meta_class": name}
            parts.append(chosen.assign(**made))
    joined = pd.concat(parts, ignore_index=True)
    return manifest_from_frame(joined, name=manifest.name)


@pytest.fixture(params=WITH_POOL)
def pool_config(request: pytest.FixtureRequest, manifest: Manifest, tmp_path: Path) -> SamplerConfig:
    config = WITH_POOL[request.param]
    if config is not None:
        return config
    has_rows = (manifest.targets[manifest.folds == "train"] == 1).any(axis=0)
    levels = np.random.default_rng(0).choice([0.0, 0.25, 1.0, 2.0], size=(7, len(has_rows))) * has_rows
    Schedule(manifest.labels.class_names, levels).write(tmp_path / "schedule.json")
    order = "reversed" if request.param.endswith("reversed") else "logged"
    return ReplaySamplerConfig(schedule=str(tmp_path / "schedule.json"), order=order)


def test_samplers_of_pools_obey_the_laws_too(pool_config: SamplerConfig, manifest: Manifest) -> None:
    pooled = with_generated(manifest)
    real = int(((pooled.folds == "train") & pooled.is_real).sum())
    for epoch_rows in (None, 17, 200):
        sampler = build(pool_config, pooled, epoch_rows=epoch_rows)
        assert_obeys(sampler, pooled)
        assert len(sampler.draw(0)) == len(sampler.streams(0)) == (epoch_rows or real)
    test_the_same_seed_draws_the_same_and_another_does_not(pool_config, pooled)
    test_another_epoch_draws_otherwise(pool_config, pooled)
    test_a_resumed_sampler_draws_on_as_if_nothing_had_happened(pool_config, pooled)
    test_the_state_of_another_seed_is_refused(pool_config, pooled)


@pytest.mark.parametrize("epoch", [0, EPOCHS - 1])
def test_pools_come_as_often_as_promised(pool_config: SamplerConfig, manifest: Manifest, epoch: int) -> None:
    test_the_long_run_frequency_is_the_promised_one(pool_config, with_generated(manifest), epoch)


@every_sampler
@pytest.mark.parametrize("name", ["bus_bra", "nih_cxr"])
def test_real_label_tables_are_drawn_as_promised(
    config: SamplerConfig, name: str, request: pytest.FixtureRequest
) -> None:
    manifest = request.getfixturevalue(name)
    sampler = build(config, manifest)
    assert_obeys(sampler, manifest)
    positive = manifest.targets[sampler.rows] == 1
    for epoch in (0, EPOCHS - 1):
        # rows one by one are too many for one epoch; each class's share of the draws is what matters
        promised = sampler.frequencies(epoch) @ positive
        draws = sampler.draw(epoch)
        found = (manifest.targets[draws] == 1).mean(axis=0)
        error = np.sqrt(promised * (1 - promised) / len(draws))
        assert (np.abs(found - promised) <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("name", ["bus_bra", "nih_cxr"])
def test_on_real_tables_every_tail_sampler_shows_the_rarest_class_more(
    name: str, request: pytest.FixtureRequest
) -> None:
    manifest = request.getfixturevalue(name)
    rows = manifest.folds == "train"
    counts = (manifest.targets[rows] == 1).sum(axis=0)
    rarest = int(np.where(counts > 0, counts, counts.max()).argmin())
    is_rare = manifest.targets[rows][:, rarest] == 1
    share = {kind: build(config, manifest).frequencies(EPOCHS - 1)[is_rare].sum() for kind, config in CONFIGS.items()}
    assert share["uniform"] == pytest.approx(counts[rarest] / rows.sum())
    assert share["uniform"] < share["repeat_factor"] < share["class_balanced"]
    assert share["uniform"] < share["square_root"] < share["class_balanced"]
    assert share["progressive"] == pytest.approx(share["class_balanced"])
