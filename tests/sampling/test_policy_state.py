from __future__ import annotations

import numpy as np
import pytest

from medtail.sampling.policy_state import NUMBERS, Reading, RewardConfig, agent_states, head_classes, pay, read_scores

GROUP = ((0, 1, 2),)


def reading(scores: list[list[float]], targets: list[list[float]], *, softmax: bool, groups=GROUP) -> Reading:
    counts = np.array([100, 60, 5])[: len(scores[0])]
    return read_scores(np.array(scores), np.array(targets), groups=groups, softmax=softmax, head=head_classes(counts))


def test_a_softmax_class_is_paid_its_mean_score_on_its_own_rows() -> None:
    found = reading(
        [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [[1, 0, 0], [1, 0, 0], [0, 1, 0]], softmax=True
    )
    np.testing.assert_allclose(found.gain[:2], [0.6, 0.8])
    assert np.isnan(found.gain[2]), "a class without a row is not judged"
    assert found.team == pytest.approx(0.7)
    assert found.precision[0] == pytest.approx(1.2 / 1.3)
    assert found.loss[1] == pytest.approx(-np.log(0.8))
    assert found.head_accuracy == 1.0


def test_a_free_class_pays_for_its_false_alarms() -> None:
    scores, targets = [[0.9], [0.4], [0.6]], [[1.0], [0.0], [np.nan]]
    found = reading(scores, targets, softmax=False, groups=())
    np.testing.assert_allclose(found.gain, [0.5])  # 0.9 - 0.4; what was not assessed counts nowhere
    louder = reading([[1.0], [1.0], [1.0]], targets, softmax=False, groups=())
    assert louder.gain[0] == 0.0, "calling everything positive earns nothing"
    assert found.head_accuracy == 1.0
    assert louder.head_accuracy == 0.5


def test_a_group_without_softmax_is_judged_as_free_classes_are() -> None:
    scores, targets = [[0.9, 0.9, 0.0], [0.8, 0.9, 0.0]], [[1, 0, 0], [0, 1, 0]]
    found = reading(scores, targets, softmax=False)
    np.testing.assert_allclose(found.gain[:2], [0.9 - 0.8, 0.9 - 0.9], atol=1e-12)


def test_states_hold_the_ten_numbers_in_order() -> None:
    found = reading([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [[1, 0, 0], [0, 1, 0]], softmax=True)
    states = agent_states(
        found,
        before=np.array([0.5, 0.9, np.nan]),
        levels=np.array([0.25, 1.0, 0.0]),
        counts=np.array([100, 50, 0]),
        loss_synthetic=np.array([1.5, np.nan, np.nan]),
        progress=0.1,
    )
    assert states.shape == (3, len(NUMBERS)) == (3, 10)
    named = dict(zip(NUMBERS, states.T, strict=True))
    np.testing.assert_allclose(named["log_count"], np.log([1.0, 0.5, 0.01]), rtol=1e-6)
    np.testing.assert_allclose(named["level"], [0.25, 1.0, 0.0])
    np.testing.assert_allclose(named["soft_recall"], [0.7, 0.8, 0.0], rtol=1e-6)
    np.testing.assert_allclose(named["soft_recall_change"], [0.2, -0.1, 0.0], rtol=1e-5)
    np.testing.assert_allclose(named["loss_synthetic"], [1.5, 0.0, 0.0])
    np.testing.assert_allclose(named["macro_f1"], [found.macro_f1] * 3)
    np.testing.assert_allclose(named["progress"], [0.1] * 3, rtol=1e-6)
    assert np.isfinite(states).all()


def plain(own: list[float], head: float) -> Reading:
    array = np.array(own)
    return Reading(
        gain=array, net=array, soft_recall=array, precision=array, loss=array, macro_f1=0.5, head_accuracy=head
    )


def test_the_reward_is_own_and_team_less_lost_head_accuracy_and_cost() -> None:
    config = RewardConfig(own=0.4, team=0.6, stability=2.0, tolerance=0.02, cost=0.1)
    before, after = plain([0.5, 0.5], 0.9), plain([0.6, 0.2], 0.8)
    paid = pay(before, after, levels=np.array([1.0, 0.5]), sizes=np.array([10.0, 30.0]), config=config)
    stab = 0.9 - 0.8 - 0.02
    expected = [0.4 * 0.6 + 0.6 * 0.4 - 2 * stab - 0.1 * 10 / 40, 0.4 * 0.2 + 0.6 * 0.4 - 2 * stab - 0.1 * 15 / 40]
    np.testing.assert_allclose(paid.rewards, expected)
    assert paid.stability == pytest.approx(stab)


def test_gained_head_accuracy_and_small_losses_are_free() -> None:
    for head in (0.95, 0.9, 0.895):
        paid = pay(plain([0.5], 0.9), plain([0.5], head), levels=np.zeros(1), sizes=np.ones(1), config=RewardConfig())
        assert paid.stability == 0.0
        np.testing.assert_allclose(paid.rewards, [0.5])


def test_a_class_that_cannot_be_judged_is_paid_as_the_team() -> None:
    paid = pay(
        plain([0.5, 0.5], 0.9), plain([0.4, np.nan], 0.9), levels=np.zeros(2), sizes=np.ones(2), config=RewardConfig()
    )
    np.testing.assert_allclose(paid.rewards, [0.4, 0.4])


def test_what_a_class_takes_from_others_is_taken_off() -> None:
    targets = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    fair = reading([[0.6, 0.2, 0.2], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]], targets, softmax=True)
    np.testing.assert_allclose(fair.net, [0.6 - 0.2 - 0.2] * 3)
    # class 2 calls louder: its recall rises, and it loses what the others lose
    loud = reading([[0.5, 0.1, 0.4], [0.5, 0.1, 0.4], [0.1, 0.5, 0.4], [0.1, 0.1, 0.8]], targets, softmax=True)
    assert loud.gain[2] > fair.gain[2]
    assert loud.net[2] == pytest.approx(0.8 - 0.4 - 0.4)
    assert loud.net[2] < fair.net[2]
    # scores of a row add up to 1, so what is taken is what is missed
    np.testing.assert_allclose(loud.net.sum(), 2 * loud.gain.sum() - 3)


def test_agents_are_paid_net_or_gain() -> None:
    after = Reading(
        gain=np.array([0.8, 0.4]),
        net=np.array([0.1, 0.3]),
        soft_recall=np.zeros(2),
        precision=np.zeros(2),
        loss=np.zeros(2),
        macro_f1=0.5,
        head_accuracy=0.9,
    )
    for measure, own in (("net", after.net), ("gain", after.gain)):
        config = RewardConfig(measure=measure, cost=0.0)  # type: ignore[arg-type]
        paid = pay(after, after, levels=np.ones(2), sizes=np.ones(2), config=config)
        np.testing.assert_allclose(paid.rewards, 0.5 * own + 0.5 * 0.6)
        np.testing.assert_allclose(paid.own, own)
        assert paid.team == pytest.approx(0.6)
