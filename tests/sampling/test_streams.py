from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.sampling.build import TwoStreamSamplerConfig, build_sampler, plan_epoch
from medtail.sampling.contract import Feedback, Sampler, shard
from medtail.sampling.streams import hardness_factors, two_stream_epoch
from medtail.tables.manifest import Manifest, manifest_from_frame

EPOCHS = 9


def made_up(count: int = 600) -> Manifest:
    """One group of three and three free labels, one rare; every fourth row is outside the train fold."""
    random = np.random.default_rng(3)
    shape = random.choice(3, size=count, p=[0.9, 0.08, 0.02])
    head = random.random(count) < 0.5
    frame = pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(count)],
            "path": [f"i{row}" for row in range(count)],
            "patient_id": [f"p{row}" for row in range(count)],
            "fold": np.where(np.arange(count) % 4 == 3, "tune", "train"),
            **{f"shape={name}": (shape == number).astype(float) for number, name in enumerate("abc")},
            "head": head.astype(float),
            "body": (random.random(count) < 0.1).astype(float),
            "tail": (head & (random.random(count) < 0.04)).astype(float),
        }
    )
    return manifest_from_frame(frame, name="made_up.csv")


MANIFEST = made_up()


def build(config: TwoStreamSamplerConfig | None = None, **changes: int) -> Sampler:
    given = {"seed": 0, "epochs": EPOCHS, "epoch_rows": 900, "steps": 15, **changes}
    return build_sampler(config or TwoStreamSamplerConfig(), MANIFEST, **given)


def feed(sampler: Sampler, epoch: int, loss_of_row: np.ndarray) -> None:
    rows = sampler.draw(epoch)
    sampler.observe(Feedback(rows=rows, losses=loss_of_row[rows], streams=sampler.streams(epoch), epoch=epoch))


@pytest.mark.parametrize("config", [TwoStreamSamplerConfig(), TwoStreamSamplerConfig(rake=False, ledger=False)])
def test_the_first_stream_shows_each_row_once_an_epoch(config: TwoStreamSamplerConfig) -> None:
    sampler = build(config)
    for epoch in (0, 4):
        first = sampler.draw(epoch)[sampler.streams(epoch) == 0]
        np.testing.assert_array_equal(np.sort(first), sampler.rows)


def test_with_everything_off_the_second_stream_is_a_second_permutation() -> None:
    sampler = build(TwoStreamSamplerConfig(rake=False, ledger=False))
    drawn, streams = sampler.draw(2), sampler.streams(2)
    np.testing.assert_array_equal(np.sort(drawn[streams == 1]), sampler.rows)
    assert not np.array_equal(drawn[streams == 1], drawn[streams == 0])


def test_every_batch_is_half_one_stream_half_the_other() -> None:
    streams = build().streams(0).reshape(15, 60)
    np.testing.assert_array_equal(streams, np.tile(np.repeat([0, 1], 30), (15, 1)))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [16, 50, 64])
def test_every_process_has_both_streams_in_every_batch_and_sees_rows_of_its_own(
    world_size: int, batch_size: int
) -> None:
    train_rows = int((MANIFEST.folds == "train").sum())
    config = TwoStreamSamplerConfig()
    draws, steps = plan_epoch(
        config, train_rows=train_rows, epoch_rows=None, batch_size=batch_size, world_size=world_size
    )
    sampler = build(config, epoch_rows=draws, steps=steps)
    size = draws // (steps * world_size)
    positions, streams = np.arange(draws), sampler.streams(0)
    assert size * world_size <= batch_size
    assert draws == steps * size * world_size
    shares = [shard(positions, rank=rank, world_size=world_size, batch_size=size) for rank in range(world_size)]
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), positions)  # none is seen twice, none left out
    for share in shares:
        halves = streams[share].reshape(steps, size).sum(axis=1)
        assert (2 * halves == size).all()


