"""Descriptor probabilities of N nodules, checked once: what `propagation` takes instead of a reading.

Exclusive groups hold distributions, foci independent probabilities. A group somebody read is a point mass; undetermined
is a value of its own, which no model's labels have. Nothing is renormalised silently: a group may miss the sum of 1 by
0.001, the rounding of a file, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final

import numpy as np

from medtail.errors import MedtailError, Problems, listing
from medtail.lexicons.descriptors import (
    EXCLUSIVE,
    GROUPS,
    LABEL_NAMES,
    LABELS,
    NO_FOCI,
    Focus,
    Reading,
    group_values,
)
from medtail.lexicons.parsing import parse_reading

SUM_TOLERANCE: Final = 1e-3
NO_FOCI_GAP: Final = 0.2
ScoreMeaning = Literal["probability", "separate"]
GroupInput = np.ndarray | Iterable[float] | str | frozenset[Focus]


@final
@dataclass(frozen=True, eq=False)
class DescriptorProbabilities:
    """Distributions over the values of every group, a row a nodule.

    Attributes:
        composition: float64 [N, 5]; the last column is undetermined, as in the other groups that can be.
        echogenicity: float64 [N, 6].
        shape: float64 [N, 2].
        margin: float64 [N, 5].
        foci: float64 [N, 4], each kind's own probability: comet_tail, macro, rim, punctate.
        rim_extrusion: Of every nodule; see `Reading`.
        is_calibrated: Whether somebody vouches that these are probabilities.
        warnings: What is odd about them.
    """

    composition: np.ndarray
    echogenicity: np.ndarray
    shape: np.ndarray
    margin: np.ndarray
    foci: np.ndarray
    rim_extrusion: bool = False
    is_calibrated: bool = False
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.composition)

    def group(self, name: str) -> np.ndarray:
        """Return a group's array by name."""
        found: np.ndarray = getattr(self, name)
        return found

    def take(self, rows: np.ndarray | slice) -> DescriptorProbabilities:
        """Return some rows."""
        return replace(self, **{name: self.group(name)[rows] for name in GROUPS})  # type: ignore[arg-type]  # arrays


def descriptor_probabilities(
    *,
    composition: GroupInput,
    echogenicity: GroupInput,
    shape: GroupInput,
    margin: GroupInput,
    foci: GroupInput,
    foci_none: np.ndarray | None = None,
    rim_extrusion: bool = False,
    is_calibrated: bool = False,
    where: str = "descriptor probabilities",
) -> DescriptorProbabilities:
    """Check and gather the probabilities of N nodules.

    Args:
        composition: float [N, 4] or [4], in the order of the labels (cystic, spongiform, mixed, solid); or a value
            somebody read, such as "solid" or "undetermined", for every nodule.
        echogenicity: float [N, 5] or [5] (anechoic, hyper, iso, hypo, very_hypo), or a value.
        shape: float [N, 2] or [2] (wider, taller), or a value.
        margin: float [N, 4] or [4] (smooth, ill_defined, irregular, ete), or a value.
        foci: float [N, 4] or [4] (comet_tail, macro, rim, punctate), or words as in `parse_reading`.
        foci_none: float [N] or one number: the model's own P(no foci); only compared.
        rim_extrusion: Somebody saw it, in all of them.
        is_calibrated: Whether the probabilities were calibrated.
        where: For messages.

    Returns:
        The probabilities.

    Raises:
        MedtailError: NaN, outside [0, 1], a wrong number of columns or rows, or an exclusive group whose sum misses 1
            by more than 0.001; all at once.

    Example:
        >>> found = descriptor_probabilities(composition=[0, 0, 0.45, 0.55], echogenicity="iso", shape=[0.6, 0.4],
        ...                                  margin="smooth", foci=[0, 0.4, 0, 0.4])
        >>> len(found), found.composition.tolist()
        (1, [[0.0, 0.0, 0.45, 0.55, 0.0]])
    """
    problems = Problems(where)
    given = {"composition": composition, "echogenicity": echogenicity, "shape": shape, "margin": margin, "foci": foci}
    arrays = {name: _array(name, value, problems) for name, value in given.items()}
    problems.raise_if_any()
    for name, array in arrays.items():
        for row, mistake in row_mistakes(name, array).items():
            problems.add(f"row {row}, {name}: {mistake}")
    rows = max(len(array) for array in arrays.values())
    for name, array in arrays.items():
        if len(array) not in (1, rows):
            problems.add(f"{name}: found {len(array)} rows; expected {rows}, or one for all.")
    problems.raise_if_any()
    ready = {name: np.broadcast_to(_whole(name, array), (rows, _width(name))).copy() for name, array in arrays.items()}
    return DescriptorProbabilities(
        **ready,
        rim_extrusion=rim_extrusion,
        is_calibrated=is_calibrated,
        warnings=_odd_foci(ready["foci"], foci_none),
    )


def _width(name: str) -> int:
    return len(Focus) if name == "foci" else len(EXCLUSIVE[name])


