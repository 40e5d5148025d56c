"""Studies: the images of one examination as one row, for whoever learns from all of them together.

`views` combines scores that were made image by image; here are the groups themselves, the table with a row a study,
and which of a study's images are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.tables.manifest import Manifest
from medtail.tables.views import ViewCensus, ViewKind, check_studies, own_names, take_census, view_kind

VIEW_KINDS: tuple[ViewKind, ...] = ("frontal", "lateral", "other", "")
"""What a view embedding tells apart, in order; a code nobody knows counts as `other`."""


@final
@dataclass(frozen=True, eq=False)
class Studies:
    """Which images belong to one examination. Studies are in the order of their names, whatever the table's order.

    Attributes:
        names: Name of each study, text [S]; an image without a study is one of its own.
        member: Study of each image, int64 [N], numbers from 0 to S - 1.
        kinds: View of each image as a place in `VIEW_KINDS`, int64 [N].
        census: What the studies are made of.
        image_ids: Id of each image, text [N]; decides between views of one kind.
    """

    names: np.ndarray
    member: np.ndarray
    kinds: np.ndarray
    census: ViewCensus
    image_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _ordered(self) -> tuple[np.ndarray, np.ndarray]:
        """Images study by study, frontal views first, and where each study starts."""
        order = np.lexsort((self.image_ids.astype(str), self.kinds, self.member))
        return order, np.concatenate([[0], np.cumsum(np.bincount(self.member, minlength=len(self)))])

    def images(self, study: int) -> np.ndarray:
        """Return the rows of a study's images, int64: frontal, lateral, other, unknown, each by image id."""
        order, starts = self._ordered
        return np.asarray(order[starts[study] : starts[study + 1]])

    def text(self, *, most: int) -> str:
        """Say in a few lines what the studies are made of, and of how many not every image is looked at at once.

        Args:
            most: Images a study that are looked at.
        """
        larger = int((np.bincount(self.member, minlength=len(self)) > most).sum())
        more = f"\n{larger:,} studies have more than {most} images: frontal views go first, then lateral ones."
        return self.census.text() + (more if larger else "")

    def pick(self, studies: np.ndarray, *, most: int, random: np.random.Generator | None = None) -> np.ndarray:
        """Choose the images of some studies that are looked at.

        Args:
            studies: Numbers of studies, integers [B].
            most: Images a study at most, at least 1.
            random: Draws which images of a larger study; None takes the first ones in the order of `images`.

        Returns:
            Rows of images, int64 [B, most]; -1 where a study has no further one.

        Example:
            >>> table = pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "patient_id": "1", "study_id": "s",
            ...                       "view": ["LL", "PA", "AP"], "Hernia": 1})
            >>> from medtail.tables.manifest import manifest_from_frame
            >>> gather_studies(manifest_from_frame(table)).pick(np.array([0]), most=2).tolist()
            [[1, 2]]
        """
        found = np.full((len(studies), most), -1, dtype=np.int64)
        for place, study in enumerate(studies):
            images = self.images(int(study))
            if len(images) > most and random is not None:
                images = images[np.sort(random.permutation(len(images))[:most])]
            images = images[:most]
            found[place, : len(images)] = images
        return found


def gather_studies(manifest: Manifest) -> Studies:
    """Group a manifest's images by `study_id` and read their views.

    Args:
        manifest: The images; `view` may be missing.

    Returns:
        The studies.

    Raises:
        MedtailError: No image names a study, or a study has images of two patients or in two folds.

    Example:
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "patient_id": list("112"),
        ...                       "study_id": ["s", "s", ""], "view": ["PA", "LL", "PA"], "Hernia": 1})
        >>> studies = gather_studies(manifest_from_frame(table))
        >>> len(studies), studies.kinds.tolist()
        (2, [0, 1, 0])
    """
    frame, ids = manifest.frame, manifest.frame["image_id"].to_numpy(dtype=object)
    empty = np.full(len(frame), "", dtype=object)
    named = frame["study_id"].to_numpy(dtype=object) if "study_id" in frame.columns else empty
    codes = frame["view"].to_numpy(dtype=object) if "view" in frame.columns else empty
    if not (named != "").any():
        raise MedtailError(
            f"{manifest.name}, column 'study_id': missing or empty; expected which images belong to one examination."
        )
    patients = manifest.patients if manifest.has_patients else None
    check_studies(named, where=manifest.name, patients=patients, folds=manifest.folds)
    own = own_names(named, ids)
    names, member = np.unique(own.astype(str), return_inverse=True)
    kinds = {code: view_kind(str(code)) for code in set(codes)}
    numbers = {code: VIEW_KINDS.index("other" if kind is None else kind) for code, kind in kinds.items()}
    return Studies(
        names=names.astype(object),
        member=member.astype(np.int64),
        kinds=np.array([numbers[code] for code in codes], dtype=np.int64),
        census=take_census(own, named=named, codes=codes),
        image_ids=ids,
    )


def study_manifest(manifest: Manifest, studies: Studies) -> Manifest:
    """Return a table with a row a study: the metadata of its first image, and what its images say together.

    A class is present in a study where any image shows it, absent where it was assessed and none does, and not assessed
    where it was in no image. (Labels mined from reports are the same in all images of a study anyway.)

    Args:
        manifest: The images.
        studies: Of these very images.

    Returns:
        A manifest of S rows, in the order of the studies.

    Raises:
        MedtailError: Images of a study show different classes of one exclusive group.

    Example:
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": list("ab"), "path": list("ab"), "patient_id": "1",
        ...                                           "study_id": "s", "Hernia": [0, 1], "Mass": [None, 0]}))
        >>> study_manifest(table, gather_studies(table)).targets.tolist()
        [[1.0, 0.0]]
    """
    targets = manifest.targets
    highest = np.full((len(studies), targets.shape[1]), -1.0)
    np.maximum.at(highest, studies.member, np.where(np.isnan(targets), -1.0, targets))
    problems = Problems(manifest.name)
    for group in manifest.labels.groups:
        columns = [manifest.labels.index(name) for name in group.classes]
        torn = (highest[:, columns] == 1).sum(axis=1) > 1
        if torn.any():
            shown = listing([_plain(name) for name in studies.names[torn]])
            problems.add(
                f"group {group.name!r}: {int(torn.sum())} studies have images of different classes of it: {shown};"
                " expected one class a study. Give such images studies of their own, or leave study_id empty."
            )
    problems.raise_if_any()
    first = np.array([studies.images(study)[0] for study in range(len(studies))], dtype=np.int64)
    rows = manifest.take(first)
    merged = pd.DataFrame(
        np.where(highest < 0, np.nan, highest), columns=list(manifest.labels.class_names), index=rows.frame.index
    )
    return replace(rows, frame=rows.frame.assign(**{name: merged[name] for name in merged.columns}))


def _plain(name: str) -> str:
    return repr(name.partition("\x1f")[2])
