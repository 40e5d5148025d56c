"""From a finished run to its judgement and its report: predict the test fold, evaluate, write the page.

What is made stays in the run folder (`predictions_test.parquet`, `results/`), so that a report can be written again
without scoring again. The test fold is opened here and nowhere earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pandas as pd

from medtail.config import config_to_dict
from medtail.errors import MedtailError
from medtail.judging.calibration_record import CALIBRATION, read_calibration
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.losses.build import ClassBalancedConfig, LogitAdjustedConfig, LossConfig
from medtail.losses.objectives import (
    BranchesConfig,
    ObjectiveConfig,
    SyntusObjectiveConfig,
    TasksObjectiveConfig,
    uses_loss,
)
from medtail.models.backbones import branch_configs
from medtail.models.class_attention import ClassAttentionConfig
from medtail.models.csasn import CsasnConfig
from medtail.models.ensembles import read_ensemble_card
from medtail.models.heads import HeadConfig, SyntusHeadConfig
from medtail.pixels.decode import read_image
from medtail.reporting.report import write_report
from medtail.runs import read_json
from medtail.sampling.build import SamplerConfig, TwoBranchesSamplerConfig, TwoStreamSamplerConfig
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import Predictions, read_predictions
from medtail.tables.results import Results, read_results
from medtail.training.config import TrainConfig, load_train_config
from medtail.training.policy_replay import policy_record
from medtail.training.predict import predict
from medtail.training.second import LogitAdjustmentConfig, RetrainConfig, SecondConfig, StudyFusionConfig


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
    run: Path,
    *,
    fold: str = "test",
    config: EvaluationConfig | None = None,
    allow_batch_dependent: bool = False,
    quiet: bool = False,
) -> Judgement:
    """Predict and evaluate one fold of a run's own manifest, or read what was made before.

    Args:
        run: A finished run folder.
        fold: The fold to judge.
        config: Bootstrap and tail rule; the defaults if None. Ignored where results exist already.
        allow_batch_dependent: See `predict.predict`.
        quiet: Show no progress.

    Returns:
        Predictions, results and manifest. The first two are also in the run folder.

    Raises:
        MedtailError: The run is unfinished, its manifest is gone or changed, it has no such fold, or the model was
            calibrated after the fold was scored.
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
        predictions = _as_calibrated_now(run, read_predictions(scored), fold=fold)
    else:
        predictions = predict(run, manifest, fold=fold, allow_batch_dependent=allow_batch_dependent, quiet=quiet)
        predictions.write(scored)
    if judged.exists():
        results = read_results(judged)
        if results.header.get("digests", {}).get("calibration") != predictions.digests.get("calibration"):
            raise MedtailError(
                f"{judged}: was judged before the model's calibration changed. Remove it; it is made again."
            )
    else:
        results = evaluate(predictions, config=config or EvaluationConfig())
        results.write(judged)
        if fold == "test":
            from medtail.training.model_card import try_model_card  # which asks this module for the papers

            try_model_card(run)
    return Judgement(predictions, results, manifest)


def _as_calibrated_now(run: Path, predictions: Predictions, *, fold: str) -> Predictions:
    """Return stored scores as the model's calibration of today makes them; refuse those made under another."""
    stored = run / "model" / CALIBRATION
    calibration = read_calibration(stored) if stored.exists() else None
    if predictions.digests.get("calibration") == (None if calibration is None else calibration.digest):
        return predictions
    if fold == "tune" and calibration is not None:  # kept raw: it is what calibrations are fitted on
        return calibration.calibrate(predictions)
    raise MedtailError(
        f"{run / predictions.name}: was scored before the model's calibration changed. Remove it; it is made again."
    )


def report_run(
    run: Path,
    out: Path,
    *,
    title: str | None = None,
    retargeted: Results | None = None,
    explained: Path | None = None,
    allow_batch_dependent: bool = False,
    quiet: bool = False,
) -> Path:
    """Write the report of a run's test fold, with sets from its tune fold.

    Args:
        run: A finished run folder.
        out: The HTML file.
        title: Its title; the run's name if None.
        retargeted: Re-targeted results of the test fold (`medtail retarget`), for a section of their own.
        explained: What `medtail explain` wrote of this run, for a section of its own.
        allow_batch_dependent: See `predict.predict`.
        quiet: Show no progress.

    Returns:
        `out`.

    Raises:
        MedtailError: As `judge_run`, `retargeted` is of other scores, or `explained` of another model.
    """
    judgement = judge_run(run, allow_batch_dependent=allow_batch_dependent, quiet=quiet)
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
        methods=[*methods_of(settings), *_calibration_papers(run)],
        tune=_tune_rows(run),
        retargeted=retargeted,
        policy=policy_record(run),
        explained=explained,
    )


def _tune_rows(run: Path) -> Predictions | None:
    """Return the stored tune scores as the model's calibration of today makes them; None where there are none."""
    stored = run / "predictions_tune.parquet"
    if not stored.exists():
        return None
    tune = _as_calibrated_now(run, read_predictions(stored), fold="tune")
    return tune if len(tune) else None


def _calibration_papers(run: Path) -> list[str]:
    """Return the bibliography keys of the maps in a run's calibration."""
    stored = run / "model" / CALIBRATION
    if not stored.exists():
        return []
    kinds = {part.kind for part in read_calibration(stored).maps}
    return [key for kind, key in _MAP_PAPERS.items() if kind in kinds]