def _array(name: str, value: GroupInput, problems: Problems) -> np.ndarray:
    """Return float64 [n, k], k labels or with undetermined one more; a point mass for words."""
    if isinstance(value, (str, frozenset)):
        words = value if isinstance(value, str) else (";".join(value) or NO_FOCI)
        try:
            reading = parse_reading(**{name: words})
        except MedtailError as error:
            problems.add(str(error).removeprefix("TI-RADS reading, "))
            return np.zeros((1, 1))
        return point_mass(reading, name)[None, :]
    array = np.atleast_2d(np.asarray(value if isinstance(value, np.ndarray) else list(value), dtype=np.float64))
    columns = len(Focus) if name == "foci" else len(group_values(name))
    if array.ndim != 2 or array.shape[1] not in (columns, _width(name)):
        values = [str(focus) for focus in Focus] if name == "foci" else list(group_values(name))
        problems.add(f"{name}: found an array of shape {array.shape}; expected [N, {columns}]: {', '.join(values)}.")
        return np.zeros((1, 1))
    return array


def point_mass(reading: Reading, group: str) -> np.ndarray:
    """Return a reading's value of a group as a distribution, float64 [k]; of foci, 1 for each kind present.

    Example:
        >>> point_mass(parse_reading(shape="taller"), "shape").tolist()
        [0.0, 1.0]
    """
    value = getattr(reading, group)
    assert value is not None, "the group was given"
    if group == "foci":
        return np.array([float(focus in value) for focus in Focus])
    return np.array([float(member is value) for member in EXCLUSIVE[group]])


def row_mistakes(group: str, array: np.ndarray) -> dict[int, str]:
    """Say which rows of a group are no probabilities, and why.

    Args:
        group: Its name.
        array: float [N, k].

    Returns:
        Row number → mistake.

    Example:
        >>> row_mistakes("shape", np.array([[0.5, 0.5], [0.9, 0.5]]))[1][:26]
        'found 0.9, 0.5, whose sum '
    """
    found: dict[int, str] = {}
    outside = np.isnan(array) | (array < 0.0) | (array > 1.0)
    wrong = outside.any(axis=1)
    if group != "foci":
        with np.errstate(invalid="ignore"):
            wrong = wrong | (np.abs(array.sum(axis=1) - 1.0) > SUM_TOLERANCE)
    for row in np.flatnonzero(wrong):
        values = listing([f"{value:g}" for value in array[row]], limit=8)
        if outside[row].any():
            found[int(row)] = f"found {values}; expected probabilities in [0, 1], none missing."
        else:
            found[int(row)] = (
                f"found {values}, whose sum is {array[row].sum():.4g}; expected 1 within {SUM_TOLERANCE:g}. Was each"
                " label scored by itself? Say so (`--scores separate`, or `exclusive_from_scores`)."
            )
    return found


def _whole(name: str, array: np.ndarray) -> np.ndarray:
    """Rescale within the tolerance, and put a column of undetermined where the group can be."""
    if name == "foci":
        return array
    if array.shape[1] < _width(name):
        array = np.column_stack([array, np.zeros(len(array))])
    return np.asarray(array / array.sum(axis=1, keepdims=True))


def _odd_foci(foci: np.ndarray, foci_none: np.ndarray | None) -> tuple[str, ...]:
    if foci_none is None:
        return ()
    implied = np.prod(1.0 - foci, axis=1)
    gap = np.abs(np.asarray(foci_none, dtype=np.float64) - implied)
    odd = np.broadcast_to(gap > NO_FOCI_GAP, implied.shape)
    if not odd.any():
        return ()
    row = int(np.flatnonzero(odd)[0])
    told = float(np.broadcast_to(np.asarray(foci_none, dtype=np.float64), implied.shape)[row])
    return (
        f"{int(odd.sum())} of {len(foci)} rows: P(no foci) differs by more than {NO_FOCI_GAP:g} from what the four foci"
        f" imply (row {row}: {told:.2f} against {implied[row]:.2f}). The foci are used; P(no foci) is not.",
    )


