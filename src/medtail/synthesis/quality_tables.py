"""The tables of an inspection: as words for the page and the terminal, and as values for files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from medtail.reporting.section_page import PageTable
from medtail.synthesis.inspection import Inspection, json_of, shown_spaces
from medtail.synthesis.quality import ClassQuality
from medtail.synthesis.verdicts import Answer
from medtail.tables.labels import short_name

FORMAT = "medtail-quality/1"
ANSWERS: dict[str, dict[Answer, str]] = {
    "copying": {"good": "no sign", "fair": "near", "bad": "copies", "unknown": "not known"},
    "class": {"good": "comes out", "fair": "often", "bad": "no", "unknown": "not known"},
    "likeness": {"good": "alike", "fair": "less alike", "bad": "no", "unknown": "not known"},
    "variety": {"good": "varied", "fair": "less varied", "bad": "monotonous", "unknown": "not known"},
    "sketch": {"good": "kept", "fair": "in part", "bad": "ignored", "unknown": "none asked"},
}
"""Each answer in a word."""


def verdict_table(found: Inspection) -> PageTable:
    """Return what can be used, class by class."""
    rows = []
    for quality in found.classes:
        verdict = found.verdicts[quality.name]
        answers = tuple(ANSWERS[finding.question][finding.answer] for finding in verdict.findings)
        sizes = (f"{quality.train_images:,}", f"{quality.generated:,}")
        rows.append((short_name(quality.name), quality.group, *sizes, verdict.overall, *answers))
    columns = (
        "class",
        "group",
        "train\nimages",
        "generated",
        "verdict",
        "copying",
        "class",
        "likeness",
        "variety",
        "sketch",
    )
    note = "The numbers behind each word stand with the pictures and in the tables below."
    return PageTable("What can be used", columns, tuple(rows), note=note)


def copying_table(found: Inspection, space: str) -> PageTable:
    """Return what is known about copying in one space."""
    rows = []
    for quality in found.classes:
        part = quality.spaces[space]
        rows.append(
            (
                short_name(quality.name),
                f"{quality.train_images:,}",
                number(part.copy_test, digits=1, sign=True),
                number(part.unseen_test, digits=1, sign=True),
                number(part.copy_ratio),
                percent(part.copy_share),
            )
        )
    columns = ("class", "train\nimages", "C_T", "to tune\nimages", "copy ratio\nmedian", "below usual\n5 %")
    note = (
        "C_T: about 0 for new images, under −3 nearer to train images than new patients would be. To tune images: the"
        " same with images nobody learnt from; where it is as low, the images are smooth or typical, not copied. Copy"
        " ratio: distance to the nearest train image over that image's own neighbourhood."
    )
    return PageTable(f"Copying, in {_space(found, space)}", columns, tuple(rows), note=note)


def likeness_table(found: Inspection, space: str) -> PageTable:
    """Return how near the generated images are to the real ones in one space, and how varied."""
    rows = []
    for quality in found.classes:
        part = quality.spaces[space]
        place, cover = part.position, part.coverage
        rows.append(
            (
                short_name(quality.name),
                number(place.kid, digits=4),
                f"{number(place.floor, digits=4)}\n< {number(place.floor_high, digits=4)}",
                f"{number(place.ceiling, digits=4)}\n{short_name(place.nearest) if place.nearest else ''}",
                number(place.position),
                number(cover.density),
                number(cover.coverage),
                number(cover.precision),
                number(cover.recall),
                number(cover.diversity),
            )
        )
    columns = ("class", "KID", "floor", "ceiling", "position", "density", "coverage", "precision", "recall", "spread")
    reasons = sorted({q.spaces[space].fid_reason for q in found.classes if q.spaces[space].fid_reason})
    fid = [number(q.spaces[space].fid) for q in found.classes if not q.spaces[space].fid_reason]
    note = (
        "Floor: two halves of the real images (97.5 % of the halvings are below the lower number). Ceiling: the nearest"
        " other class. Position: 0 as one half to the other, 1 as that class. Spread: mean distance between generated"
        " images over that between real ones. FID: "
        + ("none; " + reasons[0] if reasons and not fid else ", ".join(fid) if fid else "none")
        + "."
    )
    return PageTable(f"Likeness and variety, in {_space(found, space)}", columns, tuple(rows), note=note)


def control_table(found: Inspection) -> PageTable:
    """Return class control, sketch adherence and structural similarity."""
    with_gap = any(quality.loss_gap is not None for quality in found.classes)
    rows = []
    for quality in found.classes:
        control, kept = quality.control, quality.adherence
        gap = _gap_cells(quality, shown=with_gap)
        by_scale = "" if kept is None else ", ".join(f"{scale}: {value:.2f}" for scale, value in kept.by_scale.items())
        rows.append(
            (
                short_name(quality.name),
                "–" if control is None else control.blind or percent(control.share),
                "–" if control is None else number(control.score),
                "–" if control is None else f"{percent(control.recall)}\n{control.patients} patients",
                "–" if kept is None else number(kept.asked) + (f"\n{by_scale}" if by_scale else ""),
                "–" if kept is None else number(kept.other),
                number(quality.similarity),
                number(quality.real_similarity),
                *gap,
            )
        )
    columns: tuple[str, ...] = (
        "class", "recognised", "mean\nscore", "real tune\nimages", "sketch F1", "another\nsketch", "MS-SSIM",
        "of real\nones",
    )  # fmt: skip
    if with_gap:
        columns = (*columns, "loss gap")
    note = (
        "Recognised: share the judge calls what they were made for, beside its recall on real tune images. Sketch F1:"
        " lines of the image and of the sketch it was asked to keep, within 2 pixels at 64. MS-SSIM: of pairs within"
        " the class; higher than of real ones is repetition."
        + (" Loss gap: how much worse the generator denoises tune than train images, ± a standard error." * with_gap)
    )
    return PageTable("Class, sketch, repetition", columns, tuple(rows), texts=(1,), note=note)


def _gap_cells(quality: ClassQuality, *, shown: bool) -> tuple[str, ...]:
    if not shown:
        return ()
    if quality.loss_gap is None or np.isnan(quality.loss_gap.gap):
        return ("–",)
    return (f"{number(quality.loss_gap.gap, sign=True)}\n± {number(quality.loss_gap.error)}",)


def image_table(found: Inspection) -> pd.DataFrame:
    """Return a row a generated image, for `quality.csv`."""
    pool = found.pool
    ids = pool.manifest.frame["image_id"].to_numpy(dtype=object)
    names = np.array(pool.manifest.labels.class_names, dtype=object)
    columns: dict[str, Any] = {"image_id": ids[pool.synthetic], "meta_class": names[pool.asked]}
    if found.judgement is not None:
        scores = found.judgement.scores[pool.synthetic]
        columns["meta_judge_ce"] = found.entropy
        columns["judge_score"] = scores[np.arange(len(scores)), pool.asked]
        columns["judge_highest"] = names[scores.argmax(axis=1)]
    first = shown_spaces(found.classes)[0]
    columns["meta_copy_ratio"] = found.nearest[first].ratio
    for space, nearest in found.nearest.items():
        columns[f"distance_{space}"] = nearest.distance
        columns[f"copy_ratio_{space}"] = nearest.ratio
        columns[f"nearest_{space}"] = np.where(nearest.row >= 0, ids[pool.train[nearest.row]], "")
    columns["sketch_f1"] = found.sketch_f1
    columns["sketch_density"] = found.sketches.density
    return pd.DataFrame(columns)


def quality_json(found: Inspection) -> dict[str, Any]:
    """Return everything measured, for `quality.json`."""
    classes = {}
    for quality in found.classes:
        verdict = found.verdicts[quality.name]
        classes[quality.name] = {
            **asdict(quality),
            "kid_position": {name: part.position.position for name, part in quality.spaces.items()},
            "verdict": verdict.overall,
            "words": verdict.words,
            "findings": {finding.question: finding.answer for finding in verdict.findings},
        }
    value = {
        "format": FORMAT,
        "generator_digest": found.pool.record.get("generator_digest"),
        "judge": None if found.judgement is None else found.judgement.name,
        "spaces": {name: features.space.to_json() for name, features in found.features.items()},
        "real": {"train": len(found.pool.train), "tune": len(found.pool.tune)},
        "classes": classes,
        "cautions": list(found.cautions),
    }
    result: dict[str, Any] = json_of(value)
    return result


def number(value: float, *, digits: int = 2, sign: bool = False) -> str:
    """Write a number, a dash where there is none.

    Example:
        >>> number(0.256), number(-3.21, digits=1, sign=True), number(float("nan"))
        ('0.26', '−3.2', '–')
    """
    if np.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """Write a share in percent, a dash where there is none.

    Example:
        >>> percent(0.256), percent(float("nan"))
        ('26 %', '–')
    """
    return "–" if np.isnan(value) else f"{100 * value:.0f} %"


def _space(found: Inspection, name: str) -> str:
    return str(found.features[name].space)
