"""The resumable state of a training stage, in one file that is never unpickled.

Tensors (weights, their average, the optimizer's moments) as safetensors, everything else as JSON in its header: one
rename puts the whole state in place, so a kill leaves the state before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medtail.errors import MedtailError
from medtail.models.checkpoint import to_safetensors
from medtail.runs import atomic_path

FORMAT = "medtail-synthesis-state/1"
HEADER = "medtail"
LogRow = Mapping[str, float | int | str | None]


@final
@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage is, besides its tensors.

    Attributes:
        steps_done: Whole steps.
        data: Digest of the images, labels and sketches it learns from.
        log: Rows of `log.csv` so far.
        seconds: Wall-clock time spent, over all resumptions.
    """

    steps_done: int = 0
    data: str = ""
    log: tuple[LogRow, ...] = ()
    seconds: float = 0.0


def write_state(path: Path, *, tensors: Mapping[str, Tensor], progress: Progress) -> None:
    """Write the state atomically (see `runs.atomic_path` for what it raises)."""
    write_tensors(path, tensors, {"format": FORMAT, "progress": asdict(progress)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically; equal content gives equal bytes.

    Args:
        path: The file.
        tensors: By name.
        header: Plain values, one of them `format`. They go into one entry of the file's metadata, whose order of
            entries would be random.
    """
    content = to_safetensors(tensors, metadata={HEADER: json.dumps(header, sort_keys=True, allow_nan=False)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path, *, form: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file and its header; no code in it is ever run.

    Args:
        path: The file.
        form: What its header must call its format.

    Raises:
        MedtailError: It is missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if not isinstance(header, dict) or header.get("format") != form:
                found = header.get("format") if isinstance(header, dict) else header
                raise MedtailError(
                    f"{path}: format {found!r} is unknown; expected {form!r}. Use the version of medtail that wrote it,"
                    " or train again."
                )
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise MedtailError(
            f"{path}: is not a readable safetensors file ({error}). Other formats can run code and are never opened;"
            " restore it, or train again."
        ) from error


def read_state(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Read a state.

    Raises:
        MedtailError: It is not a state of this format.
    """
    tensors, header = read_tensors(path, form=FORMAT)
    try:
        values = header["progress"]
        return tensors, Progress(**{**values, "log": tuple(values["log"])})
    except (KeyError, TypeError, ValueError) as error:
        raise MedtailError(f"{path}: its header is damaged ({error}); train again into a new folder.") from error


def moment_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's moments under flat names `NUMBER.NAME`."""
    state: Mapping[int, Mapping[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put moments from `moment_tensors` back into an optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def joined(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of several groups under `GROUP/NAME`.

    Example:
        >>> list(joined(model={"w": torch.zeros(1)}, average={"w": torch.zeros(1)}))
        ['model/w', 'average/w']
    """
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """Return one group's tensors, without its name before them."""
    start = f"{group}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