_LOSS_PAPERS = {
    "focal": "lin2017",
    "class_balanced": "cui2019",
    "logit_adjusted": "menon2021",
    "ldam": "cao2019",
    "asl": "ridnik2021",
    "distribution_balanced": "wu2020",
    "ral": "park2023",
    "equalization": "tan2020",
    "db_light": "wu2020",
}
_OBJECTIVE_PAPERS = {
    "two_way": "kobayashi2023",
    "zlpr": "su2022",
    "contrast": "vandenoord2018",
    "partial_labels": "cole2021",
    "influence_balanced": "park2021",
    "sop": "liu2022c",
    "skill_diverse": "zhang2022",
    "syntus": "zhang2026",
}
_HEAD_PAPERS = {
    "syntus": "zhang2026",
    "class_attention": "liu2021",
    "csra": "zhu2021",
    "ml_decoder": "ridnik2023",
    "label_graph": "chen2019b",
    "text_query": "ridnik2023",
}
_MIX_PAPERS = {"mixup": "zhang2018", "cutmix": "yun2019", "remix": "chou2020", "balanced_mixup": "galdran2021"}

_SAMPLER_PAPERS = {
    "class_balanced": "kang2020",
    "square_root": "mahajan2018",
    "progressive": "kang2020",
    "repeat_factor": "gupta2019",
    "deferred": "cao2019",
    "two_streams": "zhang2026",
    "policy": "chen2025",
    "replay": "chen2025",
}
_MAP_PAPERS = {
    "platt": "platt1999",
    "temperature": "guo2017",
    "softmax": "guo2017",
    "beta": "kull2017",
    "isotonic": "zadrozny2002",
}
_BACKBONE_PAPERS = {
    "efficientnet": "tan2019",
    "efficientnet_lite0": "tan2019",
    "vit": "dosovitskiy2021",
    "resnet": "he2016",
    "convnext": "liu2022",
}


def _head_papers(head: HeadConfig) -> Sequence[str]:
    match head:
        case CsasnConfig():
            return ("li2025", "hu2018" if head.se else "", "woo2018" if head.cbam != "none" else "", "misra2019")
        case SyntusHeadConfig():
            parts = ("liu2021" if head.attention else "", "hou2022" if head.batch_mixer else "")
            return (_HEAD_PAPERS[head.kind], *parts)
        case ClassAttentionConfig():
            return (_HEAD_PAPERS[head.kind], "zhang2026" if head.conditioning or head.mixing else "")
        case _:
            return (_HEAD_PAPERS.get(head.kind, ""),)


def _loss_papers(loss: LossConfig) -> Sequence[str]:
    match loss:
        case ClassBalancedConfig():
            later = "cao2019" if loss.reweight_from > 0 else ""
            return (_LOSS_PAPERS[loss.kind], "lin2017" if loss.gamma > 0 else "", later)
        case LogitAdjustedConfig():
            return (_LOSS_PAPERS[loss.kind], "ren2020" if loss.link == "softmax" and loss.tau == 1.0 else "")
        case _:
            return (_LOSS_PAPERS.get(loss.kind, ""),)


def _objective_papers(objective: ObjectiveConfig) -> Sequence[str]:
    match objective:
        case BranchesConfig():
            return ("zhou2020b" if objective.schedule == "parabolic" else "guo2021",)
        case TasksObjectiveConfig():
            terms = {"lin2017": objective.lambda1, "long2015": objective.lambda3, "chen2019": objective.lambda4}
            used = [key for key, share in terms.items() if share > 0]
            weights = ("cui2019" if objective.lambda1 > 0 and objective.beta > 0 else "",)
            return ("li2025", *used, *weights, "kendall2018" if objective.uncertainty else "")
        case SyntusObjectiveConfig():
            return (_OBJECTIVE_PAPERS[objective.kind], "wu2020" if objective.balanced else "")
        case _:
            return (_OBJECTIVE_PAPERS.get(objective.kind, ""),)


def _sampler_papers(sampler: SamplerConfig) -> Sequence[str]:
    match sampler:
        case TwoBranchesSamplerConfig():
            return ("guo2021" if sampler.second == "balanced" else "zhou2020b",)
        case TwoStreamSamplerConfig():
            return (_SAMPLER_PAPERS[sampler.kind], "deming1940" if sampler.rake else "")
        case _:
            return (_SAMPLER_PAPERS.get(sampler.kind, ""),)


def _second_papers(second: SecondConfig | None) -> Sequence[str]:
    if second is None:
        return ()
    if isinstance(second, LogitAdjustmentConfig):
        return ("menon2021",)
    if isinstance(second, StudyFusionConfig):
        decoder = "ridnik2023" if second.fusion.decoder.kind == "ml_decoder" else ""
        return ("kim2023", decoder, *_sampler_papers(second.sampler),
                *(() if second.loss is None else _loss_papers(second.loss)))  # fmt: skip
    if not isinstance(second, RetrainConfig):
        return ("kang2020",)
    further = (*_sampler_papers(second.sampler), *(() if second.loss is None else _loss_papers(second.loss)))
    return ("cao2019" if second.learn == "all" else "kang2020", *further)


def methods_of(config: TrainConfig) -> Sequence[str]:
    """Return the bibliography keys of exactly the methods a config uses."""
    found = (
        *(_BACKBONE_PAPERS.get(branch.kind, "") for branch in branch_configs(config.backbone)),
        *_head_papers(config.head),
        *(_loss_papers(config.loss) if uses_loss(config.objective) else ()),
        *_objective_papers(config.objective),
        *_sampler_papers(config.sampler),
        "" if config.mix is None else _MIX_PAPERS[config.mix.kind],
        "" if config.tail_mix is None else "zhang2026",
        *_second_papers(config.second),
        "lakshminarayanan2017" if config.members > 1 else "",
        "saito2015",
    )
    return [key for key in dict.fromkeys(found) if key]
