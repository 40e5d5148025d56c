"""The resumable state of a training, in one file that is never unpickled.

Tensors (weights, their average, the optimizer's moments) as safetensors, everything else as JSON in the same file's
header: one rename puts the whole state in place, so a kill leaves the last whole epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medtail.errors import MedtailError
from medtail.models.checkpoint import to_safetensors
from medtail.runs import atomic_path

FORMAT = "medtail-state/1"


@final
@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is, besides its tensors.

    Attributes:
        epochs_done: Whole epochs.
        best_epoch: Epoch that is kept, from 0; None before the first.
        best_map: Its tune mAP; None if it has none.
        best_f1: Its tune F1 after decoding; None if epochs are not compared by that.
        log: One row an epoch, as in `log.csv`.
        seconds: Wall-clock time spent in training, over all resumptions.
        sampler: The sampler's state.
        is_stopped: Whether early stopping ended it.
        architecture: The backbone's shape where the config alone does not say it, so that weights named in the
            config are fetched once, when the run begins.
    """

    epochs_done: int = 0
    best_epoch: int | None = None
    best_map: float | None = None
    log: tuple[Mapping[str, float | int | None], ...] = ()
    seconds: float = 0.0
    sampler: Mapping[str, Any] = field(default_factory=dict)
    is_stopped: bool = False
    best_f1: float | None = None
    architecture: Mapping[str, Any] | None = None

    def after_epoch(
        self,
        row: Mapping[str, float | int | None],
        *,
        tune_map: float | None,
        seconds: float,
        sampler: Mapping[str, Any],
        keep: Literal["best", "best_f1", "last"] = "best",
        tune_f1: float | None = None,
    ) -> Progress:
        """Return the progress after one more epoch; the earliest of equally good epochs stays the best.

        With `keep="best_f1"` epochs are compared by `tune_f1`; with `keep="last"` every epoch replaces the one before,
        whatever tune says of it.

        Example:
            >>> first = Progress().after_epoch({}, tune_map=0.5, seconds=1.0, sampler={})
            >>> first.after_epoch({}, tune_map=0.5, seconds=1.0, sampler={}).best_epoch
            0
            >>> Progress().after_epoch({}, tune_map=None, seconds=1.0, sampler={}).best_epoch
            0
        """
        value, best = (tune_f1, self.best_f1) if keep == "best_f1" else (tune_map, self.best_map)
        is_better = keep == "last" or self.best_epoch is None or (value is not None and (best is None or value > best))
        return replace(
            self,
            epochs_done=self.epochs_done + 1,
            best_epoch=self.epochs_done if is_better else self.best_epoch,
            best_map=tune_map if is_better else self.best_map,
            best_f1=tune_f1 if is_better else self.best_f1,
            log=(*self.log, row),
            seconds=self.seconds + seconds,
            sampler=sampler,
        )


def write_state(path: Path, *, tensors: Mapping[str, Tensor], progress: Progress) -> None:
    """Write the state atomically (see `runs.atomic_path` for what it raises)."""
    header = {"format": FORMAT, "progress": json.dumps(asdict(progress), allow_nan=False)}
    content = to_safetensors(tensors, metadata=header)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_state(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Read a state; no code in it is ever run.

    Raises:
        MedtailError: It is not a state of this format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise MedtailError(
                    f"{path}: format {header.get('format')!r} is unknown; expected {FORMAT!r}. Resume with the version"
                    " of medtail that began the run."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        values = json.loads(header["progress"])
        return tensors, Progress(**{**values, "log": tuple(values["log"])})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, MedtailError):
            raise
        raise MedtailError(
            f"{path}: is not a readable state ({error}). Train again into a new folder; only safetensors is read."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's moments under flat names `NUMBER.NAME`."""
    state: Mapping[int, Mapping[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
    }


def optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Turn flat names back into an optimizer's state."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    return state


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return tensors under `PREFIX/NAME`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
