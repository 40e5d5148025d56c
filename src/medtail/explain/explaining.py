"""`medtail explain`: a run and a manifest become heat maps with their sanity scores, in a folder anyone can read.

OUT/explain.html   the page     OUT/maps/0001.png …   image and overlay, with their warnings under them
OUT/sanity.csv     a row a measure, with intervals by patients     OUT/maps.csv   a row a map
OUT/explain.json   the verdicts, what was explained, digests
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import pandas as pd
import torch

from medtail.config import CLOSED, read_yaml
from medtail.errors import MedtailError
from medtail.explain.checking import Asked, Checks, HeatSet, check_maps, heat_of
from medtail.explain.chosen import choose_classes, choose_rows
from medtail.explain.lesions import in_square, lesion_of
from medtail.explain.maps import Branch, HeatMethod, check_method
from medtail.explain.overlay import to_image
from medtail.explain.pictures import to_bytes, write_picture
from medtail.explain.sanity import (
    Mean,
    Pointing,
    Verdict,
    mean_by_patient,
    pointing_game,
    pointing_verdict,
    randomisation_verdict,
)
from medtail.models.checkpoint import ModelCard
from medtail.models.diagnoser import Diagnoser
from medtail.models.ensembles import load_members
from medtail.pixels.dataset import content_masks, to_float
from medtail.pixels.decode import read_image
from medtail.pixels.store import open_store
from medtail.reporting.explained import write_explained_page
from medtail.runs import new_folder, versions, write_json, write_text
from medtail.tables.manifest import FOLDS, Manifest

FORMAT = "medtail-explain/1"
Counter = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]


@final
@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """What to explain and how.

    Attributes:
        classes: Classes wanted; None takes those labelled present in each image, or the likeliest where none is.
        method: How maps are made; the model's default if None.
        branch: Of a dual model, whose evidence.
        images: How many images, at most.
        fold: Only this fold; the test fold where there is one, if None.
        bootstrap: Resamples of the patients.
        seed: Of maps of chance, randomised models and resamples.
        opacity: Of the hottest place on an overlay.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    classes: tuple[str, ...] | None = None
    method: HeatMethod | None = None
    branch: Branch = "joint"
    images: int = 16
    fold: str | None = None
    bootstrap: int = 1000
    seed: int = 0
    opacity: float = 0.45


@final
@dataclass(frozen=True)
class Explained:
    """What `explain` wrote.

    Attributes:
        folder: Where.
        maps: A row a map.
        sanity: A row a measure.
        record: What `explain.json` holds.
    """

    folder: Path
    maps: pd.DataFrame
    sanity: pd.DataFrame
    record: dict[str, Any]


