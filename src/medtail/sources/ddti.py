"""DDTI: the thyroid ultrasound images of Pedraza et al. (2015), one XML file a case, in Thyro-LMD's twenty labels.

A case has `N.xml` with its descriptors and a polygon an image, and images `N_1.jpg`, `N_2.jpg`, …. Descriptors are a
case's, one radiologist's opinion; an empty element was not assessed; shape never was. Many frames carry a burned-in
TI-RADS category, which would give the answer away: every row has the box around its polygons as region of interest, to
be used with `pixels.crop: roi`, and images without a polygon are left out, counted aloud.
"""

from __future__ import annotations

import json
import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.runs import atomic_path, new_folder
from medtail.sources.gathering import IMAGE_ENDINGS, age_years, dataset_folder, relative, sub_files
from medtail.sources.thyro_lmd import EXCLUSIVE, GROUPS, LABELS
from medtail.tables.manifest import Manifest, manifest_from_frame

LOG = logging.getLogger(__name__)
EXPECTED = "a file N.xml a case, and its images N_1.jpg, N_2.jpg, …, in the same folder or below"
AROUND = 0.20
"""Tissue kept around the polygons, as a share of their longer side."""
UNDETERMINED = "undetermined"
# spelling without case, spaces and hyphens → label
COMPOSITION = {
    "cystic": "comp_cystic",
    "spongiform": "comp_spongiform",
    "spongiformappareance": "comp_spongiform",
    "spongiformappearance": "comp_spongiform",
    "predominantlycystic": "comp_mixed",
    "predominantlysolid": "comp_mixed",
    "mixed": "comp_mixed",
    "solid": "comp_solid",
    "dense": UNDETERMINED,  # no word of any lexicon
}
ECHOGENICITY = {
    f"{echo}echogen{vowel}city": label
    for vowel in ("i", "e")
    for echo, label in (
        ("hyper", "echo_hyper"), ("iso", "echo_iso"), ("hypo", "echo_hypo"), ("markedhypo", "echo_very_hypo"),
    )
} | {
    "anechoic": "echo_anechoic",
    "hyperechoic": "echo_hyper",
    "isoechoic": "echo_iso",
    "hypoechoic": "echo_hypo",
    "markedhypoechoic": "echo_very_hypo",
    "markedlyhypoechoic": "echo_very_hypo",
}  # fmt: skip
MARGINS = {
    "welldefined": "margin_smooth",
    "welldefinedsmooth": "margin_smooth",
    "illdefined": "margin_ill_defined",
    "microlobulated": "margin_irregular",
    "macrolobulated": "margin_irregular",
    "lobulated": "margin_irregular",
    "irregular": "margin_irregular",
    "spiculated": "margin_irregular",
    "extrathyroidalextension": "margin_ete",
}
CALCIFICATIONS = {
    "non": "foci_none",
    "none": "foci_none",
    "macrocalcification": "foci_macro",
    "macrocalcifications": "foci_macro",
    "microcalcification": "foci_punctate",
    "microcalcifications": "foci_punctate",
    "rimcalcification": "foci_rim",
    "rimcalcifications": "foci_rim",
}
WORDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "composition": ("composition", COMPOSITION),
    "echogenicity": ("echogenicity", ECHOGENICITY),
    "margins": ("margin", MARGINS),
    "calcifications": ("foci", CALCIFICATIONS),
}
"""Element → (group, squashed spelling → label)."""
CARRIED = {"tirads": "meta_tirads", "reportbacaf": "meta_reportbacaf", "reporteco": "meta_reporteco",
           **{element: f"meta_{element}" for element in WORDS}}  # fmt: skip
SEXES = {"": "", "f": "F", "m": "M", "female": "F", "male": "M"}
Polygon = list[tuple[float, float]]


@final
@dataclass(frozen=True)
class _Case:
    file: Path
    number: str
    texts: Mapping[str, str]
    labels: Mapping[str, float]
    undetermined: Sequence[str]
    age: float
    sex: str
    polygons: Mapping[str, list[Polygon]]


