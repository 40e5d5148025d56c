"""The official files of CXR-LT and the images of MIMIC-CXR-JPG, PadChest or NIH → Manifest.

Ids stay text: a program that once held them as numbers may have merged patients, and then nobody can tell. Classes
are joined by name. Nothing here knows a label that a task calls unseen unless that task is asked for, and then no
train row comes with it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.sources.cxr_lt import ChallengeTask, Edition
from medtail.sources.cxr_lt_files import ALL_META, FOLD_OF_SPLIT, LabelFile, one_edition, read_label_files
from medtail.sources.gathering import add_missing_images, dataset_folder, files_by_name, text_column
from medtail.tables.frames import add_row_problem, read_table, row_list, spreadsheet_rows
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.views import view_kind

ROUNDED_ID = r"\d+(?:\.\d+)?[eE]\+?\d+|\d{16,}\.0*"
"""What a long id looks like after a program made it a number: digits are lost, and patients may have merged."""
_DECIMAL_ID = rf"{ROUNDED_ID}|\d+\.\d*"
REMOVAL = "Removal.csv"
_WIDTH = re.compile(r"[\\/]+")

log = logging.getLogger(__name__)


def import_cxr_lt(
    path: Path | str, *, edition: str | None = None, task: int = 1, images: Path | str | None = None
) -> Manifest:
    """Read CXR-LT's label files and find their images.

    Args:
        path: The folder with the label files as downloaded, or one of them. `Removal.csv` beside them names images to
            leave out.
        edition: `2023`, `2024`, `2026`, `nih14` or `nih20`; found out from the files if None.
        task: Whose classes become columns. Where they are unseen in training (zero-shot), train rows are left out.
        images: Root of the images: for MIMIC-CXR-JPG the folder that holds `files/`, else any folder with the images
            below it. Every image must then be there. None reads the labels alone.

    Returns:
        A row an image: `image_id`, `patient_id`, `study_id`, `view` (frontal, lateral, other or unknown), the code as
        `meta_view_position`, `fold` from the column `split` or the file's name, and the task's classes.

    Raises:
        UsageError: Unknown edition or task.
        MedtailError: Files of mixed editions, missing classes, ids that went through a number, images in two files,
            patients in two folds, a study of two patients, labels other than 0, 1 or empty, missing images.

    References:
        holste2024, lin2025.
    """
    files = read_label_files(path, task=task)
    tables = one_edition(files, edition)
    chosen = tables.task(task)
    problems = Problems("cxr_lt")
    parts = [_part(file, tables, chosen, problems) for file in files]
    problems.raise_if_any()
    table = pd.concat([part for part in parts if part is not None], ignore_index=True)
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    table = _without_removed(table, folder / REMOVAL, tables)
    if not len(table):
        raise MedtailError(f"cxr_lt: no row is left for task {task} of {tables.name} in {listing(_names(files))}.")
    _check_rows(table, problems)
    problems.raise_if_any()
    table, root = _with_files(table, folder, images, problems)
    problems.raise_if_any()
    name = files[0].name if len(files) == 1 else f"CXR-LT {tables.name}"
    manifest = manifest_from_frame(table.drop(columns="_source"), name=name, root=root)
    manifest.check_folds()
    _note_views(manifest)
    if chosen.caution:
        log.warning("cxr_lt: %s", chosen.caution)
    tested = int((manifest.folds == "test").sum())
    if tested and chosen.images is not None and tested != chosen.images:
        log.warning(
            "cxr_lt: %d test images; the official test set of task %d has %d. Scores here are not the challenge's.",
            tested, task, chosen.images,
        )  # fmt: skip
    return manifest


def refuse_unseen(manifest: Manifest, tables: Edition, *, task: int) -> None:
    """Refuse a training table that knows classes which a task calls unseen.

    Args:
        manifest: The table to train on.
        tables: The edition.
        task: Its zero-shot task.

    Raises:
        MedtailError: A class of the task has labels outside the test fold, under its own name or an alias.

    Example:
        >>> from medtail.sources.cxr_lt import edition
        >>> table = pd.DataFrame({"image_id": ["a"], "path": ["a"], "patient_id": ["1"], "fold": ["train"], "Bulla": 1})
        >>> refuse_unseen(manifest_from_frame(table), edition("2024"), task=3)
        Traceback (most recent call last):
        medtail.errors.MedtailError: manifest, column 'Bulla': 1 labels in train; task 3 of 2024 asks for it unseen. \