def exclusive(logits: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Turn the logits of an exclusive group into a distribution by softmax.

    Args:
        logits: float [N, k].
        temperature: Fitted on the tune fold, > 0; above 1 softens.

    Returns:
        float64 [N, k], rows sum to 1.

    Raises:
        MedtailError: A logit is not finite, or the temperature not above 0.

    Example:
        >>> exclusive(np.array([[0.0, np.log(3.0)]])).round(2).tolist()
        [[0.25, 0.75]]
    """
    values = np.asarray(logits, dtype=np.float64)
    if not temperature > 0.0:
        raise MedtailError(f"exclusive, temperature {temperature!r}: expected a number > 0.")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise MedtailError(f"exclusive, row {row}: found {values[row].tolist()}; expected finite logits.")
    values = values / temperature
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def exclusive_from_scores(scores: np.ndarray) -> np.ndarray:
    """Turn separate sigmoid scores of an exclusive group into a distribution: shares of the odds p / (1 - p).

    That is the softmax of the logits behind the scores. Dividing scores by their sum would ignore how sure each is:
    0.9 and 0.5 are odds of 9 to 1, not 64 to 36.

    Args:
        scores: float [N, k] in [0, 1]. Scores of exactly 1 share everything among them.

    Returns:
        float64 [N, k], rows sum to 1.

    Raises:
        MedtailError: A score is outside [0, 1], or all scores of a row are 0.

    Example:
        >>> exclusive_from_scores(np.array([[0.9, 0.5]])).round(3).tolist()
        [[0.9, 0.1]]
    """
    values = np.asarray(scores, dtype=np.float64)
    bad = ~((values >= 0.0) & (values <= 1.0)).all(axis=1) | (values == 0.0).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise MedtailError(
            f"exclusive_from_scores, row {row}: found {values[row].tolist()}; expected scores in [0, 1], not all 0."
        )
    certain = values == 1.0
    # the largest odds are divided out, so that scores near 1 cannot overflow
    scaled = np.where(certain, 0.5, values)
    logits = np.log(np.where(scaled > 0.0, scaled, 1.0)) - np.log1p(-scaled)
    logits[scaled == 0.0] = -np.inf
    has_certain = certain.any(axis=1)
    logits[has_certain] = np.where(certain[has_certain], 0.0, -np.inf)
    return _softmax(logits)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def label_faults(scores: np.ndarray, *, meaning: ScoreMeaning = "probability") -> dict[int, dict[str, str]]:
    """Say which rows of twenty scores cannot be propagated, and why.

    Args:
        scores: float [N, 20], columns in the order of `LABEL_NAMES`.
        meaning: See `probabilities_from_labels`.

    Returns:
        Row number → group → mistake.

    Example:
        >>> list(label_faults(np.zeros((1, 20)))[0])
        ['composition', 'echogenicity', 'shape', 'margin']
    """
    found: dict[int, dict[str, str]] = {}
    for group in GROUPS:
        cells = np.asarray(scores, dtype=np.float64)[:, _columns(group)]
        mistakes = row_mistakes("foci" if meaning == "separate" else group, cells)
        if meaning == "separate" and group != "foci":
            nothing = (cells == 0.0).all(axis=1)
            mistakes |= {int(row): "found only zeros; expected one score above 0." for row in np.flatnonzero(nothing)}
        for row, mistake in mistakes.items():
            found.setdefault(row, {})[group] = mistake
    return dict(sorted(found.items()))


def _columns(group: str) -> list[int]:
    return [LABEL_NAMES.index(name) for name in LABELS[group]]


def probabilities_from_labels(
    scores: np.ndarray, *, meaning: ScoreMeaning = "probability", is_calibrated: bool = False
) -> DescriptorProbabilities:
    """Take the twenty scores of a model for descriptor probabilities.

    Args:
        scores: float [N, 20] in [0, 1], columns in the order of `LABEL_NAMES`.
        meaning: `probability`: exclusive groups sum to 1 (within 0.001). `separate`: each score was made by a sigmoid
            of its own; groups become shares of the odds.
        is_calibrated: Whether they were calibrated.

    Returns:
        The probabilities; `foci_none` is only compared with what the other foci imply.

    Raises:
        MedtailError: See `label_faults`.

    Example:
        >>> scores = np.full((1, 20), 0.5)
        >>> probabilities_from_labels(scores, meaning="separate").shape.tolist()
        [[0.5, 0.5]]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(LABEL_NAMES):
        raise MedtailError(f"label scores: found shape {values.shape}; expected [N, {len(LABEL_NAMES)}].")
    problems = Problems("label scores")
    for row, mistakes in label_faults(values, meaning=meaning).items():
        for group, mistake in mistakes.items():
            problems.add(f"row {row}, {group}: {mistake}")
    problems.raise_if_any()
    groups: Mapping[str, np.ndarray] = {group: values[:, _columns(group)] for group in GROUPS}
    ready = {
        group: exclusive_from_scores(groups[group]) if meaning == "separate" else groups[group] for group in EXCLUSIVE
    }
    return descriptor_probabilities(
        composition=ready["composition"],
        echogenicity=ready["echogenicity"],
        shape=ready["shape"],
        margin=ready["margin"],
        foci=groups["foci"][:, 1:],
        foci_none=groups["foci"][:, 0],
        is_calibrated=is_calibrated,
        where="label scores",
    )


def argmax_readings(probabilities: DescriptorProbabilities) -> list[Reading]:
    """Return the reading somebody would make who took the likeliest value of every group and every focus at >= 0.5.

    Args:
        probabilities: Of N nodules.

    Returns:
        N readings without sizes.
    """
    chosen = {group: probabilities.group(group).argmax(axis=1) for group in EXCLUSIVE}
    present = probabilities.foci >= 0.5
    members: dict[str, Any] = {group: list(kind) for group, kind in EXCLUSIVE.items()}
    return [
        Reading(
            composition=members["composition"][chosen["composition"][row]],
            echogenicity=members["echogenicity"][chosen["echogenicity"][row]],
            shape=members["shape"][chosen["shape"][row]],
            margin=members["margin"][chosen["margin"][row]],
            foci=frozenset(focus for focus, is_there in zip(Focus, present[row], strict=True) if is_there),
            rim_extrusion=probabilities.rim_extrusion,
        )
        for row in range(len(probabilities))
    ]
