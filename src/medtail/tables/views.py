"""Several X-rays of one examination: their scores become one, and are written back to each image.

A study often holds a frontal and a lateral view, and its labels come from one report. Nothing is trained here: the
scores of a study's images are averaged, or the highest is taken, or frontal views weigh more. Scorers that know only
images then see the study's score on every image of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np

from medtail.errors import MedtailError, Problems, UsageError, listing
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions

ViewKind = Literal["frontal", "lateral", "other", ""]
ViewRule = Literal["mean", "max", "frontal"]
RULES: tuple[ViewRule, ...] = ("mean", "max", "frontal")
_FRONTAL = ("AP", "PA", "AP_HORIZONTAL", "FRONTAL")
_LATERAL = ("LATERAL", "LL", "L")
_OTHER = ("AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "LAO", "RAO", "LPO", "RPO", "SWIMMERS", "XTABLE LATERAL",
          "COSTAL", "OTHER")  # fmt: skip


def view_kind(code: str) -> ViewKind | None:
    """Say what a view code of MIMIC-CXR, PadChest or NIH shows.

    Args:
        code: As the table has it; capitals do not count.

    Returns:
        `frontal` (AP, PA), `lateral` (LATERAL, LL, PadChest's L), `other` for further known codes, "" where empty;
        None for a code that is not known.

    Example:
        >>> [view_kind(code) for code in ("PA", "ll", "SWIMMERS", "", "XX")]
        ['frontal', 'lateral', 'other', '', None]
    """
    plain = code.strip().upper()
    if plain in _FRONTAL:
        return "frontal"
    if plain in _LATERAL:
        return "lateral"
    if plain in _OTHER:
        return "other"
    return "" if not plain else None


@final
@dataclass(frozen=True)
class ViewCensus:
    """What a table's studies are made of.

    Attributes:
        studies: How many there are; an image without a study is one of its own.
        several: Those with more than one image.
        without_frontal: Those without any frontal view.
        no_study: Images whose study is unknown.
        unknown_codes: View codes that are not known; they count as `other`.
    """

    studies: int
    several: int
    without_frontal: int
    no_study: int
    unknown_codes: tuple[str, ...] = ()

    def text(self) -> str:
        """Return it as a line or two."""
        lines = [
            f"{self.studies:,} studies, {self.several:,} with several images, {self.without_frontal:,} without a"
            " frontal view (they keep what there is)."
        ]
        if self.no_study:
            lines.append(f"{self.no_study:,} images have no study_id; each stands for itself.")
        if self.unknown_codes:
            lines.append(f"unknown view codes, counted as other: {listing([repr(c) for c in self.unknown_codes])}.")
        return "\n".join(lines)


def aggregate_views(
    scores: np.ndarray,
    studies: np.ndarray,
    *,
    rule: ViewRule = "mean",
    is_frontal: np.ndarray | None = None,
    frontal_weight: float = 0.8,
) -> np.ndarray:
    """Combine the scores of each study's images and write the result back to each of them.

    `mean` averages over the images, `max` takes the highest, `frontal` is w · mean(frontal views) +
    (1 - w) · mean(other views); a study with only one of the two keeps its mean.

    Args:
        scores: float [N, C].
        studies: Study of each image [N], text or numbers.
        rule: `mean`, `max` or `frontal`.
        is_frontal: bool [N]; needed for `frontal`.
        frontal_weight: w in [0, 1].

    Returns:
        float64 [N, C]; equal rows within a study.

    Raises:
        MedtailError: Unknown rule, a weight outside [0, 1], or `frontal` without `is_frontal`.

    Example:
        >>> scores, studies = np.array([[0.9], [0.1], [0.4]]), np.array(["s1", "s1", "s2"])
        >>> frontal = np.array([True, False, False])
        >>> aggregate_views(scores, studies, rule="frontal", is_frontal=frontal).round(2).ravel().tolist()
        [0.74, 0.74, 0.4]
    """
    if rule not in RULES:
        raise MedtailError(f"views: rule {rule!r} is unknown; expected {', '.join(RULES)}.")
    if not 0.0 <= frontal_weight <= 1.0:
        raise MedtailError(f"views: frontal weight {frontal_weight!r}; expected a share in [0, 1], such as 0.8.")
    values = np.asarray(scores, dtype=np.float64)
    _, member = np.unique(np.asarray(studies).astype(str), return_inverse=True)
    number = int(member.max(initial=-1)) + 1
    if rule == "max":
        highest = np.full((number, values.shape[1]), -np.inf)
        np.maximum.at(highest, member, values)
        return np.asarray(highest[member])
    if rule == "mean":
        return _study_means(values, member, number)[0][member]
    if is_frontal is None:
        raise MedtailError("views: the rule 'frontal' needs to know which images are frontal.")
    front = np.asarray(is_frontal, dtype=bool)
    first, fronts = _study_means(values[front], member[front], number)
    second, others = _study_means(values[~front], member[~front], number)
    both = frontal_weight * first + (1.0 - frontal_weight) * second
    chosen = np.where((fronts > 0)[:, None], np.where((others > 0)[:, None], both, first), second)
    return np.asarray(chosen[member])


def _study_means(values: np.ndarray, member: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each study's mean [S, C], 0 where it has no image here, and its images [S]."""
    # summed from the smallest up: the order of a study's rows must not change a digit
    sums = np.zeros((number, values.shape[1]))
    images = np.bincount(member, minlength=number)
    for c in range(values.shape[1]):
        order = np.lexsort((values[:, c], member))
        sums[:, c] = np.bincount(member[order], weights=values[order, c], minlength=number)
    means = sums / np.maximum(images, 1)[:, None]
    # rounding may carry a mean past its terms, and an unchanged study must stay unchanged
    low, high = np.full_like(means, np.inf), np.full_like(means, -np.inf)
    np.minimum.at(low, member, values)
    np.maximum.at(high, member, values)
    return np.where((images > 0)[:, None], np.clip(means, low, high), 0.0), images


def combine_views(
    predictions: Predictions, manifest: Manifest, *, rule: ViewRule = "mean", frontal_weight: float = 0.8
) -> tuple[Predictions, ViewCensus]:
    """Give every image the score of its study.

    Args:
        predictions: Scores of images.
        manifest: Names each image's `study_id` and, for `frontal`, its `view`; further images may stand there.
        rule: See `aggregate_views`.
        frontal_weight: Share of the frontal views, in [0, 1].

    Returns:
        The same rows with combined scores, and what the studies were made of. Thresholds and a calibration no longer
        fit, and are gone: choose them anew on tune scores combined the same way.

    Raises:
        MedtailError: Images the manifest does not have; no studies at all; a study with images of two patients or
            folds; `max` inside exclusive groups.
        UsageError: The rule `frontal` where no view is known.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.labels import LabelSpace
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": ["a", "b"], "path": "x.png", "patient_id": "1", "study_id": "s",
        ...                       "view": ["PA", "LL"], "Hernia": [1, 1]})
        >>> ids, one = np.array(["a", "b"], dtype=object), np.array(["1", "1"], dtype=object)
        >>> scored = Predictions(ids, one, np.array([[0.6], [0.1]]), np.ones((2, 1)), LabelSpace(("Hernia",)), one)
        >>> combine_views(scored, manifest_from_frame(table), rule="frontal")[0].scores.ravel().tolist()
        [0.5, 0.5]
    """
    if rule == "max" and predictions.labels.groups:
        raise MedtailError(
            f"views: 'max' would make the scores of {predictions.labels.groups[0].name!r} sum to more than 1; expected"
            " mean or frontal for classes that exclude each other."
        )
    position = {image_id: row for row, image_id in enumerate(manifest.frame["image_id"])}
    missing = [str(image_id) for image_id in predictions.image_ids if image_id not in position]
    if missing:
        raise MedtailError(
            f"{predictions.name}: {len(missing)} images are not in {manifest.name}: {listing(missing, limit=10)}."
        )
    rows = np.array([position[image_id] for image_id in predictions.image_ids], dtype=np.int64)
    named = _column(manifest, "study_id", rows)
    if not (named != "").any():
        raise MedtailError(
            f"{manifest.name}, column 'study_id': missing or empty; expected which images belong to one examination."
        )
    codes = _column(manifest, "view", rows)
    kinds = {code: view_kind(str(code)) for code in set(codes)}
    front = np.array([kinds[code] == "frontal" for code in codes], dtype=bool)
    if rule == "frontal" and not front.any():
        raise UsageError(
            f"{manifest.name}, column 'view': no image is frontal (found"
            f" {listing(sorted({str(code) for code in codes}))}); expected AP or PA. Use the rule mean."
        )
    patients = predictions.patients if predictions.has_patients else None
    check_studies(named, where=manifest.name, patients=patients, folds=predictions.folds)
    studies = own_names(named, predictions.image_ids)
    scores = aggregate_views(predictions.scores, studies, rule=rule, is_frontal=front, frontal_weight=frontal_weight)
    census = take_census(studies, named=named, codes=codes)
    digests = {key: value for key, value in predictions.digests.items() if key != "calibration"}
    return replace(predictions, scores=np.clip(scores, 0.0, 1.0), thresholds=None, digests=digests), census


def _column(manifest: Manifest, name: str, rows: np.ndarray) -> np.ndarray:
    if name not in manifest.frame.columns:
        return np.full(len(rows), "", dtype=object)
    return np.asarray(manifest.frame[name].to_numpy(dtype=object)[rows])


def take_census(studies: np.ndarray, *, named: np.ndarray, codes: np.ndarray) -> ViewCensus:
    """Count what studies are made of.

    Args:
        studies: Study of each image, text [N], one of its own where none is named; see `own_names`.
        named: `study_id` as the table has it, text [N].
        codes: View code of each image, text [N].

    Example:
        >>> named, codes = np.array(["s", "s", ""], dtype=object), np.array(["PA", "XX", "LL"], dtype=object)
        >>> take_census(own_names(named, np.array(["a", "b", "c"])), named=named, codes=codes)
        ViewCensus(studies=2, several=1, without_frontal=1, no_study=1, unknown_codes=('XX',))
    """
    kinds = {code: view_kind(str(code)) for code in set(codes)}
    front = np.array([kinds[code] == "frontal" for code in codes], dtype=bool)
    _, member, sizes = np.unique(studies, return_inverse=True, return_counts=True)
    return ViewCensus(
        studies=len(sizes),
        several=int((sizes > 1).sum()),
        without_frontal=int((np.bincount(member, weights=front) == 0).sum()),
        no_study=int((named == "").sum()),
        unknown_codes=tuple(sorted(str(code) for code, kind in kinds.items() if kind is None)),
    )


def own_names(named: np.ndarray, image_ids: np.ndarray) -> np.ndarray:
    """Return a study for every image, text [N], one of its own where it has none."""
    return np.array(
        [f"study\x1f{study}" if study else f"image\x1f{image}" for study, image in zip(named, image_ids, strict=True)]
    )


def check_studies(named: np.ndarray, *, where: str, patients: np.ndarray | None, folds: np.ndarray) -> None:
    """Check that each study is of one patient and in one fold.

    Args:
        named: `study_id` of each image, text [N]; "" is none.
        where: The table, for messages.
        patients: Patient of each image, text [N]; None where they are not known.
        folds: Fold of each image, text [N].

    Raises:
        MedtailError: Studies are torn; they are named.
    """
    problems = Problems(where)
    for what, values in (("patients", patients), ("folds", folds)):
        if values is None:
            continue
        pairs = {(study, value) for study, value in zip(named, values, strict=True) if study}
        seen: dict[str, int] = {}
        for study, _ in pairs:
            seen[str(study)] = seen.get(str(study), 0) + 1
        torn = sorted(study for study, count in seen.items() if count > 1)
        if torn:
            problems.add(
                f"column 'study_id': {len(torn)} studies have images of several {what}: {listing(torn)}; expected one"
                " patient, in one fold, a study."
            )
    problems.raise_if_any()
