"""Real rows mixed with generated ones: how much of each class's pool is in play is its *level*.

With n real rows and d_c rows in class c's pool, level l_c adds m_c = l_c d_c rows to the mixture: a draw is real with
probability n / (n + Σ m), else it is of class c in proportion to m_c, and then one of the class's pool rows, all alike.
In a multi-class task that is the same as picking a class by n_c + m_c first. Level 0 everywhere is the uniform sampler
over the real rows, bit for bit. Levels that change during a training are in `replay`, what chooses them in `policy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED
from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.sampling.classic import Plan, running_rows
from medtail.sampling.contract import Sampler
from medtail.seeding import stream
from medtail.tables.frames import row_list
from medtail.tables.manifest import Manifest
from medtail.tables.pools import ASKED

MOST = 2.0
"""Largest level: every pool row counts twice."""
Level = Annotated[float, Field(ge=0.0, le=MOST)]
LEAST_SHOWN = 0.5


@final
@dataclass(frozen=True, kw_only=True)
class MixtureSamplerConfig:
    """Real rows mixed with generated ones, at levels that stay.

    An epoch has as many draws as there are *real* train rows, unless `optimizer.epoch_rows` says otherwise.

    Attributes:
        levels: One level in [0, 2] for every class's pool, or class → level, others 0. 0 leaves the pool out; 1 has its
            rows drawn as often as real ones, which fills up to balance where the pool was made to do so.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["mixture"] = "mixture"
    levels: Level | Mapping[str, Level] = 1.0


@final
@dataclass(frozen=True, eq=False)
class Pool:
    """The two kinds of train rows.

    Attributes:
        real: Rows of the manifest that are real, int64 [n], ascending; at least one.
        members: For each class the generated rows made for it, int64, ascending.
        class_names: The classes, in the manifest's order.
        name: The manifest's name, for messages.
    """

    real: np.ndarray
    members: tuple[np.ndarray, ...]
    class_names: tuple[str, ...]
    name: str

    @property
    def sizes(self) -> np.ndarray:
        """Rows in each class's pool, d_c, float64 [classes]."""
        return np.array([len(rows) for rows in self.members], dtype=np.float64)

    def without(self, rows: np.ndarray) -> Pool:
        """Return the same pools with some real rows left out.

        Raises:
            MedtailError: No real row would be left.
        """
        kept = self.real[~np.isin(self.real, rows)]
        if not len(kept):
            raise MedtailError(f"{self.name}: every real train row is among those taken out; expected some to stay.")
        return replace(self, real=kept)

    def levels(self, wanted: float | Mapping[str, float]) -> np.ndarray:
        """Return a level for each class, float64 [classes].

        Args:
            wanted: One for all classes that have a pool, or class → level.

        Raises:
            MedtailError: A class is unknown or has no pool, or nothing was generated at all.

        Example:
            >>> pool = Pool(np.arange(4), (np.array([4, 5]), np.array([], dtype=int)), ("a", "b"), "t.csv")
            >>> pool.levels(0.5).tolist(), pool.levels({"a": 1.0}).tolist()
            ([0.5, 0.0], [1.0, 0.0])
        """
        problems = Problems(f"{self.name}, levels")
        found = np.zeros(len(self.class_names))
        if isinstance(wanted, Mapping):
            for name, level in wanted.items():
                if name not in self.class_names:
                    near = did_you_mean(name, self.class_names)
                    known = f"; classes are {listing(self.class_names, limit=12)}."
                    problems.add(f"{name!r}: no such class{near or known}")
                elif level > 0 and not len(self.members[self.class_names.index(name)]):
                    problems.add(
                        f"{name!r}: level {level:g}, but the table has no generated image of it; expected some."
                    )
                else:
                    found[self.class_names.index(name)] = level
        else:
            found = np.where(self.sizes > 0, float(wanted), 0.0)
            if wanted > 0 and not self.sizes.any():
                problems.add(
                    f"{wanted:g}: no synthetic row is in the train fold; expected the manifest.csv of a pool, which"
                    " `medtail synthesise make` writes (real and generated rows together), or level 0."
                )
        problems.raise_if_any()
        return found


