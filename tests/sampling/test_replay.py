from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.runs import digest_file, write_json
from medtail.sampling.build import ReplaySamplerConfig, build_sampler
from medtail.sampling.policy_network import PolicyNetwork
from medtail.sampling.replay import ORDERS, ClosedLoopSampler, Schedule, Segments, read_schedule
from medtail.tables.manifest import Manifest, manifest_from_frame

LEVELS = np.array([[0.0, 0.25], [0.5, 1.0], [1.0, 0.0], [0.25, 0.75]])


@pytest.fixture
def manifest() -> Manifest:
    ids = [f"i{number}" for number in range(60)]
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": "train"})
    frame["origin"] = ["real"] * 40 + ["synthetic"] * 20
    frame["k=a"] = np.r_[np.ones(30), np.zeros(10), np.ones(8), np.zeros(12)]
    frame["k=b"] = 1 - frame["k=a"]
    return manifest_from_frame(frame, name="pool.csv")


@pytest.fixture
def schedule(tmp_path: Path) -> Path:
    network = PolicyNetwork(["k=a", "k=b"], [0.0, 0.5, 1.0], seed=0)
    Schedule(("k=a", "k=b"), LEVELS, network, {"rounds": 4}).write(tmp_path / "schedule.json")
    return tmp_path / "schedule.json"


def levels_by_epoch(path: Path, manifest: Manifest, order: str, *, epochs: int = 4) -> np.ndarray:
    config = ReplaySamplerConfig(schedule=str(path), order=order)  # type: ignore[arg-type]
    sampler = build_sampler(config, manifest, seed=5, epochs=epochs)
    return np.array([[sampler.facts(epoch)[f"level_k={c}"] for c in "ab"] for epoch in range(epochs)])


def test_a_schedule_comes_back_from_its_file(schedule: Path) -> None:
    read = read_schedule(schedule)
    np.testing.assert_array_equal(read.levels, LEVELS)
    assert read.class_names == ("k=a", "k=b")
    assert read.facts == {"rounds": 4}
    states = np.random.default_rng(0).random((2, 10)).astype(np.float32)
    original = PolicyNetwork(["k=a", "k=b"], [0.0, 0.5, 1.0], seed=0)
    assert read.network is not None
    np.testing.assert_array_equal(
        read.network.chances(states, class_names=read.class_names),
        original.chances(states, class_names=read.class_names),
    )


def test_orders_have_the_same_levels_at_other_times(schedule: Path, manifest: Manifest) -> None:
    found = {order: levels_by_epoch(schedule, manifest, order) for order in ORDERS if order != "closed_loop"}
    np.testing.assert_allclose(found["logged"], LEVELS)
    np.testing.assert_allclose(found["reversed"], LEVELS[::-1])
    np.testing.assert_allclose(found["frozen"], np.tile(LEVELS.mean(axis=0), (4, 1)))
    assert sorted(map(tuple, found["permuted"])) == sorted(map(tuple, LEVELS))
    assert not np.array_equal(found["permuted"], LEVELS)


def test_segments_are_equal_and_may_end_inside_an_epoch(schedule: Path, manifest: Manifest) -> None:
    np.testing.assert_allclose(levels_by_epoch(schedule, manifest, "logged", epochs=2), LEVELS.reshape(2, 2, 2).mean(1))
    parts = [stretch for epoch in range(3) for stretch in Segments(LEVELS, 10, 3).stretches(epoch)]
    drawn = {float(level): sum(s.draws for s in parts if s.levels[0] == level) for level in LEVELS[:, 0]}
    assert sum(drawn.values()) == 30
    assert set(drawn.values()) <= {7, 8}


def test_another_order_of_classes_is_the_same_schedule(schedule: Path, manifest: Manifest) -> None:
    turned = manifest.with_classes(["k=b", "k=a"])
    np.testing.assert_allclose(levels_by_epoch(schedule, turned, "logged"), LEVELS)


def test_a_closed_loop_draws_at_what_it_was_told_and_resumes(schedule: Path, manifest: Manifest) -> None:
    config = ReplaySamplerConfig(schedule=str(schedule), order="closed_loop")

    def build() -> ClosedLoopSampler:
        sampler = build_sampler(config, manifest, seed=1, epochs=3)
        assert isinstance(sampler, ClosedLoopSampler)
        return sampler

    whole, stopped = build(), build()
    random = np.random.default_rng(0)
    states = [random.normal(size=(2, 10)).astype(np.float32) for _ in range(3)]
    for sampler in (whole, stopped):
        sampler.tell(states[0])
        sampler.tell(states[1])
    resumed = build()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert resumed.last_states is not None, "the change of recall is counted from it"
    np.testing.assert_array_equal(resumed.last_states, states[1])
    for sampler in (whole, resumed):
        sampler.tell(states[2])
    assert resumed.epochs_told == 3
    for epoch in range(3):
        np.testing.assert_array_equal(resumed.draw(epoch), whole.draw(epoch))
        assert whole.frequencies(epoch).sum() == pytest.approx(1.0)


def test_a_schedule_that_does_not_fit_is_refused(schedule: Path, manifest: Manifest, tmp_path: Path) -> None:
    Schedule(("k=a", "k=z"), LEVELS).write(tmp_path / "other.json")
    with pytest.raises(MedtailError, match=r"class_names: found k=a, k=z; expected those of pool.csv: k=a, k=b"):
        build_sampler(ReplaySamplerConfig(schedule=str(tmp_path / "other.json")), manifest, seed=0, epochs=1)
    few = manifest.take(manifest.is_real | (manifest.targets[:, 0] == 1))
    with pytest.raises(MedtailError, match=r"above 0 for 'k=b', of which pool.csv has no generated"):
        build_sampler(ReplaySamplerConfig(schedule=str(schedule)), few, seed=0, epochs=1)
    Schedule(("k=a", "k=b"), LEVELS).write(tmp_path / "bare.json")
    bare = ReplaySamplerConfig(schedule=str(tmp_path / "bare.json"), order="closed_loop")
    with pytest.raises(MedtailError, match=r"network: is empty"):
        build_sampler(bare, manifest, seed=0, epochs=1)


def test_a_file_that_is_no_schedule_or_has_changed_is_refused(schedule: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"format": "something"})
    with pytest.raises(MedtailError, match=r"format 'something'; expected 'medtail-schedule/1'"):
        read_schedule(tmp_path / "x.json")
    write_json(tmp_path / "y.json", {"format": "medtail-schedule/1", "class_names": ["a"]})
    with pytest.raises(MedtailError, match=r"is not a readable schedule"):
        read_schedule(tmp_path / "y.json")
    Schedule(("a",), np.array([[3.0]])).write(tmp_path / "z.json")
    with pytest.raises(MedtailError, match=r"levels: found shape \(1, 1\).*in \[0, 2\]"):
        read_schedule(tmp_path / "z.json")
    before = digest_file(schedule)
    Schedule(("k=a", "k=b"), LEVELS[:2]).write(schedule)
    with pytest.raises(MedtailError, match=r"is not the schedule this training was set up with"):
        read_schedule(schedule, digest=before)