Remove the column.
    """
    unseen = tables.task(task).class_names
    learnt = np.isin(manifest.folds.astype(str), ("train", "tune", "reward", ""))
    problems = Problems(manifest.name)
    for c, name in enumerate(manifest.labels.class_names):
        known = learnt & ~np.isnan(manifest.targets[:, c])
        if tables.canonical(name) in unseen and known.any():
            where = listing(sorted({str(fold) or "no fold" for fold in manifest.folds[known]}))
            problems.add(
                f"column {name!r}: {int(known.sum())} labels in {where}; task {task} of {tables.name} asks for it"
                " unseen. Remove the column."
            )
    problems.raise_if_any()


def _names(files: Sequence[LabelFile]) -> list[str]:
    return [file.name for file in files]


def _part(file: LabelFile, tables: Edition, task: ChallengeTask, problems: Problems) -> pd.DataFrame | None:
    """Return one file's rows as manifest columns and `_source`; None where the task has no use for it."""
    frame = file.frame
    folds = _folds(file, problems)
    if task.unseen:
        kept = folds != "train"
        if not kept.all():
            log.info(
                "cxr_lt: %s: %d train rows left out; the classes of task %d are unseen there.",
                file.name, int((~kept).sum()), task.number,
            )  # fmt: skip
        if not kept.any():
            return None
    else:
        kept = np.ones(len(frame), dtype=bool)
    columns = _meta(file, tables, problems)
    if columns is None:
        return None
    labels = _labels(file, tables, task, folds, problems)
    source = [f"{file.name}, row {row}" for row in range(2, len(frame) + 2)]
    rows: pd.DataFrame = pd.DataFrame({**columns, "fold": folds, "_source": source, **labels}).loc[kept]
    return rows


def _folds(file: LabelFile, problems: Problems) -> np.ndarray:
    if "split" not in file.frame.columns:
        return np.full(len(file.frame), file.fold, dtype=object)
    split = text_column(file.frame, "split").str.lower()
    unknown = ~split.isin([*FOLD_OF_SPLIT, ""]).to_numpy(dtype=bool)
    found = Problems(file.name)
    add_row_problem(found, unknown, file.frame["split"], expected="train, val or test")
    _hand_on(found, file, problems)
    return np.asarray(split.map({**FOLD_OF_SPLIT, "": ""}).fillna("").to_numpy(dtype=object))


def _hand_on(found: Problems, file: LabelFile, problems: Problems) -> None:
    for message in found.found:
        problems.add(f"{file.name}, {message}")


def _meta(file: LabelFile, tables: Edition, problems: Problems) -> dict[str, object] | None:
    frame, found = file.frame, Problems(file.name)
    for needed in (tables.id_column, tables.patient_column):
        if needed not in frame.columns:
            near = did_you_mean(needed, [str(column) for column in frame.columns])
            found.add(f"column {needed!r}: missing{near or '; expected it beside the labels.'}")
    if len(found):
        _hand_on(found, file, problems)
        return None
    ids, patients = text_column(frame, tables.id_column), text_column(frame, tables.patient_column)
    add_row_problem(
        found,
        patients.str.fullmatch(_DECIMAL_ID).to_numpy(dtype=bool),
        patients,
        expected=(
            "the patient as text; this one went through a program that made it a number, and patients may have merged."
            " Export the file again with this column as text (pandas: dtype=str)"
        ),
    )
    add_row_problem(found, (patients == "").to_numpy(dtype=bool), patients, expected="a patient, not an empty cell")
    _hand_on(found, file, problems)
    paths = next((text_column(frame, name) for name in ("fpath", "path") if name in frame.columns), ids)
    codes = next(
        (text_column(frame, name) for name in ("ViewPosition", "Projection") if name in frame.columns),
        pd.Series([""] * len(frame), dtype=str),
    )
    kind_of = {code: view_kind(code) for code in set(codes)}
    return {
        "image_id": ids.to_numpy(dtype=object),
        "path": np.where(paths == "", ids, paths).astype(object),
        "patient_id": patients.to_numpy(dtype=object),
        "study_id": _studies(frame, patients),
        "view": [("other" if kind_of[code] is None else kind_of[code]) for code in codes],
        "meta_view_position": codes.to_numpy(dtype=object),
    }


def _studies(frame: pd.DataFrame, patients: pd.Series) -> np.ndarray:
    """Return the study of each row; 2026 names none, so a patient's images of one day are one."""
    if "study_id" in frame.columns:
        return text_column(frame, "study_id").to_numpy(dtype=object)
    if "StudyDate_DICOM" in frame.columns:
        days = text_column(frame, "StudyDate_DICOM")
        return np.where(days == "", "", patients + "-" + days).astype(object)
    return np.full(len(frame), "", dtype=object)


