"""Simulated B-mode images of thyroid nodules whose descriptors, masks and sizes are known because they were drawn.

For tests, demonstrations and studies of mechanics; **never for a clinical claim**. `render` draws one image with chosen
descriptors; `phantom_case` and `render_case` give image number i of an endless, seeded series in which patients have
several images, sites have scanners, and labels a long tail. Image i depends on the config and i alone. Files are
written by `phantom_writing`; the breast-subtype phantom is in `phantom_breast`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, final

import numpy as np

from medtail.config import CLOSED
from medtail.errors import Problems, UsageError, did_you_mean
from medtail.seeding import stream
from medtail.sources.phantom_nodule import Focus, with_nodule
from medtail.sources.phantom_physics import SCANNERS, SITE_SHARES, Scanner, acquire
from medtail.sources.phantom_prevalence import IMPOSSIBLE, Prevalence, left_out, misread, prevalence
from medtail.sources.phantom_scene import frame, neck, outline
from medtail.sources.thyro_lmd import EXCLUSIVE, FOCI, LABELS, NO_FOCI

DISCLAIMER = "simulated phantom (medtail); no clinical claim may rest on it"
BLOCK = 20
"""Images in which no patient is cut: a series may start at any multiple of it."""
IMAGES_OF_PATIENTS = (1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3)
"""Images of the twelve patients of a block."""
LEAST_PX, MOST_PX = 32, 512
PLAIN = ("comp_solid", "echo_iso", "shape_wider", "margin_smooth", NO_FOCI)
"""What `render` draws where a group is not mentioned."""


@final
@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """A series of phantoms.

    Attributes:
        size_px: Pixels a side, 32 to 512.
        tail: `natural`, `uniform`, or shares of labels; see `phantom_prevalence.prevalence`.
        seed: Of everything.
        sites: Sites that patients come from, of north, east, south and west; all of them, unequally, if empty.
        label_noise: Probability that a group of a nodule is recorded wrongly (but validly).
        not_assessed: Probability that a group of a nodule is recorded as not assessed.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    size_px: int = 128
    tail: str | Mapping[str, float] = "natural"
    seed: int = 0
    sites: tuple[str, ...] = ()
    label_noise: float = 0.0
    not_assessed: float = 0.0

    def __post_init__(self) -> None:
        problems = Problems("phantom")
        if not LEAST_PX <= self.size_px <= MOST_PX:
            problems.add(f"size_px {self.size_px}: expected {LEAST_PX} to {MOST_PX} pixels a side.")
        for site in self.sites:
            if site not in SCANNERS:
                problems.add(f"site {site!r}: unknown{did_you_mean(site, SCANNERS) or f'; known: {_or(SCANNERS)}.'}")
        if len(set(self.sites)) < len(self.sites):
            problems.add(f"sites {list(self.sites)!r}: one is named twice; expected each once.")
        for name in ("label_noise", "not_assessed"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                problems.add(f"{name} {getattr(self, name)}: expected a probability from 0 to 1.")
        problems.raise_if_any(kind=UsageError)

    def prevalence(self) -> Prevalence:
        """Return the distribution over reports that nodules are drawn from.

        Raises:
            UsageError: `tail` is faulty.
        """
        return _prevalence(self.tail if isinstance(self.tail, str) else tuple(sorted(self.tail.items())))


@lru_cache(maxsize=16)
def _prevalence(tail: str | tuple[tuple[str, float], ...]) -> Prevalence:
    return prevalence(tail if isinstance(tail, str) else dict(tail))


@final
@dataclass(frozen=True, eq=False)
class Phantom:
    """One image and everything that is known about it.

    Attributes:
        pixels: uint8 [size, size].
        labels: The labels that are present.
        lesion: bool [size, size], the nodule.
        fluid: bool, fluid inside the nodule.
        halo: bool, a thin dark rim around it; empty where there is none.
        thyroid: bool, the gland around the nodule.
        strap: bool, the muscle in front of the gland, where the nodule does not reach.
        foci: Each echogenic focus with its own mask.
        size_mm: Largest diameter of the nodule.
        spacing_mm: Side of a pixel.
    """

    pixels: np.ndarray
    labels: frozenset[str]
    lesion: np.ndarray
    fluid: np.ndarray
    halo: np.ndarray
    thyroid: np.ndarray
    strap: np.ndarray
    foci: tuple[Focus, ...]
    size_mm: float
    spacing_mm: float

    def focus_mask(self, label: str) -> np.ndarray:
        """Return all foci of a kind as one mask, bool [size, size].

        Args:
            label: Such as `foci_macro`.
        """
        mask = np.zeros(self.lesion.shape, dtype=bool)
        for focus in self.foci:
            if focus.label == label:
                mask |= focus.mask
        return mask

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The nodule's bounding box as (x, y, width, height) in pixels."""
        rows, columns = np.flatnonzero(self.lesion.any(axis=1)), np.flatnonzero(self.lesion.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


@final
@dataclass(frozen=True, eq=False)
class Case:
    """What is decided about an image before it is drawn.

    Attributes:
        index: Its number in the series.
        image_id: Unique within seed and series.
        patient_id: Patient; several images may share one.
        nodule_id: Nodule of the patient; its images share all labels.
        site: Where the patient was scanned.
        age: Years.
        sex: F or M.
        view: transverse or longitudinal.
        size_mm: Largest diameter.
        malignant: The latent diagnosis.
        truth: bool [20], the labels as drawn.
        recorded: float64 [20], as written down: with reading mistakes, NaN where not assessed.
    """

    index: int
    image_id: str
    patient_id: str
    nodule_id: str
    site: str
    age: int
    sex: str
    view: str
    size_mm: float
    malignant: bool
    truth: np.ndarray
    recorded: np.ndarray = field(repr=False)

    @property
    def present(self) -> frozenset[str]:
        """Names of the labels that were drawn."""
        return frozenset(name for name, is_there in zip(LABELS.class_names, self.truth, strict=True) if is_there)


def render(
    labels: Collection[str] = (),
    *,
    seed: int = 0,
    size_px: int = 128,
    site: str = "north",
    size_mm: float = 14.0,
) -> Phantom:
    """Draw one nodule with chosen descriptors.

    Args:
        labels: Labels that shall be present. A group not mentioned is drawn plain: solid, isoechoic, wider than tall,
            smooth, without foci; `comp_cystic` brings `echo_anechoic` along and the other way round.
        seed: Another seed is another nodule in another neck.
        size_px: Pixels a side, 32 to 512.
        site: Whose scanner: north, east, south or west.
        size_mm: Largest diameter, above 0; sets the scale, and so how coarse the speckle looks.

    Returns:
        The image with its masks.

    Raises:
        UsageError: Unknown labels, two of an exclusive group, `foci_none` beside a focus, or a pair that contradicts
            itself; all at once.

    Example:
        >>> phantom = render(["echo_hypo", "shape_taller", "foci_punctate"], seed=1)
        >>> phantom.pixels.shape, bool(phantom.focus_mask("foci_punctate").any())
        ((128, 128), True)
    """
    config = PhantomConfig(size_px=size_px, seed=seed, sites=(site,))
    if not 0.0 < size_mm < 100.0:
        raise UsageError(f"phantom: size_mm {size_mm}: expected a diameter above 0 and below 100 mm.")
    present = _completed(labels)
    return _draw(("chosen", *sorted(present)), present, site=site, size_mm=size_mm, gland_db=0.0, config=config)


def phantom_case(config: PhantomConfig, index: int) -> Case:
    """Decide everything about image `index` of a series but its pixels.

    Args:
        config: The series.
        index: Number of the image, >= 0.

    Returns:
        The case; it depends on `config` and `index` alone, and its labels not on `size_px`.

    Example:
        >>> first, again = phantom_case(PhantomConfig(), 7), phantom_case(PhantomConfig(), 7)
        >>> first.image_id, first.present == again.present
        ('thyroid0_0000007', True)
    """
    if index < 0:
        raise UsageError(f"phantom: image number {index}; expected 0 or more.")
    block, place = divmod(index, BLOCK)
    order = stream(config.seed, "phantom", "block", block).permutation(len(IMAGES_OF_PATIENTS))
    ends = np.cumsum([IMAGES_OF_PATIENTS[k] for k in order])
    number = int(np.searchsorted(ends, place, side="right"))
    first_image = int(ends[number]) - IMAGES_OF_PATIENTS[order[number]]
    patient = block * len(IMAGES_OF_PATIENTS) + number
    person = stream(config.seed, "phantom", "patient", patient)
    sites = config.sites or tuple(SITE_SHARES)
    weights = np.cumsum([SITE_SHARES[site] for site in sites])
    site = sites[int(np.searchsorted(weights / weights[-1], person.random(), side="right"))]
    sex = "F" if person.random() < 0.76 else "M"
    age = int(np.clip(person.normal(49.0, 13.0), 18, 89))
    # the last image of a patient with several may show a second nodule
    nodule = int(place > first_image and place == ends[number] - 1 and person.random() < 0.3)
    lump = stream(config.seed, "phantom", "nodule", patient, nodule)
    drawn = config.prevalence().draw(lump.random())
    malignant, truth = bool(drawn[-1]), drawn[:-1]
    size_mm = float(np.clip(np.exp(lump.normal(np.log(12.0 if malignant else 16.0), 0.45)), 4.0, 45.0))
    reader = stream(config.seed, "phantom", "reader", patient, nodule)
    recorded = left_out(misread(truth, reader, rate=config.label_noise), reader, rate=config.not_assessed)
    view = stream(config.seed, "phantom", "view", index)
    return Case(
        index=index,
        image_id=f"thyroid{config.seed}_{index:07d}",
        patient_id=f"phantom{config.seed}_{patient:07d}",
        nodule_id=f"phantom{config.seed}_{patient:07d}_{'ab'[nodule]}",
        site=site,
        age=age,
        sex=sex,
        view="transverse" if view.random() < 0.6 else "longitudinal",
        size_mm=round(size_mm * float(view.uniform(0.96, 1.04)), 1),
        malignant=malignant,
        truth=truth,
        recorded=recorded,
    )


def render_case(config: PhantomConfig, case: Case) -> Phantom:
    """Draw an image of a series, with its masks: what `phantom_manifest` wrote, and more.

    Args:
        config: The series.
        case: From `phantom_case`.

    Returns:
        The image; its `labels` are the true ones, whatever was recorded.

    Example:
        >>> config = PhantomConfig(size_px=64)
        >>> render_case(config, phantom_case(config, 3)).pixels.shape
        (64, 64)
    """
    gland_db = float(stream(config.seed, "phantom", "gland", case.patient_id).uniform(-1.5, 1.0))
    return _draw(
        ("series", case.index), case.present, site=case.site, size_mm=case.size_mm, gland_db=gland_db, config=config
    )


def spacing_mm(config: PhantomConfig, case: Case) -> float:
    """Return the side of a pixel of a case, without drawing it."""
    border_of = stream(config.seed, "phantom", "border", "series", case.index)
    return case.size_mm / _size_and_ratio(border_of, case.present)[0] / config.size_px


def _size_and_ratio(random: np.random.Generator, present: frozenset[str]) -> tuple[float, float]:
    """Draw the largest diameter, as a fraction of the frame, and height over width."""
    size = float(random.uniform(0.38, 0.48))
    return size, float(random.uniform(1.22, 1.55) if "shape_taller" in present else random.uniform(0.55, 0.80))


def _draw(
    purpose: tuple[object, ...],
    present: frozenset[str],
    *,
    site: str,
    size_mm: float,
    gland_db: float,
    config: PhantomConfig,
) -> Phantom:
    scanner: Scanner = SCANNERS[site]
    # scene, border, inside and speckle have streams of their own: one more draw here shifts nothing there
    scene, border_of, inside, speckle = (
        stream(config.seed, "phantom", part, *purpose) for part in ("scene", "border", "inside", "speckle")
    )
    grid = frame(config.size_px)
    around = neck(scene, config.size_px, side=float(scene.choice((-1.0, 1.0))), gland_db=gland_db)
    size, ratio = _size_and_ratio(border_of, present)
    margin = next(name for name in EXCLUSIVE["margin"] if name in present)
    height = size * min(ratio, 1.0)
    top = float(border_of.uniform(0.24, 0.34)) * height if margin == "margin_ete" else None
    border = outline(border_of, kind=margin, size=size, ratio=ratio, top=top, neck_at=around)
    tissue = with_nodule(inside, around, border, present=present, gland_db=gland_db)
    pixel_mm = size_mm / size / config.size_px
    pixels = acquire(speckle, tissue, grid=grid, scanner=scanner, spacing_mm=pixel_mm)
    lesion, halo = grid.cut(tissue.lesion), grid.cut(tissue.halo)
    return Phantom(
        pixels=pixels,
        labels=present,
        lesion=lesion,
        fluid=grid.cut(tissue.fluid),
        halo=halo,
        thyroid=grid.cut(around.thyroid) & ~lesion & ~halo,
        strap=grid.cut(around.strap) & ~lesion,
        foci=tissue.foci,
        size_mm=size_mm,
        spacing_mm=pixel_mm,
    )


def _completed(labels: Collection[str]) -> frozenset[str]:
    """Check a choice of labels and fill in the groups not mentioned."""
    problems = Problems("phantom")
    if isinstance(labels, str):  # which is a collection too, of letters
        raise UsageError(f"phantom: labels {labels!r}: a text; expected a list of labels.")
    chosen = set(labels)
    for name in sorted(chosen - set(LABELS.class_names)):
        problems.add(f"label {name!r}: unknown{did_you_mean(name, LABELS.class_names) or '; see GROUPS.'}")
    for left, right in (("comp_cystic", "echo_anechoic"), ("echo_anechoic", "comp_cystic")):
        rivals = next(members for members in EXCLUSIVE.values() if right in members)
        if left in chosen and not chosen & set(rivals):
            chosen.add(right)
    for group, members in EXCLUSIVE.items():
        named = [name for name in members if name in chosen]
        if len(named) > 1:
            problems.add(f"group {group!r}: {' and '.join(named)} exclude each other; expected one.")
        if not named:
            chosen.add(next(name for name in PLAIN if name in members))
    foci = [name for name in FOCI if name in chosen]
    if NO_FOCI in foci and len(foci) > 1:
        problems.add(f"group 'foci': {NO_FOCI} beside {', '.join(foci[1:])}; expected either.")
    if not foci:
        chosen.add(NO_FOCI)
    for left, right in IMPOSSIBLE:
        if left in chosen and right in chosen:
            problems.add(f"{left} and {right}: contradict each other; see docs/phantom.md for what goes together.")
    problems.raise_if_any(kind=UsageError)
    return frozenset(chosen)


def _or(names: Collection[str]) -> str:
    return ", ".join(names)
