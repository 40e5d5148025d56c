"""The run writes its model card: `RUN/model/README.md`, from what stands in its folder.

When the training ends, and again when the test fold is judged or the model calibrated. A card that somebody has
edited is never overwritten; the new text then goes beside it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from medtail.config import config_to_dict, read_yaml
from medtail.errors import MedtailError, UsageError
from medtail.judging.calibration_record import CALIBRATION, read_calibration
from medtail.losses.objectives import uses_loss
from medtail.models.checkpoint import ModelCard
from medtail.models.ensembles import read_ensemble_card
from medtail.reporting.model_card import model_card
from medtail.reporting.run_facts import RunFacts
from medtail.runs import digest_bytes, read_json, write_text
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import Predictions, read_predictions
from medtail.tables.results import Results, read_results
from medtail.training.config import load_train_config
from medtail.training.judged import methods_of

NAME: Final = "README.md"
"""What model hubs show first."""
EDITED: Final = "README.new.md"
_SEAL = re.compile(r"\n<!-- written by medtail, SHA-256 of the text above: ([0-9a-f]{64}) -->\n$")

log = logging.getLogger(__name__)


def write_model_card(run: Path | str) -> Path:
    """Write a run's model card.

    Args:
        run: A finished run folder.

    Returns:
        `model/README.md`, or `model/README.new.md` where somebody has edited the former.

    Raises:
        MedtailError: The run is unfinished or damaged, or the file cannot be written.

    Example:
        >>> write_model_card("runs/first")  # doctest: +SKIP
        PosixPath('runs/first/model/README.md')
    """
    run = Path(run)
    text = model_card(gather_facts(run))
    target = run / "model" / NAME
    if target.exists() and not _is_ours(target.read_text(encoding="utf-8")):
        target = target.with_name(EDITED)
        log.warning("%s was edited and is left as it is; the new card is %s.", run / "model" / NAME, target.name)
    write_text(target, f"{text}\n<!-- written by medtail, SHA-256 of the text above: {_digest(text)} -->\n")
    return target


def try_model_card(run: Path | str) -> None:
    """Write a run's model card; what stands in the way is logged, because a run must not fail over its card."""
    try:
        write_model_card(run)
    except Exception as error:  # after hours of training, whatever it is; the model is safe on disk already
        log.warning("The model card was not written (%s): %s", type(error).__name__, error)


def _digest(text: str) -> str:
    return digest_bytes(text.encode())


def _is_ours(text: str) -> bool:
    seal = _SEAL.search(text)
    return seal is not None and seal[1] == _digest(text[: seal.start()])


def gather_facts(run: Path | str) -> RunFacts:
    """Gather what a run's folder knows of its model; what is missing or no longer fits is left out.

    Args:
        run: A finished run folder.

    Returns:
        The facts. Scores and results count only if they are of these weights and this calibration, the table of images
        only if it has not changed.

    Raises:
        MedtailError: There is no model, or a file is damaged.
    """
    run = Path(run)
    card = read_ensemble_card(run / "model")
    config, table, methods = _config(run)
    manifest = _manifest(run, table, config, card)
    stored = run / "model" / CALIBRATION
    calibration = read_calibration(stored) if stored.exists() else None
    digest = None if calibration is None else calibration.digest
    predictions, results = _judged(run, weights=card.digests["weights"], calibration=digest)
    chosen = calibration.thresholds if calibration is not None else None
    return RunFacts(
        name=run.resolve().name,
        labels=card.labels,
        digest=card.digests["weights"],
        note=card.note,
        counts=card.train_counts,
        thresholds=card.thresholds if calibration is None else (None if chosen is None else chosen.values),
        versions=card.versions,
        config=config,
        training=card.training,
        members=int(config.get("members") or 1),
        mirrored=bool(config.get("test_time_flip")),
        manifest=manifest,
        manifest_name=table.name,
        calibration=calibration,
        predictions=predictions,
        results=results,
        methods=methods,
    )


def _config(run: Path) -> tuple[dict[str, Any], Path, tuple[str, ...]]:
    """Return the resolved config, the table of images, and the papers of the methods."""
    stored = run / "config.yaml"
    try:
        settings = load_train_config(stored)
    except UsageError:  # of another version: its values still say what was done
        values = dict(read_yaml(stored))
        return _without_places(values), run / str(values.get("manifest", "")), ()
    values = _without_places(config_to_dict(settings))
    if not uses_loss(settings.objective):
        values.pop("loss")  # it stood in the config and did nothing
    return values, Path(settings.manifest), tuple(methods_of(settings))


def _without_places(value: Any) -> Any:
    """Cut absolute paths to their last part: a card is shown to people who need not know this machine."""
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(item) for item in value]
    if isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        return PureWindowsPath(value).name
    return value


def _manifest(run: Path, table: Path, config: Mapping[str, Any], card: ModelCard) -> Manifest | None:
    try:
        manifest = read_manifest(table, groups=config.get("groups"))
        known = read_json(run / "run.json").get("manifest_digest")
        return card.check_manifest(manifest) if known in (None, manifest.digest) else None
    except MedtailError:  # the table has moved or changed: the card says that it is not at hand
        return None


def _judged(run: Path, *, weights: str, calibration: str | None) -> tuple[Predictions | None, Results | None]:
    scored, judged = run / "predictions_test.parquet", run / "results" / "test.csv"
    if not (scored.exists() and judged.exists()):
        return None, None
    predictions, results = read_predictions(scored), read_results(judged)
    for digests in (predictions.digests, results.header.get("digests") or {}):
        if digests.get("model") != weights or digests.get("calibration") != calibration:
            return None, None
    return predictions, results
