"""What would change a nodule's level: each descriptor made certain in turn, all others left as they are.

The distance between two laws is half the sum of absolute differences (total variation): the share of probability that
moves. A group's own weight is what knowing it would move on average; the single label that moves most is named beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from medtail.lexicons.descriptors import GROUPS, Focus, group_values
from medtail.lexicons.probabilities import DescriptorProbabilities
from medtail.lexicons.propagation import CONSISTENT, Consistency, foci_law, level_law, one_hot_table
from medtail.lexicons.states import FOCI_SETS
from medtail.lexicons.systems import LEXICONS, System, lexicon

_CHUNK: Final = 512
_RARE: Final = 1e-9
"""A label less likely than this cannot be conditioned on when contradictions are taken away."""
LEAST_CHANCE: Final = 0.05


@final
@dataclass(frozen=True, eq=False)
class Influence:
    """How the law moves when a descriptor becomes certain.

    Attributes:
        system: A short name.
        labels: (group, value) of each of the L candidates; of a focus, the values `macro` and `no macro`.
        chances: float64 [N, L], how probable each candidate is now.
        laws: float64 [N, L, K + 1], the law if it were certain, undefined last; NaN where it contradicts itself.
        moved: float64 [N, L], share of probability that would move; 0 where it contradicts itself.
    """

    system: System
    labels: tuple[tuple[str, str], ...]
    chances: np.ndarray
    laws: np.ndarray
    moved: np.ndarray

    def by_group(self) -> dict[str, np.ndarray]:
        """Return what knowing a group would move on average, float64 [N] a group; foci a kind each.

        Returns:
            `composition`, …, `foci:punctate` → sum over its values of chance x moved.
        """
        found: dict[str, np.ndarray] = {}
        for number, (group, value) in enumerate(self.labels):
            name = f"foci:{value.removeprefix('no ')}" if group == "foci" else group
            part = self.chances[:, number] * self.moved[:, number]
            found[name] = found[name] + part if name in found else part
        return found

    def strongest(self, *, least_chance: float = LEAST_CHANCE) -> tuple[np.ndarray, np.ndarray]:
        """Return the candidate that moves most among those that may well be true.

        Args:
            least_chance: Candidates less likely than this are left out: calling a solid nodule spongiform moves
                everything, and says nothing.

        Returns:
            Number of the candidate, int64 [N] (-1 where none is that likely and moves anything), and the share it
            moves, float64 [N].
        """
        eligible = np.where(self.chances >= least_chance, self.moved, -1.0)
        best = eligible.argmax(axis=1)
        most = eligible[np.arange(len(best)), best]
        is_any = most > _RARE
        return np.where(is_any, best, -1), np.where(is_any, most, 0.0)


def influence(
    probabilities: DescriptorProbabilities,
    *,
    system: str = "acr",
    consistency: Consistency = "independent",
    cystic_stops: bool = False,
) -> Influence:
    """Make each label certain in turn and see how the law moves.

    Args:
        probabilities: Of N nodules.
        system: See `propagation.level_law`.
        consistency: See `propagation.level_law`.
        cystic_stops: See `propagation.level_law`.

    Returns:
        The laws and what they move.

    Raises:
        MedtailError: See `propagation.level_law`.

    Example:
        >>> from medtail.lexicons.probabilities import descriptor_probabilities
        >>> nodule = descriptor_probabilities(composition="solid", echogenicity=[0, 0, 0.5, 0.5, 0], shape="wider",
        ...                                   margin="smooth", foci=[0, 0, 0, 0.1])
        >>> found = influence(nodule)
        >>> number, moved = found.strongest()
        >>> found.labels[number[0]], moved.round(2).tolist()
        (('echogenicity', 'iso'), [0.45])
    """
    rules = lexicon(system)
    now = level_law(probabilities, system=rules.system, consistency=consistency, cystic_stops=cystic_stops)
    base = np.column_stack([now.probabilities, now.undefined])
    parts = [
        _conditional(probabilities.take(slice(start, start + _CHUNK)), rules.system, consistency, cystic_stops)
        for start in range(0, max(len(base), 1), _CHUNK)
    ]
    laws = np.concatenate([part for part, _ in parts])
    chances = np.concatenate([part for _, part in parts])
    moved = 0.5 * np.abs(np.nan_to_num(laws - base[:, None, :])).sum(axis=2)  # NaN: no such reading, nothing to move to
    return Influence(rules.system, _labels(), chances, laws, moved)


def _labels() -> tuple[tuple[str, str], ...]:
    exclusive = [(group, value) for group in GROUPS[:-1] for value in group_values(group)]
    return (*exclusive, *(("foci", f"{sign}{focus}") for focus in Focus for sign in ("", "no ")))


def _conditional(
    given: DescriptorProbabilities, system: System, consistency: Consistency, cystic_stops: bool
) -> tuple[np.ndarray, np.ndarray]:
    seen = one_hot_table(system, cystic_stops=cystic_stops, rim_extrusion=given.rim_extrusion)
    allowed = CONSISTENT if consistency == "conditioned" else np.ones_like(CONSISTENT)
    joint = given.composition[:, :, None] * given.echogenicity[:, None, :] * allowed
    kept = joint.sum(axis=(1, 2), keepdims=True)
    joint = joint / kept
    sets = foci_law(given.foci)
    without_foci = np.tensordot(sets, seen, axes=([1], [4]))  # [n, c, e, h, m, k]
    no_margin = _mixed(given.margin, without_foci, axis=4)
    no_shape = _mixed(given.shape, without_foci, axis=3)
    cells = _mixed(given.shape, no_margin, axis=3)  # P(category | composition, echogenicity)
    found = [
        _normed((cells * (given.echogenicity[:, None, :] * allowed)[..., None]).sum(axis=2)),
        _normed((cells * (given.composition[:, :, None] * allowed)[..., None]).sum(axis=1)),
        _over_joint(joint, no_margin),
        _over_joint(joint, no_shape),
    ]
    counts = [len(group_values(group)) for group in GROUPS[:-1]]
    laws = [law[:, :count] for law, count in zip(found, counts, strict=True)]
    shares = [joint.sum(axis=2), joint.sum(axis=1), given.shape, given.margin]
    chances = [share[:, :count] for share, count in zip(shares, counts, strict=True)]
    focused, present = _by_focus(given, joint, seen)
    return np.concatenate([*laws, focused], axis=1), np.concatenate([*chances, present], axis=1)


def _normed(law: np.ndarray) -> np.ndarray:
    """Rescale laws given a value; NaN where no consistent reading has it."""
    total = law.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(law, total, out=np.full_like(law, np.nan), where=total > _RARE))


def _mixed(shares: np.ndarray, laws: np.ndarray, *, axis: int) -> np.ndarray:
    """Average laws [n, ...] over one axis, each row with shares [n, k] of its own."""
    total = np.zeros(laws.shape[:axis] + laws.shape[axis + 1 :])
    for number in range(shares.shape[1]):
        total += shares[(slice(None), number) + (None,) * (total.ndim - 1)] * laws.take(number, axis=axis)
    return total


def _over_joint(joint: np.ndarray, laws: np.ndarray) -> np.ndarray:
    """Average laws [n, c, e, v, k] over composition and echogenicity."""
    rows, _, _, values, categories = laws.shape
    flat = np.matmul(joint.reshape(rows, 1, -1), laws.reshape(rows, -1, values * categories))
    return np.asarray(flat.reshape(rows, values, categories))


def _by_focus(given: DescriptorProbabilities, joint: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rest = joint[:, :, :, None, None] * given.shape[:, None, None, :, None] * given.margin[:, None, None, None, :]
    by_set = np.tensordot(rest, seen, axes=4)  # [n, sets, k]
    assert by_set.shape[1] == len(FOCI_SETS), "a law a set"
    laws, chances = [], []
    for number, _ in enumerate(Focus):
        for is_there in (True, False):
            certain = given.foci.copy()
            certain[:, number] = float(is_there)
            laws.append(np.matmul(foci_law(certain)[:, None, :], by_set)[:, 0])
            chances.append(given.foci[:, number] if is_there else 1.0 - given.foci[:, number])
    return np.stack(laws, axis=1), np.stack(chances, axis=1)


def influence_lines(found: Influence) -> list[str]:
    """Say in one line a nodule what would move its law most.

    Args:
        found: From `influence`.

    Returns:
        N lines.

    Example:
        >>> from medtail.lexicons.probabilities import descriptor_probabilities
        >>> sure = descriptor_probabilities(composition="solid", echogenicity="iso", shape="wider", margin="smooth",
        ...                                 foci="none")
        >>> influence_lines(influence(sure))
        ['nothing: no other value is at least 5% likely']
    """
    best, moved = found.strongest()
    names = (*LEXICONS[found.system].names, "undefined")
    rows = np.arange(len(best))
    laws, chances = found.laws[rows, best], found.chances[rows, best]
    then = laws.argmax(axis=1)
    return [
        f"nothing: no other value is at least {LEAST_CHANCE:.0%} likely"
        if best[row] < 0
        else f"{' '.join(found.labels[best[row]])} (now {chances[row]:.0%}) for certain would move {moved[row]:.0%} of"
        f" the probability; then {names[then[row]]} {laws[row, then[row]]:.0%}"
        for row in rows
    ]
