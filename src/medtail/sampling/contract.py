"""What a sampler is, the train fold it draws from, and how draws are shared out over processes.

A sampler says which images an epoch shows and in which order. It knows labels, never pixels, and returns rows of
the manifest. The classic members are in `classic`; `build` makes one from its config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest


@final
@dataclass(frozen=True)
class Feedback:
    """What training tells a sampler at the end of an epoch about the rows it has drawn.

    Attributes:
        rows: Rows of the manifest in the order they were shown, int64 [n].
        losses: Plain binary cross-entropy of each row, the mean over its assessed labels, without weights, shifts or
            mixing, float [n]; NaN where the row had no assessed label.
        streams: The stream that drew each row, int64 [n].
        epoch: The epoch they were drawn in, from 0.
    """

    rows: np.ndarray
    losses: np.ndarray
    streams: np.ndarray
    epoch: int


class Sampler(ABC):
    """Draws rows of the train fold, epoch by epoch.

    A draw is a pure function of the seed, the epoch and what was observed: drawing twice, or only after a
    resume, gives the same rows.

    Attributes:
        rows: All rows it may draw, int64, ascending: the manifest's train fold.
        observes: Whether it wants `Feedback`; training then computes every row's loss.
    """

    rows: np.ndarray
    observes: bool = False

    @abstractmethod
    def draw(self, epoch: int) -> np.ndarray:
        """Draw an epoch.

        Args:
            epoch: From 0.

        Returns:
            Rows of the manifest in the order of showing, int64; repeats are images shown again.
        """

    @abstractmethod
    def frequencies(self, epoch: int) -> np.ndarray:
        """Promise how often each train row is drawn in this epoch in the long run.

        Args:
            epoch: From 0.

        Returns:
            Share of the draws for each of `rows`, float64, >= 0, adding up to 1.
        """

    def stream_frequencies(self, epoch: int) -> np.ndarray:
        """Promise how often each train row is drawn by each stream, float64 [streams, train rows], rows adding to 1."""
        return self.frequencies(epoch)[None]

    def facts(self, epoch: int) -> dict[str, float]:
        """Return numbers about an epoch's draw for the log, the same names in every epoch; none here."""
        del epoch
        return {}

    def streams(self, epoch: int) -> np.ndarray:
        """Say which stream each draw of an epoch belongs to.

        Args:
            epoch: From 0.

        Returns:
            One number from 0 a draw, int64, in the order of `draw`; 0 everywhere where there is one stream, as here.
        """
        return np.zeros(len(self.draw(epoch)), dtype=np.int64)

    def hardness(self) -> np.ndarray | None:
        """Return the share of `rows` that have been no harder than each row, float64 in [0, 1], NaN where not seen.

        None where no account is kept, as here.
        """
        return None

    def observe(self, feedback: Feedback) -> None:  # noqa: B027 (the one hook: doing nothing is right for most)
        """Take note of an epoch's losses; a sampler that does not learn ignores them, as here."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain JSON values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of an earlier run.

        Raises:
            MedtailError: The state is of another sampler, seed or train fold.
        """


@final
@dataclass(frozen=True)
class TrainFold:
    """The rows a sampler draws from, and what was found in them.

    Attributes:
        rows: Rows of the manifest whose fold is train, int64 [n], ascending. Synthetic rows are among them.
        targets: Their labels, float32 [n, classes]: 1, 0, NaN = not assessed.
        labels: The classes and their exclusive groups.
        name: The manifest's name, for messages.
    """

    rows: np.ndarray
    targets: np.ndarray
    labels: LabelSpace
    name: str

    @property
    def is_positive(self) -> np.ndarray:
        """Whether each row shows each class, bool [n, classes]; False where not assessed."""
        return np.asarray(self.targets == 1)

    @property
    def prevalence(self) -> np.ndarray:
        """Share of the assessed rows that show each class, float64 [classes]; 0 where none was assessed."""
        assessed = (~np.isnan(self.targets)).sum(axis=0)
        return np.asarray(self.is_positive.sum(axis=0) / np.maximum(assessed, 1))


def train_fold(manifest: Manifest) -> TrainFold:
    """Take the train rows of a manifest; the manifest is not changed.

    Raises:
        MedtailError: No row is in the train fold.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "patient_id": list("123"),
        ...                       "fold": ["train", "test", "train"], "Hernia": [1, 1, None]})
        >>> fold = train_fold(manifest_from_frame(table))
        >>> fold.rows.tolist(), fold.prevalence.tolist()
        ([0, 2], [1.0])
    """
    rows = np.flatnonzero(manifest.folds == "train").astype(np.int64)
    if not len(rows):
        raise MedtailError(
            f"{manifest.name}, column 'fold': no row is in 'train'; a sampler draws from the train fold only."
            f" Make folds with `medtail data split {manifest.name}`."
        )
    return TrainFold(rows, manifest.targets[rows], manifest.labels, manifest.name)


def shard(draws: np.ndarray, *, rank: int, world_size: int, batch_size: int | None = None) -> np.ndarray:
    """Take one process's share of an epoch's draws.

    Process `rank` gets every `world_size`-th draw. So all get equally many, and the k-th batches of all processes
    together are the k-th batch of one process with batches `world_size` times as large. Where the draws do not
    divide, they are filled up from the start of the epoch again: no draw is lost, and fewer than `world_size`
    (times `batch_size`, if given) are shown once more.

    Args:
        draws: An epoch from `Sampler.draw`, int64 [n].
        rank: This process, 0 to world_size - 1.
        world_size: Number of processes, at least 1.
        batch_size: Images a batch and process, to fill up the last batch too; None leaves it short.

    Returns:
        Rows of the manifest, int64, of the same length in every process.

    Raises:
        MedtailError: A number is out of its range.

    Example:
        >>> epoch = np.array([10, 11, 12, 13, 14])
        >>> [shard(epoch, rank=rank, world_size=2).tolist() for rank in (0, 1)]
        [[10, 12, 14], [11, 13, 10]]
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise MedtailError(
            f"shard, rank {rank!r} of world_size {world_size!r}: expected a world_size of at least 1 and a rank from"
            " 0 to world_size - 1."
        )
    if batch_size is not None and batch_size < 1:
        raise MedtailError(f"shard, batch_size: found {batch_size!r}; expected at least 1, or None.")
    unit = world_size * (batch_size or 1)
    return np.resize(draws, -(-len(draws) // unit) * unit)[rank::world_size]
