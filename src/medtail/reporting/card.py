"""The data card and the small print: what was judged, how intervals were made, versions, limits of use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from medtail.config import dump_yaml
from medtail.reporting.facts import UNKNOWN, ClassFacts
from medtail.reporting.summary import FEW_PATIENTS, count
from medtail.tables.manifest import FOLDS, Manifest
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

SPREAD_COLUMNS = ("site", "device", "view", "sex", "laterality")
"""Manifest columns worth a table of images by fold, where present."""
MOST_VALUES = 12
UNASSESSED_SHARE = 0.1
"""Classes with a larger share of images not assessed are named."""


@final
@dataclass(frozen=True)
class SmallTable:
    """A table whose cells are text already.

    Attributes:
        title: What it shows.
        columns: Column names; the first holds row names.
        rows: Cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True)
class Block:
    """A folded listing, such as the configuration.

    Attributes:
        title: Its heading.
        summary: What the fold says.
        text: What is inside, as YAML.
    """

    title: str
    summary: str
    text: str


def data_facts(predictions: Predictions, classes: Sequence[ClassFacts], *, fold: str) -> list[tuple[str, str]]:
    """Describe the judged data in pairs of name and value."""
    labels = predictions.labels
    patients = f" of {count(len(set(predictions.patients)), 'patient')}" if predictions.has_patients else ""
    unknown = "" if predictions.has_patients else " (patients not known: every image counts as one)"
    facts = [
        ("judged", f"{count(len(predictions), 'image')}{patients}{unknown}"),
        ("fold", fold or "not named"),
        ("task", "one class an image" if labels.task == "multiclass" else "several classes an image"),
        ("classes", f"{labels.num_classes}"),
    ]
    if labels.groups:
        named = "; ".join(f"{group.name} ({len(group.classes)})" for group in labels.groups)
        facts.append(("exclusive groups", named))
    cells = predictions.targets.size
    missing = int(np.isnan(predictions.targets).sum())
    if cells:
        share = f"{100 * missing / cells:.1f} % of the judged labels"
        worst = [f for f in classes if len(predictions) - f.n_rows > UNASSESSED_SHARE * len(predictions)]
        listed = ", ".join(f"{f.name} ({100 * (1 - f.n_rows / len(predictions)):.0f} %)" for f in worst)
        facts.append(("not assessed", share + (f"; more than a tenth of: {listed}" if worst else "")))
    known = [f.train_images for f in classes if f.train_images > 0]
    if known:
        facts.append(
            ("imbalance in training", f"{max(known):,} : {min(known):,} positive images, commonest to rarest class")
        )
    never = [f.name for f in classes if f.train_images == 0]
    if never:
        facts.append(("never seen in training", ", ".join(never)))
    return facts


def data_tables(manifest: Manifest | None) -> list[SmallTable]:
    """Count images and patients by fold, and images by fold and site, device and the like."""
    if manifest is None:
        return []
    folds = manifest.folds.astype(str)
    present = [fold for fold in (*FOLDS, "") if (folds == fold).any()]
    rows = []
    for fold in present:
        chosen = folds == fold
        real = chosen & manifest.is_real
        patients = f"{len(set(manifest.patients[chosen])):,}" if manifest.has_patients else "–"
        rows.append(
            (fold or "no fold", f"{int(real.sum()):,}", f"{int((chosen & ~manifest.is_real).sum()):,}", patients)
        )
    tables = [
        SmallTable("Images and patients by fold", ("fold", "real images", "synthetic images", "patients"), tuple(rows))
    ]
    for column in SPREAD_COLUMNS:
        if column not in manifest.frame.columns:
            continue
        cells = manifest.frame[column]
        values = cells.astype(object).where(cells.notna(), "not stated").to_numpy(dtype=object).astype(str)
        names, amounts = np.unique(values, return_counts=True)
        if len(names) < 2:
            continue
        order = np.argsort(-amounts, kind="stable")[:MOST_VALUES]
        body = [
            (str(names[i]) or "unknown", *(f"{int(((values == names[i]) & (folds == f)).sum()):,}" for f in present))
            for i in order
        ]
        if len(names) > MOST_VALUES:
            kept = np.isin(values, names[order])
            body.append(
                (f"{len(names) - MOST_VALUES} more", *(f"{int((~kept & (folds == f)).sum()):,}" for f in present))
            )
        columns = (column, *(fold or "no fold" for fold in present))
        tables.append(SmallTable(f"Images by {column} and fold", columns, tuple(body)))
    return tables


