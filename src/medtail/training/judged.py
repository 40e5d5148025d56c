"""From a finished run to its judgement and its report: predict the test fold, evaluate, write the page.

What is made stays in the run folder (`predictions_test.parquet`, `results/`), so that a report can be written again
without scoring again. The test fold is opened here and nowhere earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd

from medtail.config import config_to_dict
from medtail.errors import MedtailError
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.losses.build import LossConfig
from medtail.models.ensembles import read_ensemble_card
from medtail.pixels.decode import read_image
from medtail.reporting.report import write_report
from medtail.runs import read_json
from medtail.sampling.build import SamplerConfig
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import Predictions, read_predictions
from medtail.tables.results import Results, read_results
from medtail.training.config import TrainConfig, load_train_config
from medtail.training.predict import predict


@final
@dataclass(frozen=True)
class Judgement:
    """A run's predictions on one fold and what they are worth.

    Attributes:
        predictions: Scores and targets of the fold.
        results: Every number, with intervals.
        manifest: The table the images came from.
    """

    predictions: Predictions
    results: Results
    manifest: Manifest


def judge_run(
    run: Path, *, fold: str = "test", config: EvaluationConfig | None = None, quiet: bool = False
) -> Judgement:
    """Predict and evaluate one fold of a run's own manifest, or read what was made before.

    Args:
        run: A finished run folder.
        fold: The fold to judge.
        config: Bootstrap and tail rule; the defaults if None. Ignored where results exist already.
        quiet: Show no progress.

    Returns:
        Predictions, results and manifest. The first two are also in the run folder.

    Raises:
        MedtailError: The run is unfinished, its manifest is gone or changed, or it has no such fold.
    """
    settings = load_train_config(run / "config.yaml")
    manifest = read_manifest(settings.manifest, groups=settings.groups)
    known = read_json(run / "run.json").get("manifest_digest")
    if known is not None and known != manifest.digest:
        raise MedtailError(
            f"{settings.manifest}: has changed since the run was trained (digest {manifest.digest[:12]}, then"
            f" {str(known)[:12]}). Restore it, or score the new table with `medtail predict {run} MANIFEST`."
        )
    scored, judged = run / f"predictions_{fold}.parquet", run / "results" / f"{fold}.csv"
    if scored.exists():
        predictions = read_predictions(scored)
    else:
        predictions = predict(run, manifest, fold=fold, quiet=quiet)
        predictions.write(scored)
    if judged.exists():
        results = read_results(judged)
    else:
        results = evaluate(predictions, config=config or EvaluationConfig())
        results.write(judged)
    return Judgement(predictions, results, manifest)


def report_run(run: Path, out: Path, *, title: str | None = None, quiet: bool = False) -> Path:
    """Write the report of a run's test fold.

    Args:
        run: A finished run folder.
        out: The HTML file.
        title: Its title; the run's name if None.
        quiet: Show no progress.

    Returns:
        `out`.

    Raises:
        MedtailError: As `judge_run`.
    """
    judgement = judge_run(run, quiet=quiet)
    settings = load_train_config(run / "config.yaml")
    log = pd.read_csv(run / "log.csv") if (run / "log.csv").exists() else None
    if log is not None and "member" in log.columns:  # members took the same steps: the figure shows their mean
        log = log.drop(columns="member").groupby("epoch", as_index=False).mean()
    return write_report(
        out,
        predictions=judgement.predictions,
        results=judgement.results,
        title=title or f"Report of {run.name}",
        card=read_ensemble_card(run / "model").to_json(),
        config=config_to_dict(settings),
        manifest=judgement.manifest,
        read_image=read_image,
        log=log,
        methods=methods_of(settings),
    )


_LOSS_PAPERS = {
    "focal": "lin2017",
    "class_balanced": "cui2019",
    "logit_adjusted": "menon2021",
    "ldam": "cao2019",
    "asl": "ridnik2021",
}
_SAMPLER_PAPERS = {
    "class_balanced": "kang2020",
    "square_root": "kang2020",
    "progressive": "kang2020",
    "repeat_factor": "gupta2019",
}
_BACKBONE_PAPERS = {
    "efficientnet": "tan2019",
    "efficientnet_lite0": "tan2019",
    "vit": "dosovitskiy2021",
    "resnet": "he2016",
    "convnext": "liu2022",
}


def methods_of(config: TrainConfig) -> Sequence[str]:
    """Return the bibliography keys of exactly the methods a config uses."""
    loss: LossConfig = config.loss
    sampler: SamplerConfig = config.sampler
    backbone: Any = config.backbone
    found = (
        _BACKBONE_PAPERS.get(backbone.kind),
        _LOSS_PAPERS.get(loss.kind),
        _SAMPLER_PAPERS.get(sampler.kind),
        "zhang2018" if config.optimizer.mixup > 0 else None,
        "lakshminarayanan2017" if config.members > 1 else None,
        "saito2015",
    )
    return [key for key in found if key is not None]
