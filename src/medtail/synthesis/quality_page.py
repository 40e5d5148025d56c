"""The page of an inspection: verdicts first, then the pictures, rare classes on top, then every number.

A column of a contact sheet is one generated image: above it the sketch it was asked to keep and the train image the
sketch came from. A second sheet puts the generated images that are most like a train image beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medtail.reporting.contact_sheets import contact_sheet, evenly, sheet_markup, shrunk, write_sheet
from medtail.reporting.section_page import Picture, Section, write_section_page
from medtail.runs import atomic_path, write_json
from medtail.synthesis.inspection import Inspection, shown_spaces
from medtail.synthesis.keeping import Kept, choose_kept
from medtail.synthesis.memorisation import low_ratio
from medtail.synthesis.pool_reading import read_gray
from medtail.synthesis.quality import ClassQuality
from medtail.synthesis.quality_tables import (
    control_table,
    copying_table,
    image_table,
    likeness_table,
    quality_json,
    verdict_table,
)
from medtail.synthesis.sketch import draw_maps
from medtail.synthesis.verdicts import overall_words
from medtail.tables.frames import write_table
from medtail.tables.labels import short_name

PAGE, TABLE, NUMBERS, SHEETS, KEPT = "inspect.html", "quality.csv", "quality.json", "sheets", "manifest_kept.csv"
ACROSS = 8
"""Generated images of a class on a sheet."""
ORDER = {"tail": 0, "medium": 1, "head": 2}
REFERENCES = (
    "binkowski2018", "meehan2020", "carlini2023", "naeem2020", "kynkaanniemi2019", "chong2020", "wang2003msssim",
    "menon2021",
)  # fmt: skip
CAUTIONS = (
    "An inspection says what a pool is not: copied, off its class, monotonous. Whether it helps a diagnosis only a"
    " training with and without it can say.",
    "Images smoother than real ones lie nearer to everything; read C_T to train images beside C_T to tune images.",
    "Numbers of two spaces are never to be compared. Test images were not opened.",
)


def write_inspection(found: Inspection, *, title: str | None = None) -> Path:
    """Write `quality.csv`, `quality.json`, `sheets/` and `inspect.html` into the pool; earlier ones are replaced.

    Args:
        found: The inspection.
        title: Of the page; the pool's name if None.

    Returns:
        The page.
    """
    folder = found.pool.folder
    write_table(folder / TABLE, image_table(found))
    write_json(folder / NUMBERS, quality_json(found))
    name = folder.resolve().name
    spaces = shown_spaces(found.classes)
    verdicts = [found.verdicts[quality.name] for quality in found.classes]
    sections = [
        Section(
            "verdicts",
            "What can be used",
            (
                overall_words(verdicts),
                "A column is one generated image; they are taken evenly from the pool, by no eye.",
            ),
            (verdict_table(found),),
        ),
        *_class_sections(found),
        *_strips(found),
        Section("control", "Class, sketch, repetition", grids=(control_table(found),)),
        Section("copying", "Copying", grids=tuple(copying_table(found, space) for space in spaces)),
        Section("likeness", "Likeness and variety", grids=tuple(likeness_table(found, s) for s in spaces)),
    ]
    return write_section_page(
        folder / PAGE,
        kicker="medtail pool of generated images",
        title=title or f"Inspection of {name}",
        lede=(
            f"{len(found.pool.synthetic):,} generated images of {len(found.classes)} classes beside"
            f" {len(found.pool.train):,} train and {len(found.pool.tune):,} tune images. {overall_words(verdicts)}"
        ),
        sections=sections,
        cautions=(*found.cautions, *CAUTIONS),
        references=REFERENCES,
    )


def _class_sections(found: Inspection) -> list[Section]:
    """Return a section a class, the rarest first; each is shown alone."""
    order = sorted(found.classes, key=lambda quality: (ORDER.get(quality.group, 3), quality.train_images))
    return [
        Section(
            f"class-{number}",
            f"{short_name(quality.name)} ({quality.group}, {quality.train_images:,} train images)",
            (found.verdicts[quality.name].words + ".",),
            pictures=_class_pictures(found, quality),
        )
        for number, quality in enumerate(order)
    ]


def _class_pictures(found: Inspection, quality: ClassQuality) -> tuple[Picture, ...]:
    pool = found.pool
    class_number = pool.manifest.labels.index(quality.name)
    made = np.flatnonzero(pool.asked == class_number)
    chosen = made[evenly(len(made), limit=ACROSS)]
    side = found.images.shape[1]
    ids = pool.manifest.frame["image_id"].to_numpy(dtype=object)
    place_of = {ids[row]: place for place, row in enumerate(pool.train)}
    sources = pool.meta("meta_sketch_source", pool.synthetic)
    showing = np.flatnonzero(pool.manifest.targets[pool.train, class_number] == 1)
    places, asked = pool.asked_lines(side)
    asked_at = {int(place): number for number, place in enumerate(places)}
    spread = showing[evenly(len(showing), limit=len(chosen))] if len(showing) else showing
    reals: list[np.ndarray | None] = []
    sketches: list[np.ndarray | None] = []
    for number, place in enumerate(chosen):
        source = place_of.get(sources[place], int(spread[number]) if number < len(spread) else None)
        reals.append(None if source is None else found.real[source])
        if int(place) in asked_at:
            sketches.append(draw_maps(asked[asked_at[int(place)]][None])[0])
        else:
            sketches.append(found.sketches.maps[place])
    is_asked = any(int(place) in asked_at for place in chosen)
    middle = "the sketch it was asked to keep" if is_asked else "its own lines (no sketch was asked for)"
    top = "the train image that sketch came from" if is_asked and any(sources[chosen]) else "train images of the class"
    first = _sheet(
        found,
        f"{quality.name}",
        [reals, sketches, [found.images[place] for place in chosen]],
        f"{short_name(quality.name)}. Top: {top}. Middle: {middle}. Bottom: generated.",
    )
    space = shown_spaces(found.classes)[0]
    nearest = found.nearest[space]
    ratios = nearest.ratio[made]
    closest = [int(place) for place in made[np.argsort(ratios, kind="stable")[:ACROSS]] if nearest.row[place] >= 0]
    pairs = _sheet(
        found,
        f"{quality.name} nearest",
        [[found.images[place] for place in closest], [found.real[nearest.row[place]] for place in closest]],
        f"The generated images most like a train image (top), by copy ratio in {space}"
        f" ({', '.join(f'{nearest.ratio[place]:.2f}' for place in closest)}), and that train image (bottom).",
    )
    return (first, pairs)


def _sheet(found: Inspection, name: str, rows: Sequence[Sequence[np.ndarray | None]], caption: str) -> Picture:
    path = found.pool.folder / SHEETS / f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.png"
    write_sheet(path, contact_sheet(rows))
    small = [[None if image is None else shrunk(image) for image in row] for row in rows]
    tile = next((image.shape[0] for row in small for image in row if image is not None), 1)
    return Picture(sheet_markup(contact_sheet(small), alt=caption, tile_px=tile), caption)


def _strips(found: Inspection) -> list[Section]:
    named = {str(path): name for name, path in dict(found.pool.record.get("strips") or {}).items()}
    pictures = []
    for path in found.pool.strips:
        strip = read_gray(path)
        name = named.get(f"{path.parent.name}/{path.name}", path.stem)
        caption = f"{short_name(name)}: its first image coming out of the noise, from left to right."
        tile = strip.shape[0]
        shown = strip if tile <= 128 else shrunk(strip, side_px=int(128 * strip.shape[1] / tile))
        pictures.append(Picture(sheet_markup(shown, alt=caption, tile_px=shown.shape[0]), caption))
    return [Section("strips", "Out of the noise", pictures=tuple(pictures))] if pictures else []


def write_kept(found: Inspection, *, alpha: float = 1.0) -> Kept:
    """Filter the pool and write `manifest_kept.csv`: the real rows and the generated ones that are kept.

    Doubles are looked for in the generator's latents where there are some, else in the first space: images of the pool
    nearer to each other than any two train images of different patients.

    Args:
        found: The inspection.
        alpha: See `choose_kept`.

    Returns:
        The choice.

    Raises:
        MedtailError: alpha is not above 0.
    """
    pool = found.pool
    space = shown_spaces(found.classes)[0]
    doubles = "latent" if "latent" in found.features else space
    ratios, usual = found.nearest[space].ratio, found.usual[space].ratio
    limits = np.full(len(pool.asked), np.nan)
    for class_number in set(pool.asked.tolist()):
        shows = pool.manifest.targets[pool.train, class_number] == 1
        limits[pool.asked == class_number] = low_ratio(usual[shows])
    least = found.usual[doubles].distance
    kept = choose_kept(
        pool.asked,
        entropy=found.entropy,
        ratio=ratios,
        ratio_limit=limits,
        features=found.features[doubles].synthetic.values,
        double_below=float(np.nanmin(least)) if np.isfinite(least).any() else 0.0,
        alpha=alpha,
    )
    stays = np.ones(len(pool.manifest), dtype=bool)
    stays[pool.synthetic[~kept.kept]] = False
    remaining = replace(pool.manifest.take(stays), root=pool.manifest.root)
    with atomic_path(pool.folder / KEPT) as temporary:
        remaining.write(temporary)
    return kept
