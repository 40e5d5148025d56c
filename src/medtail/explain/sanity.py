"""How far heat maps may be believed: pointing at the lesion, and the verdicts a map is marked with.

Every mean over maps has an interval by resampling patients, as all of the judge's numbers have. A method fails for a
model when forgetting what was learnt does not change what its maps are good for; a single map fails when the place it
marks moves the score no more than a place of chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.intervals import percentile_interval, unanimous_interval

MOST_ALIKE = 0.5
"""Mean rank correlation with the maps of the randomised model above which a method fails."""
LEAST_GAP = 0.25
"""Log-odds by which maps must beat those of the randomised model: odds times 1.3. Untrained models stay below it."""
LEAST_PATIENTS = 5
"""Below this no verdict on a method is given."""


@final
@dataclass(frozen=True)
class Mean:
    """A mean over maps.

    Attributes:
        value: The mean; NaN where there is nothing to average.
        low: Lower end of its 95 % interval by patients; NaN where it has none.
        high: Upper end.
        maps: Maps averaged.
        patients: Patients they are of.
    """

    value: float
    low: float
    high: float
    maps: int
    patients: int


def mean_by_patient(values: np.ndarray, patients: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> Mean:
    """Average a value a map, with an interval by resampling patients.

    Args:
        values: Float or bool [M]; NaN is left out.
        patients: Patient of each map, text [M].
        resamples: Of the patients; 0 for no interval.
        seed: Of the resampling.

    Returns:
        The mean. All of a proportion's values 0, or all 1, has the interval of the rule of three.

    Example:
        >>> found = mean_by_patient(np.array([1.0, 0.0, 1.0]), np.array(["a", "b", "c"]))
        >>> round(found.value, 2), found.low, found.high, found.patients
        (0.67, 0.0, 1.0, 3)
        >>> mean_by_patient(np.array([True, True]), np.array(["a", "b"])).low.__round__(2)
        0.22
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(numbers)
    numbers, patients = numbers[known], np.asarray(patients, dtype=object)[known]
    nan = float("nan")
    if not len(numbers):
        return Mean(nan, nan, nan, 0, 0)
    codes, count = number_patients(patients)
    value = float(numbers.mean())
    low, high = nan, nan
    if np.asarray(values).dtype == bool and value in (0.0, 1.0):
        low, high = unanimous_interval(value, patients=count)
    elif resamples and count > 1:
        weights = draw_weights(count, resamples=resamples, seed=seed).matrix().astype(np.float64)
        sums, sizes = np.bincount(codes, weights=numbers, minlength=count), np.bincount(codes, minlength=count)
        low, high = percentile_interval((sums @ weights) / (sizes @ weights))
    return Mean(value, low, high, len(numbers), count)


@final
@dataclass(frozen=True)
class Pointing:
    """Whether the hottest place of each map lies in the lesion.

    Attributes:
        hit: bool [M].
        chance: Share of the content that the lesion fills, what a map of chance hits, float64 [M].
        centre: Whether the middle of the content lies in the lesion, bool [M]: what a map that knows nothing but how
            clinicians frame an image hits.
    """

    hit: np.ndarray
    chance: np.ndarray
    centre: np.ndarray