def import_ddti(path: Path | str, *, masks_out: Path | None = None) -> Manifest:
    """Read DDTI.

    Spellings as they circulate are understood whatever their case, spaces and hyphens (`ill- defined`,
    `wellDefinedSmooth`, `hypoechogenecity`, `spongiform appareance`). Predominantly solid and predominantly cystic are
    `comp_mixed`, as in the ACR lexicon; micro-, macrolobulated and spiculated are `margin_irregular`; `dense` names no
    composition and counts as undetermined; calcifications `non` are `foci_none`, although nobody asked for comet tails.

    Args:
        path: The folder with XML files and images.
        masks_out: New folder to draw the polygons into, as PNG masks; none are written if None.

    Returns:
        A row an image with a polygon: `patient_id` is the case, the region of interest its polygons with a fifth of
        their size around; TI-RADS category, report and the descriptors' own words in `meta_…`.

    Raises:
        MedtailError: Broken XML, unknown spellings (with the nearest known one), contradictory descriptors, two files
            of one case, missing images, polygons that are none; all mistakes at once.

    References:
        pedraza2015.
    """
    folder = dataset_folder(path, layout="ddti", expected=EXPECTED)
    files = sub_files(folder, endings=(".xml",))
    if not files:
        raise MedtailError(f"ddti: no .xml file in {str(folder)!r} or below; expected the layout: {EXPECTED}.")
    problems = Problems(f"ddti: {folder}")
    images: dict[str, Path] = {}
    for image in sub_files(folder, endings=IMAGE_ENDINGS):
        images.setdefault(image.stem, image)
    cases = [case for file in files if (case := _read_case(file, problems, relative(file, folder))) is not None]
    _check_numbers(cases, problems)
    rows, masks = _rows(cases, images, folder, problems)
    problems.raise_if_any()
    if not rows:
        raise MedtailError(f"ddti: no image in {str(folder)!r} has a polygon; expected <svg> elements that hold some.")
    _tell_left_out(cases, images, rows)
    frame = pd.DataFrame(rows)
    if masks_out is not None:
        frame["mask_path"] = _write_masks(masks, masks_out, root=folder)
    return manifest_from_frame(frame, name=str(folder), root=folder, groups=EXCLUSIVE).with_classes(LABELS.class_names)


def _read_case(file: Path, problems: Problems, name: str) -> _Case | None:
    try:
        content = file.read_bytes()
        if b"<!ENTITY" in content.replace(b"\0", b""):  # in UTF-16 a zero byte stands beside every letter
            raise ValueError("it declares entities, which DDTI never does")
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, OSError, ValueError) as error:
        problems.add(f"{name}: cannot be read as XML ({error}). Download it again.")
        return None
    texts = {element: _text(root, element) for element in ("number", "age", "sex", *CARRIED)}
    number = texts["number"] or file.stem
    if texts["number"] and texts["number"] != file.stem:
        problems.add(f"{name}: <number> is {texts['number']!r}; expected {file.stem!r}, as the file is called.")
    labels, undetermined = _labels(texts, problems, name)
    age = age_years(texts["age"]) if texts["age"] else float("nan")
    if age is None:
        problems.add(f"{name}, <age>: found {texts['age']!r}; expected years, or empty.")
    if texts["sex"].lower() not in SEXES:
        problems.add(f"{name}, <sex>: found {texts['sex']!r}; expected F, M or empty.")
    polygons: dict[str, list[Polygon]] = {}
    for mark in root.iter("mark"):
        image = _text(mark, "image")
        if not image:
            problems.add(f"{name}, <mark>: names no <image>; expected its number.")
            continue
        polygons.setdefault(image, []).extend(_polygons(_text(mark, "svg"), problems, f"{name}, image {image}, <svg>"))
    sex = SEXES.get(texts["sex"].lower(), "")
    return _Case(file, number, texts, labels, undetermined, float("nan") if age is None else age, sex, polygons)


def _text(parent: ElementTree.Element, element: str) -> str:
    return (parent.findtext(element) or "").strip()


def _labels(texts: Mapping[str, str], problems: Problems, name: str) -> tuple[dict[str, float], list[str]]:
    """Return label → 1, 0 or NaN, and the groups whose word decides nothing."""
    values = dict.fromkeys(LABELS.class_names, float("nan"))
    undetermined = []
    for element, (group, words) in WORDS.items():
        parts = [part.strip() for part in re.split(r"[,;/&]| and ", texts[element]) if part.strip()]
        found = [words.get(_squashed(part)) for part in parts]
        for part, label in zip(parts, found, strict=True):
            if label is None:
                near = did_you_mean(_squashed(part), words)
                problems.add(
                    f"{name}, <{element}>: found {part!r}{near or f'; known: {listing(list(words), limit=12)}.'}"
                )
        known = list(dict.fromkeys(label for label in found if label is not None))
        if UNDETERMINED in known:
            undetermined.append(group)
            known = []
        contradicts = len(known) > 1 and (group != "foci" or "foci_none" in known)
        if contradicts:
            problems.add(f"{name}, <{element}>: found {texts[element]!r}, that is {' and '.join(known)}, which"
                         " contradict each other; expected one.")  # fmt: skip
        if known and None not in found and not contradicts:
            values |= {label: float(label in known) for label in GROUPS[group]}
    return values, undetermined


def _squashed(text: str) -> str:
    """Return a spelling without case, spaces and hyphens: `ill- defined` and `illDefined` are one."""
    return re.sub(r"[\s\-_]", "", text).lower()


def _polygons(text: str, problems: Problems, place: str) -> list[Polygon]:
    """Read the regions of one image."""
    if not text:
        return []
    expected = 'a list such as [{"points": [{"x": 1, "y": 2}, …]}]'
    try:
        regions = json.loads(text)
        drawn = [[(float(point["x"]), float(point["y"])) for point in region["points"]] for region in regions]
    except (ValueError, TypeError, KeyError) as error:
        problems.add(f"{place}: cannot be read ({type(error).__name__}: {error}); expected {expected}.")
        return []
    kept: list[Polygon] = []
    for polygon in drawn:
        if len(set(polygon)) < 3 or not np.isfinite(polygon).all():
            problems.add(f"{place}: a region of {len(set(polygon))} points; expected three or more finite ones.")
        else:
            kept.append(polygon)
    return kept