def _labels(
    file: LabelFile, tables: Edition, task: ChallengeTask, folds: np.ndarray, problems: Problems
) -> dict[str, object]:
    frame, names = file.frame, task.class_names
    columns = [str(column) for column in frame.columns if column not in ALL_META]
    where: dict[str, str] = {}
    found = Problems(file.name)
    for column in columns:
        name = tables.canonical(column)
        if name in where and name is not None:
            found.add(f"column {column!r}: the class {name!r} stands in column {where[name]!r} already; keep one.")
        elif name is not None:
            where[name] = column
    strangers = [column for column in columns if tables.canonical(column) is None]
    if not any(name in where for name in names) and not file.has_labels:
        if (folds == "train").any():
            found.add(f"no class columns; expected the labels of task {task.number}.")
        _hand_on(found, file, problems)
        return {name: np.full(len(frame), np.nan) for name in names}
    missing = [name for name in names if name not in where]
    if len(missing) == len(names):
        other = [str(n) for n, t in tables.tasks.items() if where and set(t.class_names) <= set(where)]
        hint = f" Its labels are those of task {' and '.join(other)}: give --task {other[0]}." if other else ""
        found.add(f"none of the {len(names)} classes of task {task.number} is in it.{hint}")
    else:
        for name in missing:
            near = did_you_mean(name, strangers)
            found.add(f"column {name!r}: missing{near or f'; task {task.number} of {tables.name} has this class.'}")
    _hand_on(found, file, problems)
    hidden = [n for t in tables.tasks.values() if t.unseen and not task.unseen for n in t.class_names if n not in names]
    dropped = [name for name in hidden if name in where]
    if dropped:
        log.warning(
            "cxr_lt: %s: labels of %s left out: they are unseen in training (ask for their task to score them).",
            file.name, listing(dropped, limit=8),
        )  # fmt: skip
    ignored = [column for column in strangers if column]
    if ignored and not missing:
        log.info("cxr_lt: %s: columns left out, no class of %s: %s.", file.name, tables.name, listing(ignored))
    return {name: frame[where[name]].to_numpy(dtype=object) for name in names if name in where}


def _without_removed(table: pd.DataFrame, file: Path, tables: Edition) -> pd.DataFrame:
    if not file.is_file():
        return table
    listed, _ = read_table(file, what="list of images to leave out")
    column = tables.id_column if tables.id_column in listed.columns else str(listed.columns[0])
    removed = table["image_id"].isin(set(text_column(listed, column)) - {""})
    log.warning("cxr_lt: %d of the %d images in %s are left out.", int(removed.sum()), len(listed), file.name)
    return table[~removed].reset_index(drop=True)


def _check_rows(table: pd.DataFrame, problems: Problems) -> None:
    """Note ids that are empty or stand twice, over all files, and studies of two patients."""
    ids = table["image_id"]
    for row in table.index[ids == ""][:3]:
        problems.add(f"{table['_source'][row]}: no image id; expected one.")
    twice = ids[ids.duplicated(keep=False) & (ids != "")]
    for name in list(dict.fromkeys(twice))[:5]:
        rows = table.index[ids == name]
        problems.add(f"image {name!r}: stands in {listing(list(table['_source'][rows]))}; expected once.")
    known = table[table["study_id"] != ""].drop_duplicates(["study_id", "patient_id"])
    torn = known[known["study_id"].duplicated(keep=False)]
    for study, part in list(torn.groupby("study_id", sort=False))[:5]:
        problems.add(
            f"study {study!r}: its images are of patients {listing(list(part['patient_id']))}; expected one patient."
        )


def _with_files(
    table: pd.DataFrame, folder: Path, images: Path | str | None, problems: Problems
) -> tuple[pd.DataFrame, Path]:
    """Point every row at its image, and return where relative paths start."""
    cells = pd.Series(table["path"].to_numpy(dtype=object), name="path", dtype=str)
    if images is None:
        return table, folder
    root = dataset_folder(images, layout="cxr_lt", expected="a folder of images, such as MIMIC-CXR-JPG's")
    direct = [_below(root, cell) for cell in cells]
    if any(path is None for path in direct):
        named = [_WIDTH.split(cell)[-1] for cell in cells]
        wanted = {name for name, path in zip(named, direct, strict=True) if path is None}
        found = files_by_name(root, wanted, problems=problems)
        direct = [found.get(name) if path is None else path for name, path in zip(named, direct, strict=True)]
    add_missing_images(problems, direct, cells)
    paths = [str(cell) if path is None else path.relative_to(root).as_posix()
             for path, cell in zip(direct, cells, strict=True)]  # fmt: skip
    return table.assign(path=paths), root


def _below(root: Path, cell: str) -> Path | None:
    """Return the file a path cell means, also where the root given is the folder `files` itself."""
    for path in (root / cell, root / cell.removeprefix("files/")):
        if "/" in cell and path.is_file():
            return path
    return None


def _note_views(manifest: Manifest) -> None:
    codes = manifest.frame["meta_view_position"]
    unknown = codes[codes.map(lambda code: view_kind(code) is None).to_numpy(dtype=bool)]
    for code, count in unknown.value_counts().items():
        rows = spreadsheet_rows((codes == code).to_numpy(dtype=bool))
        log.warning(
            "cxr_lt: view code %r (%d images, %s) is not known; it counts as 'other'. Known: AP, PA (frontal),"
            " LATERAL, LL (lateral) and MIMIC-CXR's rarer ones.", code, count, row_list(rows, limit=3),
        )  # fmt: skip
    blank = int((manifest.frame["view"] == "").sum())
    if blank:
        log.info("cxr_lt: %d of %d images have no view position.", blank, len(manifest))