def find_pool(manifest: Manifest) -> Pool:
    """Tell real train rows from generated ones, and whom each of these was made for.

    `meta_class` names the class; where it is empty, the one class the row shows.

    Args:
        manifest: Real and generated rows.

    Returns:
        The pools.

    Raises:
        MedtailError: No train row is real; or a generated row was made for a class the table does not have, does not
            show its class, or tells nothing.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "fold": "train",
        ...     "patient_id": list("123"), "origin": ["real", "real", "synthetic"], "meta_class": ["", "", "Hernia"],
        ...     "Hernia": [0, 1, 1]}))
        >>> [rows.tolist() for rows in find_pool(table).members]
        [[2]]
    """
    is_train = manifest.folds == "train"
    real = np.flatnonzero(is_train & manifest.is_real).astype(np.int64)
    if not len(real):
        raise MedtailError(f"{manifest.name}: no real row is in the train fold; a mixture needs real images too.")
    made = np.flatnonzero(is_train & ~manifest.is_real).astype(np.int64)
    names = manifest.labels.class_names
    asked = manifest.frame[ASKED].to_numpy(dtype=object) if ASKED in manifest.frame.columns else None
    shows = manifest.targets[made] > LEAST_SHOWN
    number = np.full(len(made), -1)
    unknown: dict[str, list[int]] = {}
    untold: list[int] = []
    unlike: list[int] = []
    for place, row in enumerate(made):
        told = "" if asked is None else str(asked[row])
        if told in names:
            number[place] = names.index(told)
            if not shows[place, number[place]]:
                unlike.append(int(row) + 2)
        elif told:
            unknown.setdefault(told, []).append(int(row) + 2)
        elif shows[place].sum() == 1:
            number[place] = int(shows[place].argmax())
        else:
            untold.append(int(row) + 2)
    problems = Problems(manifest.name)
    for told, rows in unknown.items():
        near = did_you_mean(told, names) or f"; classes are {listing(names, limit=12)}."
        problems.add(
            f"column {ASKED!r}: {told!r} is no class here ({row_list(rows, limit=6)}){near} A pool must be of the"
            " table's own classes; make one with a generator trained on it."
        )
    if unlike:
        problems.add(
            f"column {ASKED!r}: names a class that the row's label columns do not show ({row_list(unlike, limit=6)});"
            " expected 1 there."
        )
    if untold:
        problems.add(
            f"column {ASKED!r}: empty, and the row does not show exactly one class ({row_list(untold, limit=6)});"
            " expected the class each synthetic image was made for."
        )
    problems.raise_if_any()
    return Pool(real, tuple(made[number == c] for c in range(len(names))), names, manifest.name)


@final
@dataclass(frozen=True, eq=False)
class Stretch:
    """Draws in a row that are made at the same levels.

    Attributes:
        draws: How many, at least 1.
        levels: A level for each class, float64 [classes].
    """

    draws: int
    levels: np.ndarray


class Programme(Protocol):
    """Says at which levels an epoch's draws are made."""

    def stretches(self, epoch: int) -> Sequence[Stretch]:
        """Return the epoch's stretches in order; their draws add up to the epoch's."""


@final
@dataclass(frozen=True, eq=False)
class Steady:
    """The same levels all the time."""

    stretch: Stretch

    def stretches(self, epoch: int) -> Sequence[Stretch]:
        """Return the one stretch there is."""
        del epoch
        return (self.stretch,)