def _check_numbers(cases: Sequence[_Case], problems: Problems) -> None:
    files: dict[str, list[Path]] = {}
    for case in cases:
        files.setdefault(case.number, []).append(case.file)
    for number, same in files.items():
        if len(same) > 1:
            problems.add(f"case {number!r}: {listing([str(file) for file in same])} describe it; keep one.")


def _rows(
    cases: Sequence[_Case], images: Mapping[str, Path], folder: Path, problems: Problems
) -> tuple[list[dict[str, object]], list[tuple[str, tuple[int, int], list[Polygon]]]]:
    rows: list[dict[str, object]] = []
    masks: list[tuple[str, tuple[int, int], list[Polygon]]] = []
    for case in sorted(cases, key=_natural):
        for number, polygons in sorted(case.polygons.items(), key=lambda item: (len(item[0]), item[0])):
            image_id = f"{case.number}_{number}"
            image = images.get(image_id)
            if image is None:
                problems.add(f"{relative(case.file, folder)}, image {number}: no image file {image_id!r} (.jpg, …) in"
                             " the folder or below. Download it, or remove the <mark>.")  # fmt: skip
                continue
            if not polygons:
                continue
            size = _image_size(image, problems)
            if size is None:
                continue
            box = _box(polygons, size)
            if box is None:
                problems.add(f"{relative(case.file, folder)}, image {number}: its polygon lies outside the {size[0]} x"
                             f" {size[1]} pixels of {image.name!r}.")  # fmt: skip
                continue
            masks.append((image_id, size, polygons))
            rows.append(
                {
                    "image_id": image_id,
                    "path": relative(image, folder),
                    "patient_id": case.number,
                    "study_id": case.number,
                    "age": case.age,
                    "sex": case.sex,
                    **dict(zip(("roi_x", "roi_y", "roi_w", "roi_h"), box, strict=True)),
                    **{column: case.texts[element] for element, column in CARRIED.items()},
                    "meta_undetermined": ";".join(case.undetermined),
                    **case.labels,
                }
            )
    return rows, masks


def _natural(case: _Case) -> tuple[int, str]:
    return (int(case.number) if case.number.isdecimal() else 1 << 60, case.number)


def _image_size(image: Path, problems: Problems) -> tuple[int, int] | None:
    try:
        with Image.open(image) as opened:  # Pillow refuses a size that no image has: nothing of it is decoded here
            return opened.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        problems.add(f"image {image.name!r}: cannot be opened ({error}). Download it again.")
        return None


def _box(polygons: Sequence[Polygon], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return the box around the polygons with tissue around, inside the image, as (x, y, width, height)."""
    points = np.array([point for polygon in polygons for point in polygon])
    low, high = points.min(axis=0), points.max(axis=0)
    if (high < 0).any() or (low >= size).any():
        return None
    around = AROUND * float((high - low).max())
    left, top = (int(max(0, np.floor(value - around))) for value in low)
    right, bottom = (int(min(edge, np.ceil(value + around) + 1)) for value, edge in zip(high, size, strict=True))
    return left, top, right - left, bottom - top


def _write_masks(
    masks: Sequence[tuple[str, tuple[int, int], list[Polygon]]], out: Path, *, root: Path
) -> list[str]:  # fmt: skip
    folder = new_folder(out)
    folder.rmdir()  # it is known to be new or empty now; the finished folder takes its place
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        for image_id, size, polygons in masks:
            mask = Image.new("L", size)
            for polygon in polygons:
                ImageDraw.Draw(mask).polygon(polygon, fill=255, outline=255)
            mask.save(temporary / f"{image_id}.png")
    start = root.resolve()
    return [
        relative((folder.resolve() / f"{image_id}.png"), start) if folder.resolve().is_relative_to(start)
        else str(folder.resolve() / f"{image_id}.png")
        for image_id, _, _ in masks
    ]  # fmt: skip


def _tell_left_out(cases: Sequence[_Case], images: Mapping[str, Path], rows: Sequence[Mapping[str, object]]) -> None:
    used = {str(row["image_id"]) for row in rows}
    numbers = {case.number for case in cases}
    bare = sorted(stem for stem in images if stem not in used and stem.rpartition("_")[0] in numbers)
    if bare:
        LOG.warning(
            "ddti: %d images have no polygon and are left out, because burned-in text could not be cropped away: %s.",
            len(bare), listing(bare, limit=8),
        )  # fmt: skip
    empty = [case.number for case in cases if np.isnan(list(case.labels.values())).all()]
    if empty:
        LOG.warning("ddti: nothing was assessed in %d of %d cases.", len(empty), len(cases))
