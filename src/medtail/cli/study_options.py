"""Options that every verb of `medtail study` which trains has in common: where its cells run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medtail.errors import UsageError

if TYPE_CHECKING:
    from medtail.studies.ray_cells import Cluster

WorkersOption = Annotated[int, typer.Option(help="Processes to spread the trainings over.", min=1)]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Spread them over a Ray cluster: `auto`, HOST:PORT of its head, or `local`.",
    ),
]  # fmt: skip
CellCpusOption = Annotated[int | None, typer.Option(help="With --ray: processors a training reserves.", min=1)]
CellMemoryOption = Annotated[float | None, typer.Option(help="With --ray: memory a training reserves, GB.", min=0.1)]


def cluster_of(ray: str | None, *, cpus: int | None, memory_gb: float | None, workers: int) -> Cluster | None:
    """Return the cluster that was asked for; None for this machine.

    Args:
        ray: What `--ray` was given.
        cpus: `--cell-cpus`.
        memory_gb: `--cell-memory-gb`.
        workers: `--workers`.

    Raises:
        UsageError: Options that exclude each other.
    """
    if ray is None:
        for option, value in (("--cell-cpus", cpus), ("--cell-memory-gb", memory_gb)):
            if value is not None:
                raise UsageError(f"{option} {value:g}: is what a training reserves on a cluster; give --ray, too.")
        return None
    if workers != 1:
        raise UsageError(
            f"--workers {workers}: are processes of this machine; with --ray as many run as the cluster has room for"
            " (--cell-cpus, --cell-memory-gb)."
        )
    from medtail.studies.ray_cells import Cluster

    return Cluster(address=ray, cpus=cpus, memory_gb=memory_gb)
