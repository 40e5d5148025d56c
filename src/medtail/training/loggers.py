"""Further places for a training's numbers: TensorBoard, MLflow, Weights & Biases, each only when asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, assert_never

from medtail.errors import MedtailError
from medtail.training.config import LoggingConfig


def build_loggers(config: LoggingConfig, run: Path) -> list[Any] | bool:
    """Make the loggers a config names.

    Args:
        config: Which, and how.
        run: The run folder; local files go into it.

    Returns:
        Lightning loggers, or False for none.

    Raises:
        MedtailError: A package is not installed; the command that installs it is named.
    """
    loggers = [_build(name, config, run) for name in dict.fromkeys(config.to)]
    return loggers or False


def _build(name: Any, config: LoggingConfig, run: Path) -> Any:
    from lightning.pytorch import loggers

    make: Callable[[], Any]
    match name:
        case "tensorboard":
            make = lambda: loggers.TensorBoardLogger(save_dir=run, name="tensorboard", version="")  # noqa: E731
        case "mlflow":
            uri = config.uri if config.uri is not None else f"sqlite:///{run.resolve() / 'mlflow.db'}"
            make = lambda: loggers.MLFlowLogger(experiment_name=config.project, run_name=run.name, tracking_uri=uri)  # noqa: E731
        case "wandb":
            make = lambda: loggers.WandbLogger(  # noqa: E731
                project=config.project, name=run.name, save_dir=run, offline=config.offline
            )
        case _:
            assert_never(name)
    try:
        return make()
    except ModuleNotFoundError as error:
        raise MedtailError(
            f"logging.to: found {name!r}, but its package is not installed; `pip install 'medtail[{name}]'`, or"
            " leave it out: log.csv is always written."
        ) from error


def close_loggers(loggers: Iterable[Any]) -> None:
    """End W&B's run, which would otherwise take in the next member's numbers too."""
    for logger in loggers:
        if type(logger).__name__ == "WandbLogger":
            logger.experiment.finish()
