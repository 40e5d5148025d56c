"""One door to all layouts: `import_layout("bus_bra", folder, options=…)`.

The layouts are a closed list, dispatched by `match`; each has its own file beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import final

from medtail.errors import Problems, UsageError, did_you_mean
from medtail.tables.duplicates import Reader
from medtail.tables.manifest import Manifest

LAYOUTS = {
    "csv": "your own table: a row an image, columns named with options",
    "folders": "one sub-folder a class",
    "bus_bra": "BUS-BRA, breast ultrasound: labels.csv, images/, masks/",
    "breast_usg": "BrEaST-Lesions-USG, breast ultrasound with BI-RADS descriptors: labels.csv, images/, masks/",
    "nih_cxr": "NIH ChestX-ray14: Data_Entry_2017*.csv with images anywhere below, or labels.csv, or a table alone",
    "cxr_lt": "CXR-LT 2023, 2024, 2026 (MIMIC-CXR-JPG, PadChest) or NIH in its layout: the label files as handed out",
    "medmnist": "MedMNIST .npz with its own split; images are written as PNG files",
    "ham10000": "HAM10000, dermatoscopy: HAM10000_metadata.csv, IMAGE_ID.jpg anywhere below",
    "ddti": "DDTI, thyroid ultrasound: N.xml a case with descriptors and polygons, N_1.jpg, N_2.jpg, …",
    "thyro_lmd": "Thyro-LMD's protocol: labels.csv with twenty thyroid descriptors, images and masks beside it",
    "busi": "BUSI, breast ultrasound: benign/, malignant/, normal/ with masks; near-duplicates count as one patient",
    "dicom": "a folder of DICOM files, and a table with their labels",
}
"""Layout → one line on what it is."""

TAKES = {
    "csv": ("image_column", "patient_column", "label_column", "label_columns", "separator", "negative", "keep",
            "images"),
    "folders": ("patient_pattern",),
    "bus_bra": ("test_fold",),
    "nih_cxr": ("images",),
    "cxr_lt": ("edition", "task", "images"),
    "medmnist": ("images_out", "class_names"),
    "dicom": ("labels",),
    "ddti": ("masks_out",),
}  # fmt: skip
"""Layout → the options it takes; a layout not named takes none."""


@final
@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of all layouts; None or empty where not given. Giving a layout one that it does not take is an error.

    Attributes:
        image_column: csv: column with the image file.
        patient_column: csv: column with the patient.
        label_column: csv: one column naming the class, or several classes joined by a separator.
        label_columns: csv: 0/1 columns, one a class.
        separator: csv: what joins several classes in `label_column`.
        negative: csv: names in `label_column` that mean none of the classes.
        keep: csv: further columns to carry along as `meta_…`.
        images: csv, nih_cxr, cxr_lt: folder the image files are in; csv: or its URL.
        labels: dicom: table with the labels.
        patient_pattern: folders: regular expression whose one group is the patient.
        test_fold: bus_bra: official fold to hold out as test.
        images_out: medmnist: new folder to write the images to.
        class_names: medmnist: names of the classes 0, 1, ….
        masks_out: ddti: new folder to draw the polygons into.
        edition: cxr_lt: `2023`, `2024`, `2026`, `nih14` or `nih20`, where the files do not tell.
        task: cxr_lt: whose classes to read; 1 if left out.
    """

    image_column: str | None = None
    patient_column: str | None = None
    label_column: str | None = None
    label_columns: tuple[str, ...] = ()
    separator: str | None = None
    negative: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    images: Path | str | None = None
    labels: Path | None = None
    patient_pattern: str | None = None
    test_fold: int | None = None
    images_out: Path | None = None
    class_names: tuple[str, ...] = ()
    masks_out: Path | None = None
    edition: str | None = None
    task: int | None = None


def import_layout(
    layout: str,
    path: Path | str,
    *,
    options: ImportOptions | None = None,
    read_image: Reader | None = None,
) -> Manifest:
    """Turn a known layout on disk into a Manifest.

    Args:
        layout: A key of `LAYOUTS`.
        path: The folder or file in that layout.
        options: What the layout takes beyond the path; see `ImportOptions`.
        read_image: How to decode an image, such as `medtail.read_image`; `busi` needs it to find near-duplicates.

    Returns:
        The manifest, paths relative to the data set's folder; `Manifest.write` makes them relative to its file.

    Raises:
        UsageError: An unknown layout, options that it does not take, or no `read_image` where it is needed.
        MedtailError: What lies at `path` is not in the layout; all mistakes at once.

    Example:
        >>> import_layout("bus_bra", "nowhere")
        Traceback (most recent call last):
        medtail.errors.MedtailError: bus_bra: no folder 'nowhere'; expected the layout: labels.csv (image, patient, \
histology, pathology, …), images/ and, if wanted, masks/.
    """
    options = options or ImportOptions()
    if layout not in LAYOUTS:
        near = did_you_mean(layout, LAYOUTS)
        raise UsageError(f"layout {layout!r}: unknown{near or '.'} Known: {', '.join(LAYOUTS)}.")
    _check_options(layout, options)
    # each layout is imported when it is asked for: pydicom and the duplicate search are slow to load
    match layout:
        case "csv":
            from medtail.sources.csv import import_csv

            return import_csv(
                path,
                image_column=options.image_column,
                patient_column=options.patient_column,
                label_column=options.label_column,
                label_columns=options.label_columns,
                separator=options.separator,
                negative=options.negative,
                keep=options.keep,
                images=options.images,
            )
        case "folders":
            from medtail.sources.folders import import_folders

            return import_folders(path, patient_pattern=options.patient_pattern)
        case "bus_bra":
            from medtail.sources.bus_bra import import_bus_bra

            return import_bus_bra(path, test_fold=options.test_fold)
        case "breast_usg":
            from medtail.sources.breast_usg import import_breast_usg

            return import_breast_usg(path)
        case "nih_cxr":
            from medtail.sources.nih_cxr import import_nih_cxr

            return import_nih_cxr(path, images=options.images)
        case "cxr_lt":
            from medtail.sources.cxr_lt_import import import_cxr_lt

            return import_cxr_lt(
                path, edition=options.edition, task=1 if options.task is None else options.task, images=options.images
            )
        case "medmnist":
            from medtail.sources.medmnist import import_medmnist

            return import_medmnist(path, images_out=options.images_out, class_names=options.class_names or None)
        case "ham10000":
            from medtail.sources.ham10000 import import_ham10000

            return import_ham10000(path)
        case "ddti":
            from medtail.sources.ddti import import_ddti

            return import_ddti(path, masks_out=options.masks_out)
        case "thyro_lmd":
            from medtail.sources.thyro_lmd import import_thyro_lmd

            return import_thyro_lmd(path)
        case "busi":
            from medtail.sources.busi import import_busi

            if read_image is None:
                raise UsageError("busi: no read_image; expected a decoder such as medtail.read_image.")
            return import_busi(path, read_image=read_image)
        case "dicom":
            from medtail.sources.dicom import import_dicom

            return import_dicom(path, labels=options.labels)
    raise AssertionError(f"layout {layout!r} is listed but not dispatched")


def _check_options(layout: str, options: ImportOptions) -> None:
    taken = TAKES.get(layout, ())
    problems = Problems(f"layout {layout!r}")
    for option in fields(options):
        if getattr(options, option.name) not in (None, ()) and option.name not in taken:
            has = f"it takes {', '.join(taken)}" if taken else "it takes none"
            problems.add(f"option {option.name!r}: not one of this layout's; {has}.")
    problems.raise_if_any(kind=UsageError)