def test_an_epoch_has_as_many_steps_as_halves_of_a_batch_fit_the_rows() -> None:
    assert two_stream_epoch(450, batch_size=64, world_size=1) == (2 * 15 * 30, 15)
    assert two_stream_epoch(451, batch_size=64, world_size=1)[1] == 15
    assert two_stream_epoch(481, batch_size=64, world_size=1)[1] == 16
    with pytest.raises(
        MedtailError, match=r"batch_size: found 3 for 2 processes; a sampler of two streams expected at le"
    ):
        two_stream_epoch(100, batch_size=3, world_size=2)


def test_two_hundred_thousand_draws_have_the_shares_that_were_reached() -> None:
    sampler = build(epoch_rows=400_000, steps=1)
    facts = sampler.facts(EPOCHS - 1)
    second = sampler.draw(EPOCHS - 1)[sampler.streams(EPOCHS - 1) == 1]
    assert len(second) == 200_000
    for column, name in enumerate(MANIFEST.labels.class_names):
        share = facts[f"reached_{name}"]
        assert share == pytest.approx(facts[f"wanted_{name}"], rel=0.02)
        found = (MANIFEST.targets[second, column] == 1).mean()
        assert abs(found - share) <= 4 * np.sqrt(share * (1 - share) / len(second))
    natural = (MANIFEST.targets[sampler.rows] == 1).mean(axis=0)
    assert facts["reached_tail"] > 2 * natural[-1]
    assert facts["reached_head"] == pytest.approx(natural[3], rel=0.02)


def test_the_first_epoch_is_natural_and_the_last_is_not() -> None:
    sampler = build()
    uniform, first = sampler.stream_frequencies(0)
    np.testing.assert_allclose(first, uniform)
    assert sampler.stream_frequencies(EPOCHS - 1)[1].max() > 2 / len(sampler.rows)


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_the_ledger_is_a_moving_average_of_the_first_stream_alone() -> None:
    sampler = build()
    losses = np.arange(len(MANIFEST), dtype=float)
    wild = np.where(sampler.streams(0) == 0, losses[sampler.draw(0)], 1e6)
    sampler.observe(Feedback(rows=sampler.draw(0), losses=wild, streams=sampler.streams(0), epoch=0))
    order = np.argsort(losses[sampler.rows])
    places = sampler.hardness()
    assert places is not None
    np.testing.assert_allclose(places[order], np.arange(1, 451) / 450)
    feed(sampler, 1, losses[::-1])
    again = sampler.hardness()
    assert again is not None
    np.testing.assert_allclose(again, places)  # 0.9 old + 0.1 new: one epoch does not turn the order round


def test_a_row_never_seen_has_no_place() -> None:
    sampler = build()
    rows = sampler.rows[:3]
    sampler.observe(
        Feedback(rows=rows, losses=np.array([1.0, np.nan, 2.0]), streams=np.zeros(3, dtype=np.int64), epoch=0)
    )
    places = sampler.hardness()
    assert places is not None
    np.testing.assert_array_equal(places[:4], [0.5, np.nan, 1.0, np.nan])


def test_hard_rows_weigh_up_to_twice_easy_ones_and_suspects_do_not() -> None:
    losses = np.concatenate([np.full(100, 0.01), np.full(98, 1.0), [8.0, 50.0]])
    losses = np.append(losses, np.nan)
    factors = hardness_factors(losses)
    median = np.median(losses[:-1])
    np.testing.assert_allclose(factors[:100], np.sqrt(max(0.5, 0.01 / median)))
    np.testing.assert_allclose(factors[100:198], np.sqrt(min(2.0, 1.0 / median)))
    np.testing.assert_array_equal(factors[198:], 1.0)  # the hardest 1 % of 200 are two; and one never seen
    np.testing.assert_array_equal(hardness_factors(np.full(3, np.nan)), 1.0)
    np.testing.assert_array_equal(hardness_factors(np.zeros(3)), 1.0)


