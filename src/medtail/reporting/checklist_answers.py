"""What a run can answer to the items of a reporting guideline, topic by topic, and where it cannot: said as a gap.

Each answer is read off the run's own tables, config and results. A run knows what was done to the images and what came
out; who the patients were and why, only its authors know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medtail.reporting.card import interval_words, threshold_note
from medtail.reporting.checklists import Answer, State
from medtail.reporting.run_facts import RunFacts
from medtail.reporting.summary import count
from medtail.tables.manifest import FOLDS


def answers(facts: RunFacts) -> dict[str, Answer]:
    """Return what a run says to each topic; topics it knows nothing of are left out.

    Args:
        facts: Of the run.
    """
    found = {topic: answer(facts) for topic, answer in TOPICS.items()}
    return {topic: answer for topic, answer in found.items() if answer is not None}


def _told(state: State, text: str, missing: str = "") -> Answer:
    return Answer(state, text + (f" Missing: {missing}." if missing else ""))


def words_of(config: Mapping[str, Any] | None, *, skip: tuple[str, ...] = ("kind",)) -> str:
    """Write one component's config in a line: its kind, and what is set.

    Example:
        >>> words_of({"kind": "focal", "gamma": 2.0, "alpha": None, "link": "sigmoid"})
        'focal (gamma 2.0, link sigmoid)'
    """
    if not config:
        return "none"
    kind = str(config.get("kind", ""))
    if kind == "none":
        return kind
    told = []
    for key, value in config.items():
        if key in skip or value is None or value is False:
            continue
        if isinstance(value, Mapping):
            value = words_of(value)
        elif isinstance(value, list | tuple):
            value = "/".join(map(str, value))
        told.append(key.replace("_", " ") if value is True else f"{key.replace('_', ' ')} {value}")
    inside = ", ".join(told)
    return f"{kind} ({inside})" if kind and inside else kind or inside or "none"


def pixel_words(pixels: Mapping[str, Any]) -> str:
    """Write how images are prepared in a line; settings of a region are left out where none is cut out.

    Example:
        >>> pixel_words({"size_px": 64, "channels": 1, "crop": "none", "margin": 0.15})
        'size px 64, channels 1'
    """
    regional = ("crop", "margin", "square_roi", "missing_roi") if pixels.get("crop", "none") == "none" else ()
    return words_of(pixels, skip=("kind", *regional))


def _sentence(text: str) -> str:
    """Begin with a capital and leave the rest, names among it, as it is."""
    return text[:1].upper() + text[1:]


def _kind(facts: RunFacts) -> Answer:
    backbone = (facts.config.get("backbone") or {}).get("kind", "a neural network")
    task = "one class an image" if facts.labels.task == "multiclass" else "several classes an image"
    classes = count(facts.labels.num_classes, "class", "classes")
    text = f"Deep learning, image classification ({backbone}; {classes}, {task}); development"
    text += " and internal evaluation." if facts.results is not None else ", not evaluated yet."
    return _told("partly", text, "population and outcome in words")


def _purpose(facts: RunFacts) -> Answer:
    return _told("partly", facts.note or "Research.", "clinical context, intended users, place in care")


def _data(facts: RunFacts) -> Answer | None:
    if facts.manifest is None:
        return None
    table = facts.manifest
    patients = f" of {count(len(set(table.patients)), 'patient')}" if table.has_patients else ", patients not known"
    text = f"Table {facts.manifest_name!r} (SHA-256 {table.digest[:16]}): {count(len(table), 'image')}{patients}."
    synthetic = int((~table.is_real).sum())
    text += f" {count(synthetic, 'image')} are synthetic, in the train fold only." if synthetic else ""
    return _told("partly", text, "where and when the images were collected, why these, whom they represent")


def _column(facts: RunFacts, name: str) -> list[str]:
    if facts.manifest is None or name not in facts.manifest.frame.columns:
        return []
    return sorted(set(facts.manifest.frame[name].dropna().astype(str)) - {""})


def _sites(facts: RunFacts) -> Answer | None:
    sites = _column(facts, "site")
    return _told("partly", f"{count(len(sites), 'site')} by the table.", "setting and place") if sites else None


def _acquisition(facts: RunFacts) -> Answer | None:
    devices, views = _column(facts, "device"), _column(facts, "view")
    said = [count(len(devices), "device")] if devices else []
    said += [count(len(views), "view")] if views else []
    return _told("partly", f"{', '.join(said)} named in the table.", "acquisition protocol") if said else None


def _preparation(facts: RunFacts) -> Answer | None:
    pixels = facts.config.get("pixels")
    if not pixels:
        return None
    band = words_of(facts.config.get("band"))
    filtered = f"; frequency band {band}" if band != "none" else ""
    what = "cut to the region of interest" if pixels.get("crop") == "roi" else "taken whole"
    return _told(
        "filled",
        f"Images are {what} and letter-boxed without stretching: {pixel_words(pixels)}{filtered}. Varied in training:"
        f" {words_of(facts.config.get('augment'))}.",
    )


def _subset(facts: RunFacts) -> Answer | None:
    if not facts.config:
        return None
    chosen = facts.config.get("classes")
    classes = f"classes {', '.join(chosen)}" if chosen else "all classes of the table"
    crop = (facts.config.get("pixels") or {}).get("crop")
    return _told("filled", _sentence(f"{classes}; {'regions of interest' if crop == 'roi' else 'whole images'}."))


def _outcome(facts: RunFacts) -> Answer:
    groups = "; ".join(f"{group.name}: one of {len(group.classes)}" for group in facts.labels.groups)
    text = f"Labels of the table for {count(facts.labels.num_classes, 'class', 'classes')}"
    return _told("partly", text + (f" ({groups})." if groups else "."), "who assessed them, how, by what standard")


def _predictors(facts: RunFacts) -> Answer:
    studied = "study" in str((facts.config.get("second") or {}).get("kind", ""))
    what = "all images of a study" if studied else "one image"
    return _told("filled", f"The pixels of {what}; no clinical variable enters.")


def _size(facts: RunFacts) -> Answer | None:
    if facts.counts is None:
        return None
    rarest = min(zip(facts.counts.patients, facts.counts.class_names, strict=True))
    text = f"As many as there are; the rarest class ({rarest[1]}) has {count(rarest[0], 'patient')} in training."
    return _told("partly", text, "a calculation of the size")


def _missing(facts: RunFacts) -> Answer | None:
    if facts.manifest is None:
        return None
    share = float(np.isnan(facts.manifest.targets).mean()) if len(facts.manifest) else 0.0
    return _told(
        "filled",
        f"{100 * share:.1f} % of the labels were not assessed. Such a label enters neither loss nor metric; none is"
        " filled in.",
    )


def _partition(facts: RunFacts) -> Answer | None:
    if facts.manifest is None:
        return None
    folds = facts.manifest.folds.astype(str)
    told = ", ".join(f"{fold} {int((folds == fold).sum()):,}" for fold in FOLDS if (folds == fold).any())
    return _told(
        "partly",
        f"Images by fold: {told}. Weights are learnt on train; what is chosen (thresholds, calibration, an epoch) is"
        " chosen on tune; test is scored only to be judged.",
        "how the folds were drawn",
    )


def _disjoint(facts: RunFacts) -> Answer | None:
    if facts.manifest is None:
        return None
    if not facts.manifest.has_patients:
        return _told("partly", "Images.", "patients are not known, so one patient may be in two folds")
    table = facts.manifest.frame[["patient_id", "fold"]].drop_duplicates()
    table = table[(table["fold"] != "") & (table["patient_id"] != "")]
    shared = int((table.groupby("patient_id")["fold"].nunique() > 1).sum())
    if shared:
        return _told("gap", f"{count(shared, 'patient')} in more than one fold.")
    return _told("filled", "Patients: none is in two folds, checked in the table.")


def _training(facts: RunFacts) -> Answer | None:
    if not facts.config:
        return None
    said = [f"{key} {words_of(facts.config[key])}" for key in ("objective", "loss", "sampler") if facts.config.get(key)]
    said.append(f"AdamW ({words_of(facts.config.get('optimizer'))})")
    said += _further(facts)
    said.append(f"seed {facts.config.get('seed', 0)}")
    return _told("filled", _sentence("; ".join(said) + "."))


def _further(facts: RunFacts) -> list[str]:
    """Name the parts of a training that most runs do not have."""
    return [f"{key.replace('_', ' ')} {words_of(facts.config[key])}" for key in ("mix", "tail_mix", "second")
            if facts.config.get(key)]  # fmt: skip


def _imbalance(facts: RunFacts) -> Answer | None:
    if not facts.config:
        return None
    said = [f"{key} {words_of(facts.config[key])}" for key in ("objective", "loss", "sampler") if facts.config.get(key)]
    said += _further(facts)
    return _told("partly", _sentence(f"{'; '.join(said)}. {_calibration(facts).text}"), "why these")


def _calibration(facts: RunFacts) -> Answer:
    made = facts.calibration
    if made is None:
        return _told("filled", "The model was not recalibrated; its scores are not claimed to be probabilities.")
    return _told(
        "filled",
        f"Scores were recalibrated on {count(made.num_rows, 'tune image')} of {count(made.num_patients, 'patient')}"
        f" (method {made.method}); the weights were not touched.",
    )


def _model(facts: RunFacts) -> Answer | None:
    if not facts.config:
        return None
    pixels = facts.config.get("pixels") or {}
    side = f"{pixels.get('channels')} × {pixels.get('size_px')} × {pixels.get('size_px')} input"
    text = f"Backbone {words_of(facts.config.get('backbone'))}; head {words_of(facts.config.get('head'))}; {side}."
    return _told("filled", text)


def _software(facts: RunFacts) -> Answer | None:
    told = ", ".join(f"{name} {version}" for name, version in facts.versions.items() if name != "platform")
    return _told("filled", f"{told}.") if told else None


def _initialisation(facts: RunFacts) -> Answer | None:
    backbone = facts.config.get("backbone")
    if not backbone:
        return None
    weights = backbone.get("weights")
    start = f"pretrained weights {weights!r}" if weights else "random weights"
    return _told("filled", f"Backbone from {start}; head at random; seed {facts.config.get('seed', 0)}.")


def _selection(facts: RunFacts) -> Answer | None:
    keep = (facts.config.get("optimizer") or {}).get("keep")
    if keep is None:
        return None
    which = {"last": "the last epoch", "best": "the epoch of the best tune mAP", "best_f1": "the best tune macro F1"}
    text = f"Weights of {which.get(str(keep), str(keep))}; thresholds chosen on tune."
    return _told("partly", text, "how the settings themselves were chosen")


def _ensemble(facts: RunFacts) -> Answer:
    members = facts.members
    text = (
        "One network." if members == 1 else f"{members} networks that differ in their seed; their scores are averaged."
    )
    return _told("filled", text + (" Each image is averaged with its mirror image." if facts.mirrored else ""))


def _output(facts: RunFacts) -> Answer:
    kind = "a calibrated probability" if facts.calibration is not None else "a score in [0, 1]"
    decided = (
        f" Calls are made {threshold_note(facts.results.header, facts.predictions)}."
        if facts.results is not None and facts.predictions is not None
        else (" Thresholds are chosen on tune." if facts.thresholds else " No thresholds were chosen.")
    )
    return _told("filled", f"For every class {kind}.{decided}")


def _metrics(facts: RunFacts) -> Answer | None:
    if facts.results is None:
        return None
    known = ("ap", "auroc", "f1", "recall", "precision", "specificity", "ece", "brier")
    used = [name for name in known if len(facts.results.rows(name))]
    return _told("filled", f"{', '.join(used)} a class and as means over head, medium and tail classes.")


def _uncertainty(facts: RunFacts) -> Answer | None:
    if facts.results is None or facts.predictions is None:
        return None
    words = interval_words(facts.results.header, facts.predictions)
    return _told("filled" if len(words) > 1 else "gap", words[0])


def _performance(facts: RunFacts) -> Answer | None:
    if facts.results is None:
        return None
    subgroups = _subgroups(facts)
    missing = "" if subgroups is not None else "subgroups (`medtail evaluate --by sex,site`)"
    return _told("filled" if not missing else "partly", "Above, with intervals over patients.", missing)


def _diagnostic(facts: RunFacts) -> Answer | None:
    return None if facts.results is None else _told("filled", "Recall, precision and their intervals stand above.")


def _subgroups(facts: RunFacts) -> Answer | None:
    if facts.results is None:
        return None
    found = sorted({name.partition("=")[0] for name in facts.results.frame["subgroup"] if name})
    return _told("filled", f"Judged by {', '.join(found)}; in the results table.") if found else None


def _clusters(facts: RunFacts) -> Answer | None:
    if facts.results is None or not any("site=" in name for name in facts.results.frame["subgroup"]):
        return None
    return _told("filled", "Judged by site; in the results table.")


def _internal(facts: RunFacts) -> Answer | None:
    if facts.results is None or facts.predictions is None:
        return None
    fold = facts.results.header.get("fold") or "not named"
    return _told("filled", f"{count(len(facts.predictions), 'image')} of the fold {fold!r} of the same table.")


def _difference(facts: RunFacts) -> Answer | None:
    if facts.results is None or facts.manifest is None:
        return None
    return _told("partly", "Both are folds of one table.", "a comparison in words")


def _flow(facts: RunFacts) -> Answer | None:
    return (
        None if facts.manifest is None else _told("partly", "Images and patients by fold: above.", "who was excluded")
    )


def _characteristics(facts: RunFacts) -> Answer | None:
    known = [name for name in ("age", "sex", "site", "device", "view", "size_mm") if _column(facts, name)]
    if not known:
        return None
    return _told("partly", f"The table has {', '.join(known)}; by fold above where they differ.", "clinical features")


def _counts(facts: RunFacts) -> Answer | None:
    return None if facts.counts is None else _told("filled", "Positive patients of every class: above.")


def _specification(facts: RunFacts) -> Answer:
    return _told("filled", f"Weights (SHA-256 {facts.digest[:16]}) and all settings are beside this card.")


def _limits(facts: RunFacts) -> Answer | None:
    return _told("partly", "Above, what the numbers themselves tell.", "the authors' own") if facts.limits else None


def _usage(facts: RunFacts) -> Answer:
    return _told("partly", "One image at a time, no interaction; commands above.", "what users must know")


def _code(facts: RunFacts) -> Answer:
    version = facts.versions.get("medtail", "")
    return _told("partly", f"Made with medtail {version} (Apache-2.0).", "where weights and data can be had")


TOPICS: Mapping[str, Callable[[RunFacts], Answer | None]] = {
    "kind": _kind, "purpose": _purpose, "data": _data, "sites": _sites, "acquisition": _acquisition,
    "preparation": _preparation, "subset": _subset, "outcome": _outcome, "predictors": _predictors, "size": _size,
    "missing": _missing, "partition": _partition, "disjoint": _disjoint, "training": _training, "model": _model,
    "software": _software, "initialisation": _initialisation, "selection": _selection, "ensemble": _ensemble,
    "imbalance": _imbalance, "calibration": _calibration, "output": _output, "metrics": _metrics,
    "uncertainty": _uncertainty, "performance": _performance, "diagnostic": _diagnostic, "subgroups": _subgroups,
    "clusters": _clusters, "internal": _internal, "difference": _difference, "flow": _flow,
    "characteristics": _characteristics, "counts": _counts, "specification": _specification, "limits": _limits,
    "usage": _usage, "code": _code,
}  # fmt: skip
