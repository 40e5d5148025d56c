"""medtail: long-tailed, multi-label medical image diagnosis, honestly judged.

A table of labelled images becomes a model, the model a table of predictions, the predictions results whose every
number about a rare class is honest, and the results a report. Public names are loaded when first used, so
`import medtail` is instant and never loads torch by itself.

Example:
    >>> import medtail
    >>> medtail.MedtailError.__name__
    'MedtailError'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medtail.challenges.medmnist import score_medmnist
    from medtail.challenges.thyro_lmd import score_thyro_lmd
    from medtail.errors import MedtailError, UsageError
    from medtail.exchange.dicom_export import export_reports
    from medtail.exchange.dicom_sr import findings_report
    from medtail.exchange.evidence import read_evidence
    from medtail.exchange.findings import findings_by, findings_of
    from medtail.exchange.onnx import export_onnx
    from medtail.exchange.onnx_engine import OnnxDiagnoser
    from medtail.explain.maps import heat_maps
    from medtail.judging.abstention import judge_abstention
    from medtail.judging.calibrating import calibrate_table
    from medtail.judging.calibration import CalibrationConfig, fit_calibration
    from medtail.judging.calibration_record import CalibrationMap, read_calibration
    from medtail.judging.comparison import Comparison, ComparisonConfig, compare
    from medtail.judging.conformal import ConformalConfig, ConformalSets, fit_conformal, split_tune
    from medtail.judging.conformal_coverage import judge_sets
    from medtail.judging.evaluation import EvaluationConfig, evaluate
    from medtail.judging.fairness_words import fairness_summary
    from medtail.judging.fold_comparison import compare_folds
    from medtail.judging.generalised import judge_generalised
    from medtail.judging.net_benefit import decision_curve
    from medtail.judging.prevalence import estimate_prevalence, read_prevalence
    from medtail.judging.reliability import reliability_points
    from medtail.judging.retarget import retarget, retarget_predictions
    from medtail.judging.score_table import score_table
    from medtail.judging.seeds import judge_seeds
    from medtail.judging.subgroups import columns_from_manifest
    from medtail.judging.summary import summary_text
    from medtail.judging.thresholds import fit_thresholds
    from medtail.judging.unknown import judge_unknown
    from medtail.judging.verification import verify_results
    from medtail.lexicons.descriptors import Reading
    from medtail.lexicons.grading import grade
    from medtail.lexicons.parsing import parse_reading
    from medtail.lexicons.probabilities import descriptor_probabilities
    from medtail.lexicons.propagation import level_law
    from medtail.pixels.decode import read_image
    from medtail.quickstart import quickstart
    from medtail.reporting.report import write_report
    from medtail.sources.importing import import_layout
    from medtail.sources.phantom import PhantomConfig
    from medtail.sources.phantom_breast_pool import write_breast_pool
    from medtail.sources.phantom_writing import phantom_manifest
    from medtail.studies.ablation import ablation_study, run_study
    from medtail.studies.cv import cross_validation_study
    from medtail.studies.genaug import run_genaug
    from medtail.studies.genaug_config import load_genaug
    from medtail.studies.ladder import load_ladder, run_ladder
    from medtail.studies.learning_curve import load_curve, run_curve
    from medtail.studies.ray_cells import Cluster
    from medtail.studies.search import run_search
    from medtail.studies.search_config import load_search
    from medtail.studies.systems import run_systems
    from medtail.studies.systems_config import load_systems
    from medtail.studies.systems_judged import judge_systems
    from medtail.synthesis.config import load_synthesis_config
    from medtail.synthesis.fit import train_generator
    from medtail.synthesis.folder import load_generator
    from medtail.synthesis.pool import make_pool
    from medtail.tables.audit import audit_manifest
    from medtail.tables.folds import cross_validation_folds, hold_out_test
    from medtail.tables.labels import LabelSpace
    from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
    from medtail.tables.outer_folds import outer_folds
    from medtail.tables.predictions import Predictions, read_predictions
    from medtail.tables.results import Results, read_results
    from medtail.tables.splits import split_manifest
    from medtail.training.config import load_train_config
    from medtail.training.ensembles import train
    from medtail.training.judged import judge_run, report_run
    from medtail.training.model_card import write_model_card
    from medtail.training.policy_rounds import policy_budget
    from medtail.training.predict import predict
    from medtail.zeroshot.priors import match_prior
    from medtail.zeroshot.prompts import load_phrases
    from medtail.zeroshot.scores import predict_zero_shot

_HOME = {
    "CalibrationConfig": "judging.calibration",
    "CalibrationMap": "judging.calibration_record",
    "Cluster": "studies.ray_cells",
    "Comparison": "judging.comparison",
    "ComparisonConfig": "judging.comparison",
    "ConformalConfig": "judging.conformal",
    "ConformalSets": "judging.conformal",
    "EvaluationConfig": "judging.evaluation",
    "LabelSpace": "tables.labels",
    "Manifest": "tables.manifest",
    "MedtailError": "errors",
    "OnnxDiagnoser": "exchange.onnx_engine",
    "PhantomConfig": "sources.phantom",
    "Predictions": "tables.predictions",
    "Reading": "lexicons.descriptors",
    "Results": "tables.results",
    "UsageError": "errors",
    "ablation_study": "studies.ablation",
    "audit_manifest": "tables.audit",
    "calibrate_table": "judging.calibrating",
    "columns_from_manifest": "judging.subgroups",
    "compare": "judging.comparison",
    "compare_folds": "judging.fold_comparison",
    "cross_validation_folds": "tables.folds",
    "cross_validation_study": "studies.cv",
    "decision_curve": "judging.net_benefit",
    "descriptor_probabilities": "lexicons.probabilities",
    "estimate_prevalence": "judging.prevalence",
    "evaluate": "judging.evaluation",
    "export_onnx": "exchange.onnx",
    "export_reports": "exchange.dicom_export",
    "fairness_summary": "judging.fairness_words",
    "findings_by": "exchange.findings",
    "findings_of": "exchange.findings",
    "findings_report": "exchange.dicom_sr",
    "fit_calibration": "judging.calibration",
    "fit_conformal": "judging.conformal",
    "fit_thresholds": "judging.thresholds",
    "grade": "lexicons.grading",
    "heat_maps": "explain.maps",
    "hold_out_test": "tables.folds",
    "import_layout": "sources.importing",
    "judge_abstention": "judging.abstention",
    "judge_generalised": "judging.generalised",
    "judge_run": "training.judged",
    "judge_seeds": "judging.seeds",
    "judge_sets": "judging.conformal_coverage",
    "judge_systems": "studies.systems_judged",
    "judge_unknown": "judging.unknown",
    "level_law": "lexicons.propagation",
    "load_curve": "studies.learning_curve",
    "load_genaug": "studies.genaug_config",
    "load_generator": "synthesis.folder",
    "load_ladder": "studies.ladder",
    "load_phrases": "zeroshot.prompts",
    "load_search": "studies.search_config",
    "load_synthesis_config": "synthesis.config",
    "load_systems": "studies.systems_config",
    "load_train_config": "training.config",
    "make_pool": "synthesis.pool",
    "manifest_from_frame": "tables.manifest",
    "match_prior": "zeroshot.priors",
    "outer_folds": "tables.outer_folds",
    "parse_reading": "lexicons.parsing",
    "phantom_manifest": "sources.phantom_writing",
    "policy_budget": "training.policy_rounds",
    "predict": "training.predict",
    "predict_zero_shot": "zeroshot.scores",
    "quickstart": "quickstart",
    "read_calibration": "judging.calibration_record",
    "read_evidence": "exchange.evidence",
    "read_image": "pixels.decode",
    "read_manifest": "tables.manifest",
    "read_predictions": "tables.predictions",
    "read_prevalence": "judging.prevalence",
    "read_results": "tables.results",
    "reliability_points": "judging.reliability",
    "report_run": "training.judged",
    "retarget": "judging.retarget",
    "retarget_predictions": "judging.retarget",
    "run_curve": "studies.learning_curve",
    "run_genaug": "studies.genaug",
    "run_ladder": "studies.ladder",
    "run_search": "studies.search",
    "run_study": "studies.ablation",
    "run_systems": "studies.systems",
    "score_medmnist": "challenges.medmnist",
    "score_table": "judging.score_table",
    "score_thyro_lmd": "challenges.thyro_lmd",
    "split_manifest": "tables.splits",
    "split_tune": "judging.conformal",
    "summary_text": "judging.summary",
    "train": "training.ensembles",
    "train_generator": "synthesis.fit",
    "verify_results": "judging.verification",
    "write_breast_pool": "sources.phantom_breast_pool",
    "write_model_card": "training.model_card",
    "write_report": "reporting.report",
}

__all__ = [
    "CalibrationConfig",
    "CalibrationMap",
    "Cluster",
    "Comparison",
    "ComparisonConfig",
    "ConformalConfig",
    "ConformalSets",
    "EvaluationConfig",
    "LabelSpace",
    "Manifest",
    "MedtailError",
    "OnnxDiagnoser",
    "PhantomConfig",
    "Predictions",
    "Reading",
    "Results",
    "UsageError",
    "ablation_study",
    "audit_manifest",
    "calibrate_table",
    "columns_from_manifest",
    "compare",
    "compare_folds",
    "cross_validation_folds",
    "cross_validation_study",
    "decision_curve",
    "descriptor_probabilities",
    "estimate_prevalence",
    "evaluate",
    "export_onnx",
    "export_reports",
    "fairness_summary",
    "findings_by",
    "findings_of",
    "findings_report",
    "fit_calibration",
    "fit_conformal",
    "fit_thresholds",
    "grade",
    "heat_maps",
    "hold_out_test",
    "import_layout",
    "judge_abstention",
    "judge_generalised",
    "judge_run",
    "judge_seeds",
    "judge_sets",
    "judge_systems",
    "judge_unknown",
    "level_law",
    "load_curve",
    "load_genaug",
    "load_generator",
    "load_ladder",
    "load_phrases",
    "load_search",
    "load_synthesis_config",
    "load_systems",
    "load_train_config",
    "make_pool",
    "manifest_from_frame",
    "match_prior",
    "outer_folds",
    "parse_reading",
    "phantom_manifest",
    "policy_budget",
    "predict",
    "predict_zero_shot",
    "quickstart",
    "read_calibration",
    "read_evidence",
    "read_image",
    "read_manifest",
    "read_predictions",
    "read_prevalence",
    "read_results",
    "reliability_points",
    "report_run",
    "retarget",
    "retarget_predictions",
    "run_curve",
    "run_genaug",
    "run_ladder",
    "run_search",
    "run_study",
    "run_systems",
    "score_medmnist",
    "score_table",
    "score_thyro_lmd",
    "split_manifest",
    "split_tune",
    "summary_text",
    "train",
    "train_generator",
    "verify_results",
    "write_breast_pool",
    "write_model_card",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medtail' has no attribute {name!r}")
    value = getattr(import_module(f"medtail.{_HOME[name]}"), name)
    # the module of the same name (medtail.quickstart) must not shadow the function once it is imported
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