@final
class MixtureSampler(Sampler):
    """Draws real rows and pool rows by a programme of levels.

    Every draw is real or of one class's pool by chance; each kind is then served from permutations of its own, laid end
    to end over the epochs, so that no row comes twice before all of its kind have come once.

    Args:
        plan: Rows, seed and draws an epoch.
        pool: Which rows are real and which were made for which class.
        programme: The levels.
    """

    def __init__(self, plan: Plan, pool: Pool, programme: Programme) -> None:
        self._plan = plan
        self._pool = pool
        self._programme = programme
        self.rows = plan.fold.rows
        self._served: dict[int, np.ndarray] = {0: np.zeros(len(pool.members) + 1, dtype=np.int64)}

    def draw(self, epoch: int) -> np.ndarray:
        """Draw an epoch."""
        kinds, first = self._kinds(epoch), self._served_before(epoch)
        drawn = np.empty(len(kinds), dtype=np.int64)
        for kind, rows in enumerate((*self._pool.members, self._pool.real)):
            is_kind = kinds == kind
            length = int(is_kind.sum())
            if length:
                shuffler = self._plan.random if kind == self._real else self._shuffler(kind)
                drawn[is_kind] = running_rows(rows, first=int(first[kind]), length=length, shuffler=shuffler)
        return drawn

    def frequencies(self, epoch: int) -> np.ndarray:
        """Promise real rows alike their share, and each class's pool rows theirs."""
        shares = np.zeros(len(self.rows))
        stretches = self._programme.stretches(epoch)
        total = sum(stretch.draws for stretch in stretches)
        for stretch in stretches:
            chances = mixture_chances(stretch.levels, self._pool) * stretch.draws / total
            for chance, rows in zip(chances, (*self._pool.members, self._pool.real), strict=True):
                if len(rows):
                    shares[np.searchsorted(self.rows, rows)] += chance / len(rows)
        return shares

    def facts(self, epoch: int) -> dict[str, float]:
        """Return the epoch's mean level of each class that has a pool, and the share of generated images."""
        stretches = self._programme.stretches(epoch)
        total = sum(stretch.draws for stretch in stretches)
        levels = sum((s.levels * s.draws for s in stretches), np.zeros(len(self._pool.members))) / total
        made = sum((1.0 - mixture_chances(s.levels, self._pool)[self._real]) * s.draws for s in stretches) / total
        named = zip(self._pool.class_names, levels, self._pool.members, strict=True)
        return {"synthetic_share": float(made)} | {
            f"level_{name}": float(level) for name, level, rows in named if len(rows)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the plan; draws follow from it, the programme and the epoch."""
        return self._plan.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the state is of the same plan.

        Raises:
            MedtailError: It is not.
        """
        self._plan.check_state(state)

    @property
    def _real(self) -> int:
        """The kind of real rows: the last."""
        return len(self._pool.members)

    def _shuffler(self, kind: int) -> Any:
        name = self._pool.class_names[kind]
        return lambda number: stream(self._plan.seed, "sampler", number, "pool", name)

    def _kinds(self, epoch: int) -> np.ndarray:
        """Return what each draw of an epoch is of: a class's number, or `_real`."""
        chances = stream(self._plan.seed, "sampler", epoch, "mixture").random(self._plan.epoch_rows)
        kinds, start = np.empty(len(chances), dtype=np.int64), 0
        for stretch in self._programme.stretches(epoch):
            edges = mixture_chances(stretch.levels, self._pool)[: self._real].cumsum()
            part = slice(start, start + stretch.draws)
            kinds[part] = np.searchsorted(edges, chances[part], side="right")
            start += stretch.draws
        assert start == len(kinds), f"{start} of {len(kinds)} draws are planned"
        return kinds

    def _served_before(self, epoch: int) -> np.ndarray:
        """Return how many rows of each kind earlier epochs have shown."""
        for done in range(max(self._served), epoch):
            counts = np.bincount(self._kinds(done), minlength=self._real + 1)
            self._served[done + 1] = self._served[done] + counts
        return self._served[epoch]


def mixture_chances(levels: np.ndarray, pool: Pool) -> np.ndarray:
    """Return the chance of a draw to be of each class's pool, and last of a real row; they add up to 1.

    Args:
        levels: Float [classes], each in [0, 2].
        pool: The pools.

    Returns:
        float64 [classes + 1].

    Example:
        >>> pool = Pool(np.arange(6), (np.array([6, 7]), np.array([8, 9, 10, 11])), ("a", "b"), "t.csv")
        >>> mixture_chances(np.array([1.0, 0.5]), pool).tolist()
        [0.2, 0.2, 0.6]
    """
    counts = np.append(levels * pool.sizes, float(len(pool.real)))
    return np.asarray(counts / counts.sum())
