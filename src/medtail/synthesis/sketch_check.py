"""Looking at the sketches of a data set before a generator is trained on them.

Contact sheets of image and sketch, a class a row of them; how dense the sketches are, how many are empty, how much of
the lesions' borders they find where train images have masks, and which `kappa` that suggests. Train images only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import Progress, open_store
from medtail.reporting.contact_sheets import contact_sheet, evenly, sheet_markup, shrunk, write_sheet
from medtail.reporting.section_page import PageTable, Picture, Section, write_section_page
from medtail.runs import write_json
from medtail.synthesis.adherence import KappaChoice, boundaries, choose_kappa, found_share
from medtail.synthesis.inspection import json_of
from medtail.synthesis.quality_tables import number, percent
from medtail.synthesis.sketch import SketchConfig, Sketches, sketch_images
from medtail.tables.labels import short_name
from medtail.tables.manifest import Manifest
from medtail.tables.places import place_of

PAGE, NUMBERS = "sketches.html", "sketches.json"
ACROSS = 8
MASK_LEVEL = 127


@final
@dataclass(frozen=True)
class ClassSketches:
    """The sketches of a class.

    Attributes:
        name: The class.
        images: Train images with it.
        density: Mean share of pixels on a line.
        empty: Share of images without a sketch.
        coverage: Mean share of the masks' borders found; NaN without masks.
        masks: Train images of it with a mask.
    """

    name: str
    images: int
    density: float
    empty: float
    coverage: float
    masks: int


@final
@dataclass(frozen=True, eq=False)
class SketchCheck:
    """The sketches of a data set's train images.

    Attributes:
        manifest: The train rows.
        images: float32 [N, S, S] in [0, 1].
        sketches: With the settings used.
        config: Those settings.
        classes: Class by class.
        choice: What kappa the masks suggest; None without masks.
    """

    manifest: Manifest
    images: np.ndarray
    sketches: Sketches
    config: SketchConfig
    classes: tuple[ClassSketches, ...]
    choice: KappaChoice | None


def check_sketches(
    manifest: Manifest,
    *,
    pixels: PixelConfig,
    config: SketchConfig | None = None,
    choose: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> SketchCheck:
    """Sketch the real train images of a table.

    Args:
        manifest: The table, with folds.
        pixels: How images are prepared.
        config: How they are sketched.
        choose: Use the kappa that the masks suggest instead of the config's.
        cache: Folder of prepared pixels; the default if None.
        progress: Called with (done, total) images being prepared.

    Returns:
        The check.

    Raises:
        MedtailError: No train rows; images or masks that cannot be read; or kappa is to be chosen without masks.
    """
    config = config if config is not None else SketchConfig()
    train = manifest.take((manifest.folds == "train") & manifest.is_real)
    if not len(train):
        raise MedtailError(
            f"{manifest.name}, column 'fold': no real row is in 'train'; make folds with `medtail data split"
            f" {manifest.name}`."
        )
    gray = replace(pixels, channels=1)
    store = open_store(train, gray, cache=cache, progress=progress)
    rows = np.arange(len(train))
    images = store.images(rows)[:, 0].astype(np.float32) / 255.0
    borders = _borders(train, gray)
    boxes = store.content_boxes
    choice = None
    if borders.any():
        choice = choose_kappa(images, borders, config=config, content_boxes=boxes)
    elif choose:
        raise MedtailError(
            f"{manifest.name}, column 'mask_path': no train image has a mask; kappa cannot be chosen. Give a number, or"
            " keep the default."
        )
    if choose and choice is not None:
        config = replace(config, kappa=choice.kappa)
    sketches = sketch_images(images, config, content_boxes=boxes)
    coverage = found_share(sketches.lines, borders)
    classes = []
    for column, name in enumerate(train.labels.class_names):
        shows = train.targets[:, column] == 1
        masked = shows & ~np.isnan(coverage)
        classes.append(
            ClassSketches(
                name=name,
                images=int(shows.sum()),
                density=float(sketches.density[shows].mean()) if shows.any() else float("nan"),
                empty=float(sketches.empty[shows].mean()) if shows.any() else float("nan"),
                coverage=float(coverage[masked].mean()) if masked.any() else float("nan"),
                masks=int(masked.sum()),
            )
        )
    return SketchCheck(train, images, sketches, config, tuple(classes), choice)


def _borders(train: Manifest, pixels: PixelConfig) -> np.ndarray:
    """Return the borders of the masks, prepared as the images are, bool [N, S, S]; nothing where there is no mask."""
    masks = np.zeros((len(train), pixels.size_px, pixels.size_px), dtype=bool)
    if "mask_path" not in train.frame.columns:
        return masks
    plain = replace(pixels, fill="black")
    for row, path in enumerate(train.frame["mask_path"].astype(str)):
        if path:
            roi = train.roi(row) if pixels.crop == "roi" else None
            mask = read_image(place_of(str(path), root=train.root))
            masks[row] = letterbox(mask, config=plain, roi=roi)[0][0] > MASK_LEVEL
    return boundaries(masks)


def sketch_table(found: SketchCheck) -> PageTable:
    """Return density, empty share and coverage of every class."""
    rows = tuple(
        (
            short_name(part.name),
            f"{part.images:,}",
            number(part.density, digits=3),
            percent(part.empty),
            number(part.coverage),
            f"{part.masks:,}",
        )
        for part in found.classes
    )
    columns = ("class", "train\nimages", "density", "empty", "border\nfound", "with a\nmask")
    note = "Density: share of pixels on a line. Border found: share of a mask's border near a line (2 pixels at 64)."
    return PageTable(f"Sketches at kappa {found.config.kappa:g}", columns, rows, note=note)


def kappa_table(found: SketchCheck) -> PageTable | None:
    """Return coverage and density at each kappa tried; None without masks."""
    if found.choice is None:
        return None
    rows = tuple(
        (f"{kappa:g}", number(share), number(found.choice.density[kappa], digits=3))
        for kappa, share in found.choice.coverage.items()
    )
    note = (
        f"The masks of {found.choice.images:,} train images suggest kappa {found.choice.kappa:g}: the largest that"
        " keeps what is found of their borders within 0.05 of kappa 0. Masks serve this check only."
    )
    return PageTable("How strict", ("kappa", "border\nfound", "density"), rows, note=note)


def write_sketch_check(found: SketchCheck, out: Path) -> Path:
    """Write `sketches.html`, `sketches.json` and a contact sheet a class into a folder.

    Args:
        found: The check.
        out: An existing folder.

    Returns:
        The page.
    """
    pictures = []
    for number_, part in enumerate(found.classes):
        shows = np.flatnonzero(found.manifest.targets[:, number_] == 1)
        chosen = shows[evenly(len(shows), limit=ACROSS)] if len(shows) else shows
        if not len(chosen):
            continue
        rows = [[found.images[row] for row in chosen], [found.sketches.maps[row] for row in chosen]]
        name = "".join(letter if letter.isalnum() else "_" for letter in part.name)
        write_sheet(out / "sheets" / f"{name}.png", contact_sheet(rows))
        small = [[shrunk(image) for image in row] for row in rows]
        caption = f"{short_name(part.name)}: train images (top) and their sketches (bottom)."
        markup = sheet_markup(contact_sheet(small), alt=caption, tile_px=small[0][0].shape[0])
        pictures.append(Picture(markup, caption))
    kappas, empty = kappa_table(found), float(found.sketches.empty.mean())
    write_json(out / NUMBERS, sketch_json(found))
    cautions = [
        "An image without a sketch is generated from its class alone. Iso-echoic lesions have no border to be found.",
        "Masks, where there are some, check the sketches; no sketch is made from one.",
    ]
    return write_section_page(
        out / PAGE,
        kicker="medtail sketches",
        title=f"Sketches of {found.manifest.name}",
        lede=f"{len(found.manifest):,} real train images, {percent(empty)} without a sketch.",
        sections=[
            Section("numbers", "By class", grids=(sketch_table(found), *(() if kappas is None else (kappas,)))),
            Section("sheets", "Image and sketch", pictures=tuple(pictures)),
        ],
        cautions=cautions,
    )


def sketch_json(found: SketchCheck) -> dict[str, Any]:
    """Return the numbers for a file."""
    value = {
        "kappa": found.config.kappa,
        "classes": {
            part.name: {
                "images": part.images,
                "density": part.density,
                "empty": part.empty,
                "coverage": part.coverage,
                "masks": part.masks,
            }
            for part in found.classes
        },
        "suggested_kappa": None if found.choice is None else found.choice.kappa,
        "coverage_at_kappa": {} if found.choice is None else found.choice.coverage,
    }
    result: dict[str, Any] = json_of(value)
    return result
