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
    from medtail.errors import MedtailError, UsageError
    from medtail.judging.evaluation import EvaluationConfig, evaluate
    from medtail.judging.summary import summary_text
    from medtail.pixels.decode import read_image
    from medtail.quickstart import quickstart
    from medtail.reporting.report import write_report
    from medtail.sources.importing import import_layout
    from medtail.tables.audit import audit_manifest
    from medtail.tables.labels import LabelSpace
    from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
    from medtail.tables.predictions import Predictions, read_predictions
    from medtail.tables.results import Results, read_results
    from medtail.tables.splits import kfold_manifests, split_manifest
    from medtail.training.config import load_train_config
    from medtail.training.ensembles import train
    from medtail.training.judged import judge_run, report_run
    from medtail.training.predict import predict

_HOME = {
    "EvaluationConfig": "judging.evaluation",
    "LabelSpace": "tables.labels",
    "Manifest": "tables.manifest",
    "MedtailError": "errors",
    "Predictions": "tables.predictions",
    "Results": "tables.results",
    "UsageError": "errors",
    "audit_manifest": "tables.audit",
    "evaluate": "judging.evaluation",
    "import_layout": "sources.importing",
    "judge_run": "training.judged",
    "kfold_manifests": "tables.splits",
    "load_train_config": "training.config",
    "manifest_from_frame": "tables.manifest",
    "predict": "training.predict",
    "quickstart": "quickstart",
    "read_image": "pixels.decode",
    "read_manifest": "tables.manifest",
    "read_predictions": "tables.predictions",
    "read_results": "tables.results",
    "report_run": "training.judged",
    "split_manifest": "tables.splits",
    "summary_text": "judging.summary",
    "train": "training.ensembles",
    "write_report": "reporting.report",
}

__all__ = [
    "EvaluationConfig",
    "LabelSpace",
    "Manifest",
    "MedtailError",
    "Predictions",
    "Results",
    "UsageError",
    "audit_manifest",
    "evaluate",
    "import_layout",
    "judge_run",
    "kfold_manifests",
    "load_train_config",
    "manifest_from_frame",
    "predict",
    "quickstart",
    "read_image",
    "read_manifest",
    "read_predictions",
    "read_results",
    "report_run",
    "split_manifest",
    "summary_text",
    "train",
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
