"""Distribution in, distribution out: exact laws over points and levels from descriptor probabilities.

Never argmax first: a nodule whose likeliest reading is TR3 may be TR5 more often than not. Given the image the groups
are taken as independent of each other, which is an assumption (`conditioned` takes away only what contradicts itself);
everything else here is exact. Several models: average their laws, not their inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np

from medtail.errors import MedtailError, listing
from medtail.lexicons.descriptors import Composition, Echogenicity, Focus
from medtail.lexicons.probabilities import DescriptorProbabilities
from medtail.lexicons.rules import ACR_POINTS, EXTRUSION_POINTS, MOST_POINTS
from medtail.lexicons.states import COMPOSITIONS, ECHOGENICITIES, FOCI_SETS, MARGINS, SHAPES, category_table
from medtail.lexicons.systems import K4_MM, LEXICONS, System, advised_at, lexicon

Consistency = Literal["independent", "conditioned"]
NOT_CALIBRATED: Final = (
    "The scores are not marked as calibrated: shares of levels and of advice are only as good as they are. Calibrate on"
    " the tune fold with `medtail calibrate`."
)
RUN_SHARE: Final = 0.9
ROUNDING: Final = 1e-12
_CHUNK = 1024

_WITH_SOLID_PART = (Composition.SOLID, Composition.MIXED)
CONSISTENT: Final = np.array(
    [
        [not (made in _WITH_SOLID_PART and echo is Echogenicity.ANECHOIC) for echo in ECHOGENICITIES]
        for made in COMPOSITIONS
    ]
)
"""bool [5, 6]: False where a solid or mixed nodule is called anechoic."""


@final
@dataclass(frozen=True, eq=False)
class LevelLaw:
    """The distribution over a system's categories, a row a nodule.

    Attributes:
        system: A short name.
        probabilities: float64 [N, K], categories in ascending order; with `undefined` they sum to 1.
        undefined: float64 [N], mass on readings the system gives no category (EU, K); never shared out.
        points: ACR only: float64 [N, 18], over 0 to 17 points.
        removed: float64 [N], mass of contradictory readings taken away (`conditioned`), else 0.
        warnings: What to bear in mind.
    """

    system: System
    probabilities: np.ndarray
    undefined: np.ndarray
    points: np.ndarray | None
    removed: np.ndarray
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the K categories."""
        return LEXICONS[self.system].names

    @property
    def off_chart(self) -> np.ndarray:
        """ACR: P(1 point), which is inside TR1 but not on the chart, float64 [N]."""
        assert self.points is not None, "ACR only"
        return np.asarray(self.points[:, 1])

    @property
    def mean_points(self) -> np.ndarray:
        """ACR: expected points, float64 [N]."""
        assert self.points is not None, "ACR only"
        return np.asarray(self.points @ np.arange(MOST_POINTS + 1.0))

    @property
    def most_probable(self) -> np.ndarray:
        """Number of the likeliest category, int64 [N]; -1 where undefined is likelier than each."""
        best = self.probabilities.argmax(axis=1)
        return np.where(self.undefined > self.probabilities.max(axis=1), -1, best)

    def smallest_run(self, *, share: float = RUN_SHARE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the shortest run of adjacent categories that holds at least `share`, the likeliest among equals.

        Args:
            share: In (0, 1].

        Returns:
            First and last category number, int64 [N] (-1 where so much is undefined that none does), and the mass
            inside, float64 [N].

        Raises:
            MedtailError: The share is outside (0, 1].
        """
        if not 0.0 < share <= 1.0:
            raise MedtailError(f"share {share!r}: expected a number in (0, 1].")
        rows, width = self.probabilities.shape
        sums = np.column_stack([np.zeros(rows), np.cumsum(self.probabilities, axis=1)])
        first, last = np.full(rows, -1), np.full(rows, -1)
        mass = np.zeros(rows)
        is_open = np.ones(rows, dtype=bool)
        for length in range(1, width + 1):
            held = sums[:, length:] - sums[:, :-length]
            best = held.argmax(axis=1)
            most = held[np.arange(rows), best]
            done = is_open & (most >= share - ROUNDING)
            first[done], last[done], mass[done] = best[done], best[done] + length - 1, most[done]
            is_open &= ~done
        return first, last, mass

    def advice(self, sizes_mm: np.ndarray, *, k4_threshold_mm: float = K4_MM) -> dict[str, np.ndarray]:
        """Return the probability of each advice at a size.

        Args:
            sizes_mm: float [N] or one number, mm; NaN where unknown.
            k4_threshold_mm: Of K-TIRADS 4.

        Returns:
            `FNA`, `FOLLOW` and `NONE` → float64 [N], NaN where the size is unknown; with `undefined` they sum to 1.

        Example:
            >>> from medtail.lexicons.probabilities import descriptor_probabilities
            >>> law = level_law(descriptor_probabilities(composition="solid", echogenicity=[0, 0, 0.5, 0.5, 0],
            ...                                          shape="wider", margin="smooth", foci="none"))
            >>> {name: float(p[0]) for name, p in law.advice(np.array([16.0])).items()}
            {'FNA': 0.5, 'FOLLOW': 0.5, 'NONE': 0.0}
        """
        sizes = np.broadcast_to(np.asarray(sizes_mm, dtype=np.float64), (len(self),))
        known = ~np.isnan(sizes)
        fna, follow = advised_at(self.system, sizes, k4_threshold_mm=k4_threshold_mm)
        found = {
            "FNA": (self.probabilities * fna).sum(axis=1),
            "FOLLOW": (self.probabilities * follow).sum(axis=1),
            "NONE": (self.probabilities * ~(fna | follow)).sum(axis=1),
        }
        return {name: np.where(known, values, np.nan) for name, values in found.items()}


def level_law(
    probabilities: DescriptorProbabilities,
    *,
    system: str = "acr",
    consistency: Consistency = "independent",
    cystic_stops: bool = False,
) -> LevelLaw:
    """Propagate descriptor probabilities to a system's categories, exactly.

    ACR by convolution of the groups' points, beside the spongiform stop:
    P(x) = s [x = 0] + (1 - s) (c * e * h * m * f_macro * f_rim * f_punctate)(x), c given "not spongiform". C, EU and K
    by enumeration of all readings against the table of the rule engine.

    Args:
        probabilities: Of N nodules.
        system: See `systems.lexicon`.
        consistency: `independent`, or `conditioned`: anechoic solid and mixed nodules are taken out and the rest
            rescaled, with the mass removed reported.
        cystic_stops: ACR: cystic nodules stop the count too.

    Returns:
        The law.

    Raises:
        MedtailError: Unknown system, or (conditioned) all mass of a row is on contradictory readings.

    Example:
        >>> from medtail.lexicons.probabilities import descriptor_probabilities
        >>> nodule = descriptor_probabilities(composition=[0, 0, 0.45, 0.55], echogenicity=[0, 0, 0.55, 0.45, 0],
        ...     shape=[0.6, 0.4], margin=[0.6, 0, 0.4, 0], foci=[0, 0.4, 0, 0.4])
        >>> dict(zip(level_law(nodule).categories, level_law(nodule).probabilities[0].round(4).tolist()))
        {'TR1': 0.0, 'TR2': 0.0321, 'TR3': 0.0868, 'TR4': 0.3854, 'TR5': 0.4957}

    References:
        tessler2017.
    """
    rules = lexicon(system)
    joint, removed = _joint(probabilities, consistency)
    points: np.ndarray | None = None
    if rules.system == "acr":
        points = _acr_points(probabilities, joint, cystic_stops=cystic_stops)
        cells = [points[:, low : high + 1].sum(axis=1) for low, high in (c.scores or (0, 0) for c in rules.categories)]
        levels, undefined = np.stack(cells, axis=1), np.zeros(len(points))
    else:
        found = enumerate_law(probabilities, system=rules.system, consistency=consistency)
        levels, undefined = found[:, :-1], found[:, -1]
    warnings = list(probabilities.warnings)
    if not probabilities.is_calibrated:
        warnings.append(NOT_CALIBRATED)
    return LevelLaw(rules.system, levels, undefined, points, removed, tuple(warnings))


def _joint(probabilities: DescriptorProbabilities, consistency: Consistency) -> tuple[np.ndarray, np.ndarray]:
    """Return P(composition, echogenicity), float64 [N, 5, 6], and the mass removed [N]."""
    joint = probabilities.composition[:, :, None] * probabilities.echogenicity[:, None, :]
    if consistency == "independent":
        return joint, np.zeros(len(joint))
    joint = joint * CONSISTENT
    kept = joint.sum(axis=(1, 2))
    if (kept <= ROUNDING).any():
        rows = np.flatnonzero(kept <= ROUNDING)
        raise MedtailError(
            f"consistency 'conditioned', rows {listing(rows.tolist())}: all probability is on anechoic solid or mixed"
            " nodules, so nothing is left to rescale. Look at these rows, or use 'independent'."
        )
    return joint / kept[:, None, None], 1.0 - kept


def _acr_points(probabilities: DescriptorProbabilities, joint: np.ndarray, *, cystic_stops: bool) -> np.ndarray:
    stops = [c for c, made in enumerate(COMPOSITIONS)
             if made is Composition.SPONGIFORM or (cystic_stops and made is Composition.CYSTIC)]  # fmt: skip
    law = np.zeros((len(joint), 6))  # composition and echogenicity together: 0 to 5 points, where nothing stops
    for c, made in enumerate(COMPOSITIONS):
        for e, echo in enumerate(ECHOGENICITIES):
            if c not in stops:
                law[:, ACR_POINTS["composition"][made] + ACR_POINTS["echogenicity"][echo]] += joint[:, c, e]
    law = _convolved(law, _point_law(probabilities.shape, [ACR_POINTS["shape"][value] for value in SHAPES]))
    law = _convolved(law, _point_law(probabilities.margin, _margin_points(probabilities.rim_extrusion)))
    for number, focus in enumerate(Focus):
        present = probabilities.foci[:, [number]]
        law = _convolved(law, _point_law(np.hstack([1.0 - present, present]), [0, ACR_POINTS["foci"][focus]]))
    assert law.shape[1] == MOST_POINTS + 1, "0 to 17 points"
    law[:, 0] += joint[:, stops].sum(axis=(1, 2))
    return law


def _margin_points(rim_extrusion: bool) -> list[int]:
    least = EXTRUSION_POINTS if rim_extrusion else 0
    return [max(ACR_POINTS["margin"][value], least) for value in MARGINS]


def _point_law(shares: np.ndarray, points: Sequence[int]) -> np.ndarray:
    most = 3 if len(points) > 2 else max(points)
    law = np.zeros((len(shares), most + 1))
    for column, value in enumerate(points):
        law[:, value] += shares[:, column]
    return law


def _convolved(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    law = np.zeros((len(left), left.shape[1] + right.shape[1] - 1))
    for shift in range(right.shape[1]):
        law[:, shift : shift + left.shape[1]] += left * right[:, [shift]]
    return law


def foci_law(foci: np.ndarray) -> np.ndarray:
    """Return the probability of each of the sixteen sets of independent foci, float64 [N, 16].

    Args:
        foci: float [N, 4].

    Example:
        >>> foci_law(np.array([[0.5, 0.0, 0.0, 1.0]]))[0].nonzero()[0].tolist()
        [8, 9]
    """
    bits = np.array([[bool(number >> k & 1) for k in range(foci.shape[1])] for number in range(len(FOCI_SETS))])
    return np.asarray(np.where(bits, foci[:, None, :], 1.0 - foci[:, None, :]).prod(axis=2))


def enumerate_law(
    probabilities: DescriptorProbabilities,
    *,
    system: System,
    consistency: Consistency = "independent",
    cystic_stops: bool = False,
) -> np.ndarray:
    """Sum the probability of every reading into the category the rule engine gives it.

    Args:
        probabilities: Of N nodules.
        system: A short name; ACR too, which must agree with the convolution.
        consistency: See `level_law`.
        cystic_stops: See `level_law`.

    Returns:
        float64 [N, K + 1], the categories and last what is undefined.
    """
    joint, _ = _joint(probabilities, consistency)
    seen = one_hot_table(system, cystic_stops=cystic_stops, rim_extrusion=probabilities.rim_extrusion)
    found = []
    for start in range(0, len(joint), _CHUNK):
        part = probabilities.take(slice(start, start + _CHUNK))
        given_foci = np.tensordot(foci_law(part.foci), seen, axes=([1], [4]))  # [n, 5, 6, 2, 5, K + 1]
        given_margin = np.einsum("nm,ncehmk->ncehk", part.margin, given_foci)
        given_shape = np.einsum("nh,ncehk->ncek", part.shape, given_margin)
        found.append(np.einsum("nce,ncek->nk", joint[start : start + _CHUNK], given_shape))
    return np.concatenate(found) if found else np.zeros((0, seen.shape[-1]))


def one_hot_table(system: System, *, cystic_stops: bool = False, rim_extrusion: bool = False) -> np.ndarray:
    """Return the category table as 0 and 1, float64 [5, 6, 2, 5, 16, K + 1], undefined last."""
    table = category_table(system, cystic_stops=cystic_stops, rim_extrusion=rim_extrusion)
    last = len(LEXICONS[system].names)
    return np.asarray(np.where(table < 0, last, table)[..., None] == np.arange(last + 1), dtype=np.float64)


def average_laws(laws: Sequence[LevelLaw]) -> LevelLaw:
    """Average the laws several models (an ensemble, folds) give the same nodules.

    Averaging laws keeps the groups dependent through the model; averaging the descriptors first would lose that.

    Args:
        laws: One a model, of the same system and nodules.

    Returns:
        Their mean; warnings of all.

    Raises:
        MedtailError: No law, or laws of different systems or numbers of nodules.

    Example:
        >>> from medtail.lexicons.probabilities import descriptor_probabilities
        >>> one, other = (level_law(descriptor_probabilities(composition="solid", echogenicity=echo, shape=shape,
        ...     margin="smooth", foci="none")) for echo, shape in (("iso", "wider"), ("hypo", "taller")))
        >>> average_laws([one, other]).probabilities.tolist()
        [[0.0, 0.0, 0.5, 0.0, 0.5]]
    """
    if not laws:
        raise MedtailError("average of laws: found none; expected one a model.")
    first = laws[0]
    for law in laws:
        if law.system != first.system or len(law) != len(first):
            raise MedtailError(
                f"average of laws: found {law.system} of {len(law)} nodules beside {first.system} of {len(first)};"
                " expected the same system and nodules."
            )
    points = [law.points for law in laws if law.points is not None]
    return LevelLaw(
        first.system,
        np.mean([law.probabilities for law in laws], axis=0),
        np.mean([law.undefined for law in laws], axis=0),
        np.mean(points, axis=0) if points else None,
        np.mean([law.removed for law in laws], axis=0),
        tuple(dict.fromkeys(warning for law in laws for warning in law.warnings)),
    )
