"""The page of an explain folder: heat maps, what they are worth, and which of them failed their checks.

Reads what `medtail explain` wrote (`explain.json`, `maps.csv`, `sanity.csv`, PNG files) and knows nothing of models.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medtail.errors import MedtailError
from medtail.reporting.section_page import PageTable, Picture, Section, write_section_page
from medtail.reporting.svg import element
from medtail.runs import read_json

FORMAT = "medtail-explain/1"
MEASURES = {
    "pointing_hit": ("pointing", "share of maps whose hottest place lies in the lesion"),
    "pointing_chance": ("chance", "share of the image that the lesion fills"),
    "pointing_centre": ("middle", "share of maps whose image has its middle in the lesion"),
    "pointing_randomised": ("pointing, randomised", "share of the randomised model's maps that do"),
    "pointing_over_chance": ("pointing - chance", "difference"),
    "pointing_over_centre": ("pointing - middle", "difference"),
    "pointing_over_randomised": ("pointing - randomised", "difference"),
    "deletion": ("deletion", "mean score while the hottest is covered; low is good"),
    "insertion": ("insertion", "mean score while the hottest alone is shown; high is good"),
    "gap_over_chance": ("effect - chance", "log-odds that the marked place moves, more than a place of chance"),
    "gap_over_randomised": ("effect - randomised", "log-odds, more than what the randomised model's map marks"),
    "alike_head": ("alike, head", "rank correlation with the map after the head is randomised"),
    "alike_half": ("alike, half", "rank correlation after the later half is randomised"),
    "alike_all": ("alike, all", "rank correlation after everything is randomised"),
    "ssim": ("alike, SSIM", "structural similarity after everything is randomised"),
}
METHODS = {
    "layer_cam": "Layer-CAM",
    "grad_cam": "Grad-CAM",
    "attention": "attention of the class queries",
    "rollout": "attention roll-out, weighted by the gradient of each class",
    "occlusion": "occlusion",
}
KEYS = {"layer_cam": "jiang2021", "grad_cam": "selvaraju2017", "rollout": "chefer2021", "occlusion": "zeiler2014"}
MOST_PICTURES = 60
CAUTIONS = (
    "A heat map shows what moves this model's score. It does not show where disease is, and a convincing map does not"
    " make a wrong score right.",
    "Heat is scaled for each map by itself: the heat of two maps cannot be compared, and a class that is absent has a"
    " hottest place too.",
    "Covered images look like none that the model has learnt from, and even gray is itself a finding: solid,"
    " hypoechoic, no foci. For such classes deletion and insertion can turn round, and a map that fails them may be"
    " right.",
)


def write_explained_page(folder: Path, *, title: str) -> Path:
    """Write `explain.html` into an explain folder, with all pictures inside.

    Args:
        folder: What `medtail explain` wrote.
        title: Of the page.

    Returns:
        The page.

    Raises:
        MedtailError: It is no such folder.
    """
    record = read_explained(folder)
    method = str(record["method"])
    return write_section_page(
        folder / "explain.html",
        kicker="Heat maps and their checks",
        title=title,
        lede=_lede(record),
        sections=explained_sections(folder),
        cautions=CAUTIONS,
        references=[*([KEYS[method]] if method in KEYS else []), "zhang2018b", "petsiuk2018", "adebayo2018"],
    )


def read_explained(folder: Path) -> dict[str, Any]:
    """Read `explain.json` of an explain folder.

    Raises:
        MedtailError: It is missing or of another format.
    """
    record = read_json(folder / "explain.json")
    if record.get("format") != FORMAT:
        raise MedtailError(
            f"{folder}/explain.json: format {record.get('format')!r} is unknown; expected {FORMAT!r}, as `medtail"
            " explain` writes."
        )
    return record


def explained_sections(folder: Path) -> list[Section]:
    """Return the parts of the page: verdicts, measures, maps; for a page of their own or inside another.

    Raises:
        MedtailError: It is no explain folder.
    """
    record = read_explained(folder)
    sanity = pd.DataFrame(record["sanity"])
    maps = record["maps"]
    failed = sum(not row["passed"] for row in maps)
    verdicts = tuple(f"{name.capitalize()} check {verdict['words']}" for name, verdict in record["verdicts"].items())
    if "pointing" not in record["verdicts"]:
        verdicts = (*verdicts, "Pointing game not played: the manifest has no masks or boxes of present findings.")
    counted = f"{failed} of {len(maps)} maps failed a check of their own or of their method, and say so in red."
    pictures = [_picture(folder, row) for row in maps[:MOST_PICTURES]]
    shown = f"The first {MOST_PICTURES} of {len(maps)}; all are in the folder." if len(maps) > MOST_PICTURES else ""
    words = "Left the image, right the heat over it; a blue line is the border of the marked lesion."
    return [
        Section("verdicts", "May these maps be believed?", words=(*verdicts, counted)),
        Section("measures", "What the checks found", grids=(_overall(sanity), *_by_class(sanity))),
        Section("maps", "The maps", words=tuple(filter(None, (words, shown))), panels=tuple(pictures)),
    ]


def sections_of_model(folder: Path, *, model: str | None) -> list[Section]:
    """Return `explained_sections` with its cautions, for the report of the same model.

    Args:
        folder: What `medtail explain` wrote.
        model: SHA-256 of the reported model's weights; None if unknown, and then nothing is compared.

    Raises:
        MedtailError: It is no explain folder, or of another model.
    """
    known = read_explained(folder).get("model")
    if known is not None and model is not None and known != model:
        raise MedtailError(
            f"{folder}: its heat maps are of the model {known[:12]}; expected {model[:12]}, the one that is reported."
            " Explain this run into a new folder."
        )
    return [*explained_sections(folder), Section("explained-cautions", "Before you believe a map", words=CAUTIONS)]


def _lede(record: Mapping[str, Any]) -> str:
    images = len({row["image_id"] for row in record["maps"]})
    patients = len({row["patient"] for row in record["maps"]})
    members = "" if record["members"] == 1 else f", the mean of {record['members']} networks"
    branch = "" if record["branch"] == "joint" else f", {record['branch']} branch"
    named = METHODS.get(str(record["method"]), str(record["method"]))
    return f"{len(record['maps'])} maps of {images} images of {patients} patients by {named}{branch}{members}."


def _value(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["value"]):
        return "not defined"
    ends = "" if pd.isna(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.2f}{ends}"


def _overall(sanity: pd.DataFrame) -> PageTable:
    rows = [
        (*MEASURES[row["measure"]], _value(row), str(row["maps"]), str(row["patients"]))
        for row in sanity[sanity["class"] == ""].to_dict(orient="records")
        if row["measure"] in MEASURES
    ]
    return PageTable(
        "All maps together",
        ("measure", "what it is", "mean [95 %]", "maps", "patients"),
        tuple(rows),
        texts=(1,),
        note="Intervals by resampling patients.",
    )


def _by_class(sanity: pd.DataFrame) -> list[PageTable]:
    named = ["pointing_hit", "pointing_chance", "pointing_randomised", "gap_over_chance", "gap_over_randomised"]
    named = [name for name in named if name in set(sanity["measure"])]
    rows = []
    for name, part in sanity[sanity["class"] != ""].groupby("class", sort=False):
        found = {row["measure"]: row for row in part.to_dict(orient="records")}
        most = max(int(row["patients"]) for row in found.values())
        rows.append((str(name), *(_value(found[measure]) for measure in named), str(most)))
    if not rows:
        return []
    heads = tuple(MEASURES[name][0] for name in named)
    return [PageTable("By class", ("class", *heads, "patients"), tuple(rows), note="Few patients: wide intervals.")]


def _picture(folder: Path, row: Mapping[str, Any]) -> Picture:
    data = base64.b64encode((folder / "maps" / f"{row['map']:04d}.png").read_bytes()).decode("ascii")
    caption = f"{row['class']}, score {row['score']:.3f}. {row['warnings']}".strip()
    alt = f"Image {row['image_id']} and heat for {row['class']}"
    return Picture(element("img", src=f"data:image/png;base64,{data}", alt=alt, class_="sheet"), caption)