def pointing_game(heat: np.ndarray, lesion: np.ndarray, content: np.ndarray) -> Pointing:
    """Play the pointing game, without tolerance around the lesion.

    Args:
        heat: Float [M, H, W] in [0, 1]. Where several pixels are hottest, the share of them inside must be over half.
        lesion: bool [M, H, W], not empty.
        content: bool [M, H, W]: where there is image and not bar.

    Returns:
        What each map hits.

    Example:
        >>> heat, lesion = np.zeros((1, 4, 4)), np.zeros((1, 4, 4), dtype=bool)
        >>> heat[0, 1, 1], lesion[0, 1:3, 1:3] = 1.0, True
        >>> found = pointing_game(heat, lesion, np.ones_like(lesion))
        >>> bool(found.hit[0]), float(found.chance[0]), bool(found.centre[0])
        (True, 0.25, True)

    References:
        zhang2018b, without its tolerance.
    """
    hottest = np.where(content, heat, -1.0)
    peak = hottest == hottest.max(axis=(1, 2), keepdims=True)
    hit = (peak & lesion).sum(axis=(1, 2)) > 0.5 * peak.sum(axis=(1, 2))
    chance = (lesion & content).sum(axis=(1, 2)) / content.sum(axis=(1, 2)).clip(min=1)
    centre = np.empty(len(heat), dtype=bool)
    for number, inside in enumerate(content):
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        centre[number] = lesion[number, (rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2]
    return Pointing(hit=hit, chance=chance.astype(np.float64), centre=centre)


@final
@dataclass(frozen=True)
class Verdict:
    """What a check says.

    Attributes:
        passed: None where it could not be told.
        words: One sentence.
    """

    passed: bool | None
    words: str


def randomisation_verdict(alike: Mean, gain: Mean) -> Verdict:
    """Judge a method on a model by its maps after the model forgot all it learnt.

    It passes where the maps change (mean rank correlation at most 0.5), and where they were better before: covering
    and showing by the trained model's map moves its log-odds by at least 0.25 more than by the randomised model's map,
    with an interval above 0. An untrained model fails the second: there is nothing its maps could show.

    Args:
        alike: Rank correlation of each map with that of the randomised model.
        gain: Gap of each map less that of the randomised model's map; see `faithfulness`.

    Example:
        >>> randomisation_verdict(Mean(0.9, 0.8, 1.0, 40, 20), Mean(1.0, 0.5, 1.5, 40, 20)).words[:68]
        'failed: the maps hardly change when the model forgets what it learnt'

    References:
        adebayo2018.
    """
    if min(alike.patients, gain.patients) < LEAST_PATIENTS:
        few = min(alike.patients, gain.patients)
        return Verdict(None, f"not told: maps of {few} patients; expected at least {LEAST_PATIENTS}.")
    if alike.value > MOST_ALIKE:
        return Verdict(
            False,
            f"failed: the maps hardly change when the model forgets what it learnt (rank correlation"
            f" {alike.value:.2f}), so they show the image rather than the model.",
        )
    found = f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] log-odds"
    if not (gain.value >= LEAST_GAP and gain.low > 0):
        return Verdict(
            False,
            f"failed: what the maps mark moves the score no more than what a model that has learnt nothing marks"
            f" ({found}).",
        )
    return Verdict(
        True,
        f"passed: the maps change when the model forgets (rank correlation {alike.value:.2f}), and mark what moves the"
        f" score ({found} more).",
    )


def pointing_verdict(hit: Mean, over_chance: Mean, over_centre: Mean, over_randomised: Mean) -> Verdict:
    """Say whether maps point at the lesion more often than chance, the middle of the image, and an untaught network.

    It passes by chance alone. Lesions differ from what is around them, and maps of a network with shuffled weights
    often point at them too: then the pointing is no proof of anything learnt, and the words say so.

    Example:
        >>> hit, over = Mean(0.7, 0.6, 0.8, 40, 20), Mean(0.6, 0.5, 0.7, 40, 20)
        >>> less, same = Mean(-0.2, -0.3, -0.1, 40, 20), Mean(0.0, -0.1, 0.1, 40, 20)
        >>> pointing_verdict(hit, over, less, same).words[-78:]
        'not shown to beat the same model with shuffled weights (+0.00 [-0.10, +0.10]).'
    """
    if hit.patients < LEAST_PATIENTS:
        return Verdict(
            None, f"not told: masks or boxes of {hit.patients} patients; expected at least {LEAST_PATIENTS}."
        )

    def said(mean: Mean) -> str:
        return f"{mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]"

    passed = over_chance.low > 0

    def against(mean: Mean) -> str:
        return "more often than" if mean.low > 0 else "less often than" if mean.high < 0 else "not shown to beat"

    return Verdict(
        passed,
        f"{'passed' if passed else 'failed'}: the hottest place lies in the lesion in {100 * hit.value:.0f} % of maps,"
        f" {'more often than chance' if passed else 'not shown to be more often than chance'} ({said(over_chance)});"
        f" {against(over_centre)} the middle of the image ({said(over_centre)}); {against(over_randomised)} the same"
        f" model with shuffled weights ({said(over_randomised)}).",
    )