def explain(
    run: Path | str,
    manifest: Manifest,
    *,
    out: Path | str,
    config: ExplainConfig | None = None,
    cache: Path | None = None,
    counter: Counter | None = None,
) -> Explained:
    """Explain images by a trained model, check the maps, and write everything to a new folder.

    Args:
        run: A run folder, or the model folder inside it.
        manifest: The images; labels, masks (`mask_path`) and boxes (`roi_*`) are used where there are any.
        out: A new folder.
        config: What to explain and how.
        cache: Folder of prepared pixels; None as the run's config says.
        counter: Shows progress: called with what is done, gives a function of (done, total).

    Returns:
        What was written.

    Raises:
        MedtailError: As `load_members`, `heat_maps` and `open_store`; no such fold or class; `out` is not empty.

    References:
        zhang2018b (pointing game); petsiuk2018 (deletion and insertion); adebayo2018 (randomisation).
    """
    config = config or ExplainConfig()
    run, counted = Path(run), counter or _silent
    if config.images < 1:
        raise MedtailError(f"images: found {config.images}; expected at least 1.")
    members, card = load_members(run / "model" if (run / "model").is_dir() else run)
    method = check_method(members[0], config.method, branch=config.branch)
    table = _rows(card.check_manifest(manifest), config)
    wanted = None if config.classes is None else [card.labels.index(name) for name in config.classes]
    folder = new_folder(out)
    with counted("prepare images") as tick:
        place = cache if cache is not None else _cache_of(run)
        store = open_store(table, card.parts.pixels, cache=place, progress=tick)
    images = to_float(torch.from_numpy(store.images(np.arange(len(table)))))
    boxes = torch.from_numpy(store.content_boxes.astype(np.int64))
    content = content_masks(boxes, size_px=images.shape[-1])
    scores = _scores(members, card, images, content)
    chosen = [choose_classes(scores[row], table.targets[row], classes=wanted) for row in range(len(table))]
    pairs = [(row, column) for row, columns in enumerate(chosen) for column in columns]
    asked = Asked(images, content, tuple(row for row, _ in pairs), tuple(column for _, column in pairs))
    with counted("heat maps") as tick:
        found = heat_of(members, asked, method=method, branch=config.branch, progress=tick)
    with counted("sanity checks") as tick:
        checks = check_maps(members, asked, found, method=method, branch=config.branch, seed=config.seed, progress=tick)
    pointing, forgotten, lesions = _point(table, asked, found, checks, card)
    frame = _map_rows(table, asked, found, checks, pointing, forgotten, card=card, scores=scores)
    sanity, verdicts = judge_maps(frame, bootstrap=config.bootstrap, seed=config.seed)
    frame = mark_maps(frame, verdicts)
    with counted("pictures") as tick:
        _draw(folder, table, asked, found, frame, lesions, verdicts, card=card, config=config, method=method, tick=tick)
    record = {
        "format": FORMAT,
        "model": card.digests.get("weights"),
        "manifest": manifest.digest,
        "method": method,
        "branch": config.branch,
        "members": len(members),
        "settings": {**asdict(config), "classes": None if config.classes is None else list(config.classes)},
        "verdicts": {name: asdict(verdict) for name, verdict in verdicts.items()},
        "maps": [_plain(row) for row in frame.to_dict(orient="records")],
        "sanity": [_plain(row) for row in sanity.to_dict(orient="records")],
        "note": card.note,
        "versions": versions(),
    }
    write_text(folder / "maps.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "sanity.csv", sanity.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "explain.json", record)
    write_explained_page(folder, title=f"What {run.name} looks at")
    return Explained(folder, frame, sanity, record)


def _silent(text: str) -> AbstractContextManager[None]:
    del text
    return nullcontext()


def _cache_of(run: Path) -> Path | None:
    named = read_yaml(run / "config.yaml").get("cache") if (run / "config.yaml").exists() else None
    return None if named is None else Path(str(named))


def _rows(manifest: Manifest, config: ExplainConfig) -> Manifest:
    fold = config.fold
    if fold is None:
        fold = "test" if (manifest.folds == "test").any() else None
    elif fold not in FOLDS:
        raise MedtailError(f"fold: found {fold!r}; expected one of {', '.join(FOLDS)}.")
    table = manifest if fold is None else manifest.in_fold(fold)
    if not len(table):
        raise MedtailError(f"{manifest.name}, column 'fold': no row is in {fold!r}; nothing to explain.")
    return table.take(choose_rows(table, images=config.images, classes=config.classes))


def _scores(members: Sequence[Diagnoser], card: ModelCard, images: torch.Tensor, content: torch.Tensor) -> np.ndarray:
    """Return scores [N, C] as `medtail predict` gives them: averaged over members and mirror images, calibrated."""
    flip = bool(card.training.get("test_time_flip", False))
    shares = []
    with torch.inference_mode():
        for member in members:
            share = member.scores(images, content)
            if flip:
                share = (share + member.scores(images.flip(-1), content.flip(-1))) / 2
            shares.append(share.double().numpy())
    scores = np.clip(np.mean(shares, axis=0), 0.0, 1.0)
    return scores if card.calibration is None else card.calibration.apply(scores)


def _point(
    table: Manifest, asked: Asked, found: HeatSet, checks: Checks, card: ModelCard
) -> tuple[Pointing | None, Pointing | None, dict[int, np.ndarray]]:
    """Play the pointing game with the maps and with those of the randomised model; return the lesions by image too."""
    pixels = card.parts.pixels
    lesions, squares = {}, {}
    for row in sorted(set(asked.rows)):
        height, width = read_image(table.image_path(row)).shape[:2]
        lesion = lesion_of(table, row, shape=(height, width), config=pixels)
        if lesion is None:
            continue
        square = in_square(lesion, config=pixels, roi=table.roi(row)) & asked.content[row, 0].numpy()
        if square.any():
            lesions[row], squares[row] = lesion, square
    if not lesions:
        return None, None, {}
    empty = np.zeros(asked.content.shape[-2:], dtype=bool)
    stacked = np.stack([squares.get(row, empty) for row in asked.rows])
    inside = asked.content[list(asked.rows), 0].numpy()
    own, other = (pointing_game(heat.numpy(), stacked, inside) for heat in (found.heat, checks.randomised_heat))
    return own, other, lesions


def _map_rows(
    table: Manifest,
    asked: Asked,
    found: HeatSet,
    checks: Checks,
    pointing: Pointing | None,
    forgotten: Pointing | None,
    *,
    card: ModelCard,
    scores: np.ndarray,
) -> pd.DataFrame:
    rows, columns = list(asked.rows), list(asked.columns)
    labels = table.targets[rows, columns]
    frame = pd.DataFrame(
        {
            "map": np.arange(1, len(rows) + 1),
            "image_id": table.frame["image_id"].to_numpy(dtype=object)[rows],
            "patient": table.patients[rows],
            "class": np.array(card.labels.class_names, dtype=object)[columns],
            "label": labels,
            "score": scores[rows, columns],
            "flat": found.flat,
            "speaks_for": found.speaks,
            "deletion": checks.own.deletion,
            "insertion": checks.own.insertion,
            "gap": checks.own.gap,
            "chance_gap": checks.chance_gap,
            "randomised_gap": checks.randomised_gap,
            "ssim": checks.ssim,
        }
    )
    for depth, values in checks.alike.items():
        frame[f"alike_{depth}"] = values
    if pointing is not None and forgotten is not None:
        # a lesion says where a finding is that the image has; of an absent one it says nothing
        shown = (labels == 1) & (pointing.chance > 0) & ~found.flat
        frame["pointing_hit"] = np.where(shown, pointing.hit.astype(float), np.nan)
        frame["pointing_chance"] = np.where(shown, pointing.chance, np.nan)
        frame["pointing_randomised"] = np.where(shown, forgotten.hit.astype(float), np.nan)
        frame["pointing_centre"] = np.where(shown, pointing.centre.astype(float), np.nan)
    return frame


def judge_maps(maps: pd.DataFrame, *, bootstrap: int, seed: int) -> tuple[pd.DataFrame, dict[str, Verdict]]:
    """Average what the checks found over all maps and a class, and give the verdicts on the method.

    Args:
        maps: A row a map, as in `maps.csv`.
        bootstrap: Resamples of the patients.
        seed: Of the resamples.

    Returns:
        A row a measure (`class` is "" for all maps together), and the verdicts by check: `randomisation`, and
        `pointing` where there are lesions.
    """
    measures: dict[str, pd.Series] = {
        "deletion": maps["deletion"],
        "insertion": maps["insertion"],
        "gap_over_chance": maps["gap"] - maps["chance_gap"],
        "gap_over_randomised": maps["gap"] - maps["randomised_gap"],
        "ssim": maps["ssim"],
        **{name: maps[name] for name in ("alike_head", "alike_half", "alike_all")},
    }
    if "pointing_hit" in maps:
        measures["pointing_hit"] = maps["pointing_hit"]
        measures["pointing_chance"] = maps["pointing_chance"]
        measures["pointing_centre"] = maps["pointing_centre"]
        measures["pointing_randomised"] = maps["pointing_randomised"]
        measures["pointing_over_chance"] = maps["pointing_hit"] - maps["pointing_chance"]
        measures["pointing_over_centre"] = maps["pointing_hit"] - maps["pointing_centre"]
        measures["pointing_over_randomised"] = maps["pointing_hit"] - maps["pointing_randomised"]
    patients = maps["patient"].to_numpy(dtype=object)

    def mean(name: str, among: np.ndarray) -> Mean:
        values = measures[name].to_numpy(dtype=np.float64)[among]
        owners = patients[among][~np.isnan(values)]
        values = values[~np.isnan(values)]
        if name in ("pointing_hit", "pointing_centre", "pointing_randomised"):  # proportions know the rule of three
            return mean_by_patient(values == 1, owners, resamples=bootstrap, seed=seed)
        return mean_by_patient(values, owners, resamples=bootstrap, seed=seed)

    everywhere = np.ones(len(maps), dtype=bool)
    groups = [("", everywhere)] + [(name, (maps["class"] == name).to_numpy()) for name in dict.fromkeys(maps["class"])]
    rows = [{"class": name, "measure": measure, **asdict(mean(measure, among))}
            for name, among in groups for measure in measures]  # fmt: skip
    verdicts = {
        "randomisation": randomisation_verdict(mean("alike_all", everywhere), mean("gap_over_randomised", everywhere))
    }
    if "pointing_hit" in maps:
        names = ("pointing_hit", "pointing_over_chance", "pointing_over_centre", "pointing_over_randomised")
        verdicts["pointing"] = pointing_verdict(*(mean(name, everywhere) for name in names))
    return pd.DataFrame(rows), verdicts


def mark_maps(maps: pd.DataFrame, verdicts: dict[str, Verdict]) -> pd.DataFrame:
    """Add `passed` and `warnings` to each map.

    A map fails where it is flat, where its method fails the randomisation check, or where what it marks moves the
    score no more than marks of chance on the same image do. Missing the lesion is a warning: the model may be right
    for another reason, and the reader should see it.
    """
    warnings = []
    failed = verdicts["randomisation"].passed is False
    for row in maps.to_dict(orient="records"):
        found = []
        if row["flat"]:
            found.append("FAILED: the map is the same everywhere and shows nothing.")
        if failed:
            found.append("FAILED randomisation check: this method shows no learnt evidence in this model.")
        if not row["flat"] and row["gap"] <= row["chance_gap"]:
            found.append("FAILED deletion and insertion: covering this place moves the score no more than chance.")
        if row.get("pointing_hit") == 0:
            found.append("Misses: the hottest place lies outside the marked lesion.")
        if not row["flat"] and not row["speaks_for"]:
            found.append("Relative: nothing speaks for this class; shown is where least speaks against it.")
        warnings.append(found)
    return maps.assign(
        passed=[not any(word.startswith("FAILED") for word in found) for found in warnings],
        warnings=[" ".join(found) for found in warnings],
    )


def _draw(
    folder: Path,
    table: Manifest,
    asked: Asked,
    found: HeatSet,
    frame: pd.DataFrame,
    lesions: dict[int, np.ndarray],
    verdicts: dict[str, Verdict],
    *,
    card: ModelCard,
    config: ExplainConfig,
    method: HeatMethod,
    tick: Callable[[int, int], None] | None,
) -> None:
    (folder / "maps").mkdir()
    told = "" if verdicts["randomisation"].passed is not None else " Method not checked: too few patients."
    for number, (row, values) in enumerate(zip(asked.rows, frame.to_dict(orient="records"), strict=True)):
        pixels = to_bytes(read_image(table.image_path(row)))
        height, width = pixels.shape[:2]
        heat = to_image(
            found.heat[number].numpy(), height=height, width=width, config=card.parts.pixels, roi=table.roi(row)
        )
        label = {1.0: "labelled present", 0.0: "labelled absent"}.get(values["label"], "not assessed")
        lines = [
            f"{values['class']}: score {values['score']:.3f}, {label}. Image {values['image_id']}."
            f" Method {method}, branch {config.branch}.{told}",
            "Research use only. Heat shows what moves this model's score, not where disease is.",
        ]
        warnings = [part for part in str(values["warnings"]).split(". ") if part]
        write_picture(
            folder / "maps" / f"{number + 1:04d}.png",
            pixels,
            heat,
            lines=lines,
            warnings=[part if part.endswith(".") else f"{part}." for part in warnings],
            lesion=lesions.get(row),
            opacity=config.opacity,
        )
        if tick is not None:
            tick(number + 1, len(frame))


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """Return a row as strict JSON: no NaN, no NumPy types."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        plain = value.item() if isinstance(value, np.generic) else value
        found[str(key)] = None if isinstance(plain, float) and not math.isfinite(plain) else plain
    return found