def blocks(card: Mapping[str, Any] | None, config: Mapping[str, Any] | None) -> list[Block]:
    """Fold the model's card and the training configuration into YAML listings."""
    folded = []
    if card:
        # digests and versions have a list of their own; counts stand in the table of classes
        shown = {
            key: value
            for key, value in card.items()
            if key not in ("digests", "versions", "train_counts", "thresholds")
        }
        if shown:
            folded.append(Block("Model", "the model's card", dump_yaml(plain(shown))))
    if config:
        folded.append(
            Block("Training", "the resolved configuration: run it again to repeat this", dump_yaml(plain(config)))
        )
    return folded


def plain(value: Any) -> Any:
    """Return JSON-like values only: what YAML can say plainly, the rest as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def flatten(value: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Walk a nested mapping as dotted names and text values.

    Example:
        >>> list(flatten({"digests": {"model": "ab"}, "seed": 0}))
        [('digests.model', 'ab'), ('seed', '0')]
    """
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flatten(item, prefix=f"{prefix}{key}.")
        elif isinstance(item, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, item)) or "none"
        elif item is not None:
            yield f"{prefix}{key}", str(item)


def digests_and_versions(
    predictions: Predictions, header: Mapping[str, Any], card: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """List every digest and version known, nearest to the results first, each name once."""
    found: dict[str, str] = {}
    for kind in ("digests", "versions"):
        for source in (header.get(kind), (card or {}).get(kind), predictions.digests if kind == "digests" else None):
            if isinstance(source, Mapping):
                for name, value in flatten(source):
                    found.setdefault(f"{name} (SHA-256)" if kind == "digests" else name, value)
    return list(found.items())


def limits(classes: Sequence[ClassFacts], predictions: Predictions, *, fold: str, many_sites: bool | None) -> list[str]:
    """Say what these numbers must not be used for, the general limits and those of this table."""
    said = [
        "Research use only. The model is no medical device, and nobody has shown that using it helps a patient.",
        "The numbers hold for images like these: the same sites, scanners, selection of patients and way of labelling. "
        "AP, precision and calibration change with prevalence, which in a collected set is rarely that of a clinic.",
        "Labels are taken as true. Where they come from reports or one reader, part of the errors may be theirs.",
        "An interval covers the chance in which patients were judged. It does not cover training again with another "
        "seed, another split, or a change of scanner.",
        "Classes were compared with chance, not with a reader, and not corrected for looking at many classes.",
    ]
    few = [f.name for f in classes if 0 < f.n_pos_patients < FEW_PATIENTS]
    if few:
        said.append(
            f"{len(few)} of {count(len(classes), 'class', 'classes')} have fewer than {FEW_PATIENTS} positive "
            f"{'patients' if predictions.has_patients else 'images'} here: their intervals are likely too short, and a "
            "difference between two models on them should not be believed without more data."
        )
    if many_sites is False:
        said.append("All images come from one site: nothing is known about another.")
    if any(f.train_images == UNKNOWN for f in classes):
        said.append(
            "How often the classes were seen in training is not known, so rare and common rest on the judged images."
        )
    if not predictions.has_patients:
        said.append("Patients are not known: several images of one patient would make the intervals too short.")
    if fold != "test":
        said.append(
            f"The judged fold is {fold!r}, not a held-out test fold." if fold else "The judged fold is not named."
        )
    return said


def tail_rule(header: Mapping[str, Any], classes: Sequence[ClassFacts]) -> str:
    """Say in words what head, medium and tail mean here."""
    tail = header.get("tail")
    if isinstance(tail, Mapping) and tail.get("description"):
        return f"Groups by the real images of the train fold: {tail['description']}."
    if any(facts.tail_group for facts in classes):
        return "Groups as given in the results; the rule is not recorded."
    return "No groups: how often each class was seen in training is not known."


def interval_note(header: Mapping[str, Any]) -> str:
    """Say in a few words what stands in the brackets; "" without intervals."""
    made = _bootstrap(header)
    return f"brackets hold {_percent(made)} intervals over {made.get('unit', 'patient')}s" if made else ""


def threshold_note(header: Mapping[str, Any], predictions: Predictions) -> str:
    """Say how decisions were made, to follow the words "the decisions"."""
    thresholds = header.get("thresholds")
    source = thresholds.get("source") if isinstance(thresholds, Mapping) else None
    source = source or ("fixed 0.5" if predictions.thresholds is None else "tune")
    words = {
        "tune": "at thresholds chosen on the tune fold",
        "fixed 0.5": "at the fixed threshold 0.5",
        "given": "at the thresholds given",
    }.get(str(source), f"at thresholds from {source}")
    return words + ("; inside an exclusive group the highest score is called" if predictions.labels.groups else "")


def interval_words(header: Mapping[str, Any], predictions: Predictions) -> list[str]:
    """Explain the intervals to somebody who wants to judge them."""
    made = _bootstrap(header)
    if not made:
        return ["No intervals were computed: the values describe these images only."]
    unit = made.get("unit", "patient")
    resamples = int(made["resamples"])
    drawn = (
        f"{len(set(predictions.patients)):,} {unit}s were drawn with replacement {resamples:,} times"
        if made.get("scheme", "multinomial") == "multinomial"
        else f"{len(set(predictions.patients)):,} {unit}s were given random exponential weights {resamples:,} times"
    )
    whole = (
        f"{drawn}, each metric was computed in each resample, and the bracket holds the middle {_percent(made)} of the "
        f"values (percentile interval, seed {made.get('seed', 'not recorded')})."
    )
    if made.get("interval_method") == "bca":
        whole += " Its ends are then corrected for bias and skewness (BCa); figures below the tables use percentiles."
    if made.get("strata"):
        whole += " Drawn inside strata of each patient's rarest finding: how many patients have one is taken as fixed."
    why = (
        "Images of one patient resemble each other, so whole patients are drawn; drawing single images would make the "
        "brackets too short."
        if unit == "patient"
        else "Patients are not known, so single images were drawn: too short brackets if patients have several images."
    )
    rest = (
        "Means over classes are taken inside each resample, over the classes that it defines. A proportion observed as "
        "exactly 0 or 1 has its exact one-sided bound for the number of its patients instead. Chance for AP is its "
        "expected value under a random order, which lies above the prevalence when positives are few. Resampling adds "
        "noise that a calibration error counts as error, so an ECE may lie below its own bracket."
    )
    return [whole, why, rest]


def _bootstrap(header: Mapping[str, Any]) -> Mapping[str, Any]:
    made = header.get("bootstrap")
    return made if isinstance(made, Mapping) and made.get("resamples") else {}


def _percent(made: Mapping[str, Any]) -> str:
    return f"{100 * float(made.get('interval', 0.95)):g} %"


def own_methods(header: Mapping[str, Any], results: Results) -> list[str]:
    """Return the bibliography keys of the methods the evaluation itself used."""
    found = []
    made = _bootstrap(header)
    if made:
        found.append("rubin1981" if made.get("scheme") == "bayesian" else "efron1979")
        if made.get("interval_method") == "bca":
            found.append("efron1987")
        rows = results.frame
        unanimous = rows["metric"].isin(("precision", "recall", "specificity", "accuracy")) & rows["value"].isin(
            (0.0, 1.0)
        )
        if bool((unanimous & rows["low"].notna() & (rows["low"] < rows["high"])).any()):
            found.append("hanley1983")
    for metric, key in (("ap", "saito2015"), ("ece", "naeini2015")):
        if bool((results.frame["metric"] == metric).any()):
            found.append(key)
    tail = header.get("tail")
    rule = tail.get("rule") if isinstance(tail, Mapping) else None
    found += {"prevalence": ["lin2025"], "count": ["holste2024"]}.get(str(rule), [])
    thresholds = header.get("thresholds")
    if isinstance(thresholds, Mapping) and thresholds.get("source") == "tune":
        found.append("lipton2014")
    return found
