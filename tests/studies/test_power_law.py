"""Growth with the number of patients: known laws, what an answer promises, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from medtail.studies.power_law import FAR, Growth, PowerLaw, fit_power_law, measure_growth, patients_needed

SIZES = np.array([25.0, 50.0, 100.0, 200.0])


def grown(values: np.ndarray, *, noise: float = 0.005, seeds: int = 1, sizes: np.ndarray = SIZES) -> Growth:
    random = np.random.default_rng(0)
    by_seed = np.repeat(np.asarray(values)[:, None], seeds, axis=1)
    return measure_growth(
        sizes, by_seed, by_seed.mean(axis=1)[:, None] + noise * random.normal(size=(len(values), 400))
    )


@pytest.mark.parametrize(("a", "b", "c"), [(0.9, 2.0, 0.5), (1.0, 1.0, 0.3), (0.6, 20.0, 1.0)])
def test_a_known_law_is_found_again(a: float, b: float, c: float) -> None:
    law = fit_power_law(SIZES, (a - b * SIZES**-c)[None])
    beyond = np.array([400.0, 800.0])
    assert law.at(beyond)[0] == pytest.approx(a - b * beyond**-c, abs=0.01)


def test_laws_end_at_one_and_never_fall() -> None:
    random = np.random.default_rng(1)
    law = fit_power_law(SIZES, random.random((200, 4)) * 1.2)
    assert law.a.max() <= 1.0
    assert law.b.min() >= 0.0
    assert fit_power_law(SIZES, np.array([[0.9, 0.7, 0.5, 0.3]])).b.tolist() == [0.0]


def test_a_row_is_fitted_alike_alone_and_among_others() -> None:
    values = np.random.default_rng(2).random((5, 4))
    together, alone = fit_power_law(SIZES, values), fit_power_law(SIZES, values[3:4])
    assert (together.a[3], together.b[3], together.c[3]) == (alone.a[0], alone.b[0], alone.c[0])


def test_the_fit_beats_every_law_of_a_fine_search() -> None:
    values = np.array([0.31, 0.42, 0.44, 0.55])
    law = fit_power_law(SIZES, values[None])
    best = float(((law.at(SIZES)[0] - values) ** 2).sum())
    for c in np.geomspace(0.1, 2.0, 25):
        for a in np.linspace(0.45, 1.0, 56):
            for b in np.linspace(0.0, 3.0, 61):
                assert best <= ((a - b * SIZES**-c - values) ** 2).sum() + 1e-4


def test_heavy_sizes_are_met_more_closely() -> None:
    values = np.array([[0.2, 0.6, 0.4, 0.7]])
    errors = [abs(fit_power_law(SIZES, values, weights=np.array(w)).at(SIZES)[0, 1] - 0.6) for w in
              ([1.0, 1, 1, 1], [1.0, 100, 1, 1])]  # fmt: skip
    assert errors[1] < errors[0]


def test_the_size_for_a_goal_is_the_laws_own() -> None:
    law = PowerLaw(np.array([0.9, 0.5, 0.9]), np.array([2.0, 1.0, 0.0]), np.array([0.5, 0.5, 0.5]))
    assert law.size_for(0.8).tolist() == pytest.approx([400.0, np.inf, 0.0])
    assert law.at(np.array([400.0]))[0, 0] == pytest.approx(0.8)


def test_an_answer_holds_the_truth_and_counts_what_is_missing() -> None:
    growth = grown(0.9 - 2.0 * SIZES**-0.5)
    need = patients_needed(growth, 0.78)
    assert need.finding == "answer"
    truth = (2.0 / 0.12) ** 2
    assert need.low <= truth <= need.high
    assert need.more == pytest.approx(need.patients - 200)
    assert need.beyond == pytest.approx(need.patients / 200)


@pytest.mark.parametrize(
    ("values", "target", "finding"),
    [
        ([0.5, 0.6, 0.7, 0.8], 0.75, "reached"),
        ([0.5, 0.5, 0.5, 0.5], 0.75, "flat"),
        ([0.7, 0.65, 0.6, 0.55], 0.75, "flat"),
        (0.6 - 20.0 / SIZES, 0.75, "above"),
        (0.9 - 2.0 * SIZES**-0.5, 0.78, "answer"),
        (1.0 - 1.2 * SIZES**-0.3, 0.86, "far"),
    ],
)
def test_each_case_has_its_word(values: np.ndarray, target: float, finding: str) -> None:
    need = patients_needed(grown(np.asarray(values), noise=0.001), target)
    assert need.finding == finding
    assert (need.beyond > FAR) == (finding in ("far", "above"))
    assert np.isfinite(need.more) == (finding in ("reached", "answer", "far"))


def test_noise_takes_the_upper_end_away() -> None:
    need = patients_needed(grown(0.9 - 2.0 * SIZES**-0.5, noise=0.02), 0.82)
    assert need.finding == "open"
    assert np.isinf(need.high)
    assert np.isfinite(need.low)


def test_two_sizes_are_too_few_and_undefined_ones_do_not_count() -> None:
    values = np.array([0.3, np.nan, 0.4, 0.5])
    growth = grown(values)
    assert growth.sizes.tolist() == [25, 100, 200]
    assert patients_needed(growth, 0.9).finding != "few_sizes"
    two = grown(np.array([0.3, 0.5]), sizes=SIZES[:2])
    assert patients_needed(two, 0.9).finding == "few_sizes"
    assert two.rise[0] == pytest.approx(0.2)
    none = grown(np.full(4, np.nan))
    assert patients_needed(none, 0.9).finding == "undefined"
    assert none.now == 0.0
    # a class without train patients at the smallest share
    assert grown(values, sizes=np.array([0.0, 50, 100, 200])).sizes.tolist() == [100, 200]
    assert patients_needed(grown(SIZES / 250), 0.9, has_few_patients=True).finding == "few_patients"


def test_the_spread_over_seeds_widens_every_interval_and_one_seed_adds_none() -> None:
    random = np.random.default_rng(3)
    truth = 0.9 - 2.0 * SIZES**-0.5
    noisy = truth[:, None] + np.array([-0.05, 0.0, 0.05])
    patients = truth[:, None] + 0.002 * random.normal(size=(4, 500))
    widths = [
        float((g.high - g.low).mean())
        for g in (measure_growth(SIZES, truth[:, None], patients), measure_growth(SIZES, noisy, patients))
    ]
    assert widths[0] < 0.012
    # three seeds 0.05 apart: standard error 0.029, eight degrees of freedom
    assert widths[1] == pytest.approx(2 * 2.306 * 0.05 / np.sqrt(3), rel=0.15)
    assert measure_growth(SIZES, noisy * 5, patients).high.max() <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "sd"), [(2, 0.03), (3, 0.01), (5, 0.03)])
@pytest.mark.parametrize(("law", "target"), [((0.9, 1.2, 0.5), 0.84), ((0.6, 0.8, 0.3), 0.5)])
def test_intervals_hold_a_simulated_curve_as_often_as_they_say(
    seeds: int, sd: float, law: tuple[float, float, float], target: float
) -> None:
    a, b, c = law
    sizes = 200 * np.array([0.125, 0.25, 0.5, 1.0])
    truth = a - b * sizes**-c
    needed, ahead = (b / (a - target)) ** (1 / c), a - b * 400.0**-c
    held, inside, answered, trials = 0, 0, 0, 150
    for trial in range(trials):
        random = np.random.default_rng(trial)
        luck = 0.01 * random.normal(size=4)  # of the patients judged
        by_seed = (truth + luck)[:, None] + sd * random.normal(size=(4, seeds))
        resampled = by_seed.mean(axis=1)[:, None] + 0.01 * random.normal(size=(4, 300))
        growth = measure_growth(sizes, by_seed, resampled, seed=trial)
        _, low, high = growth.curve(np.array([400.0]))
        held += low[0] <= ahead <= high[0]
        need = patients_needed(growth, target)
        if need.finding in ("answer", "far", "open", "above"):
            answered += 1
            inside += need.low <= needed <= need.high
    assert held / trials >= 0.91
    assert answered > trials / 2
    assert inside / answered >= 0.9