def test_the_ledger_leans_to_hard_rows_and_the_labels_stay_as_wanted() -> None:
    random = np.random.default_rng(0)
    is_tail = MANIFEST.targets[:, -1] == 1
    losses = random.uniform(0.5, 1.5, len(MANIFEST)) * np.where(is_tail, 4.0, 1.0)
    sampler, forgetful = build(), build(TwoStreamSamplerConfig(ledger=False))
    for epoch in range(5):
        feed(sampler, epoch, losses)
        feed(forgetful, epoch, losses)
    before = sampler.stream_frequencies(4)[1]
    np.testing.assert_array_equal(before, forgetful.stream_frequencies(4)[1])  # not before epoch 5
    leaning, plain = sampler.stream_frequencies(5)[1], forgetful.stream_frequencies(5)[1]
    # among rows with the same labels the harder ones come more often
    same = np.flatnonzero((MANIFEST.targets[sampler.rows] == MANIFEST.targets[sampler.rows[0]]).all(axis=1))
    assert np.corrcoef(losses[sampler.rows[same]], leaning[same])[0, 1] > 0.5
    assert np.ptp(plain[same]) == pytest.approx(0.0, abs=1e-12)
    # weights multiplied afterwards would have drawn the hard tail more often than was wanted
    facts = sampler.facts(5)
    assert facts["reached_tail"] == pytest.approx(facts["wanted_tail"], rel=0.02)
    factors = leaning / plain
    after = plain * factors / (plain * factors).sum()
    assert after.sum() == pytest.approx(1.0)


def test_state_survives_a_stop_in_the_middle() -> None:
    sampler = build()
    losses = np.random.default_rng(0).random(len(MANIFEST))
    for epoch in range(6):
        feed(sampler, epoch, losses)
    drawn = sampler.draw(6)
    resumed = build()
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    np.testing.assert_array_equal(resumed.draw(6), drawn)
    np.testing.assert_array_equal(resumed.hardness(), sampler.hardness())


@pytest.mark.parametrize(
    ("ledger", "message"), [("!", "is not readable"), ("", "found 0 rows; expected 450, one a train row")]
)
def test_a_broken_ledger_is_refused(ledger: str, message: str) -> None:
    state = {**build().state_dict(), "ledger": ledger}
    with pytest.raises(MedtailError, match=message):
        build().load_state_dict(state)


# --- controls ---------------------------------------------------------------------------------------------------------


def test_permuted_weights_are_the_same_weights_on_other_rows() -> None:
    real, sham = build(), build(TwoStreamSamplerConfig(sham="permute_weights"))
    last = EPOCHS - 1
    weights, dealt = real.stream_frequencies(last)[1], sham.stream_frequencies(last)[1]
    np.testing.assert_allclose(np.sort(dealt), np.sort(weights))
    natural = (MANIFEST.targets[real.rows][:, -1] == 1).mean()
    is_tail = MANIFEST.targets[real.rows][:, -1] == 1
    assert weights[is_tail].sum() > 2 * natural
    assert dealt[is_tail].sum() < 2 * natural


def test_a_permuted_ledger_forgets_which_rows_were_hard() -> None:
    losses = np.random.default_rng(0).random(len(MANIFEST)) + 0.5
    real = build(TwoStreamSamplerConfig(rake=False))
    sham = build(TwoStreamSamplerConfig(rake=False, sham="permute_ledger"))
    for epoch in range(5):
        feed(real, epoch, losses)
        feed(sham, epoch, losses)
    own, dealt = real.stream_frequencies(5)[1], sham.stream_frequencies(5)[1]
    np.testing.assert_allclose(np.sort(own), np.sort(dealt))
    assert np.corrcoef(own, losses[real.rows])[0, 1] > 0.9
    assert abs(np.corrcoef(dealt, losses[real.rows])[0, 1]) < 0.2
    np.testing.assert_array_equal(real.hardness(), sham.hardness())


def test_a_control_of_something_switched_off_is_refused() -> None:
    with pytest.raises(MedtailError, match="'permute_ledger' deals out a ledger that `ledger: false`"):
        TwoStreamSamplerConfig(ledger=False, sham="permute_ledger")
    with pytest.raises(MedtailError, match="'permute_weights' deals out weights that are all alike"):
        TwoStreamSamplerConfig(ledger=False, rake=False, sham="permute_weights")
