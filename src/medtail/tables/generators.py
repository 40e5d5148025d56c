"""Whose images a generator has learnt from, and that none of these patients judges, chooses or rewards.

A generator may have kept a patient's image almost whole, so a model trained on its products has in a way seen that
patient. Every pool of generated images carries a `record.json` with the generator's digest and the list of patients it
learnt from. `audit` reports a patient of such a list in `reward`, `tune` or `test` as an error, training refuses the
table, and so does whoever makes a pool for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError, Problems, listing
from medtail.runs import read_json
from medtail.tables.frames import spreadsheet_rows
from medtail.tables.manifest import Manifest
from medtail.tables.places import is_url

RECORD = "record.json"
SYNTHETIC = "syn:"
"""Patient ids of generated images start so; then 12 characters of the generator's digest, and a number."""
DIGEST_LENGTH = 12
SHUT = ("reward", "tune", "test")
"""Folds whose patients no generator may have learnt from."""


@final
@dataclass(frozen=True)
class GeneratorRecord:
    """What is known of a generator.

    Attributes:
        name: Where the record was found, for messages.
        digest: The generator's digest.
        patients: The patients it learnt from, as their manifest names them.
    """

    name: str
    digest: str
    patients: frozenset[str]

    @staticmethod
    def from_json(value: Mapping[str, Any], *, name: str = RECORD) -> GeneratorRecord:
        """Read a generator's or a pool's record.

        Args:
            value: An object with `train_patients`, and `generator_digest` (of a pool) or `digest` (of a generator).
            name: Where it was found.

        Raises:
            MedtailError: A key is missing or no list of text.

        Example:
            >>> GeneratorRecord.from_json({"digest": "0a1b", "train_patients": ["p1"]}).patients
            frozenset({'p1'})
        """
        digest, patients = value.get("generator_digest", value.get("digest")), value.get("train_patients")
        if not isinstance(digest, str) or not isinstance(patients, list):
            raise MedtailError(
                f"{name}: found the keys {listing(sorted(value), limit=12)}; expected the generator's digest and"
                " `train_patients`, a list. Without them nobody can tell whom the generator has seen: make it again."
            )
        return GeneratorRecord(name, digest, frozenset(map(str, patients)))


@final
@dataclass(frozen=True)
class GeneratorLeak:
    """Patients of one generator in one fold that must not have any.

    Attributes:
        record: The generator.
        fold: `reward`, `tune` or `test`.
        patients: The patients, in the table's order.
        rows: Their rows in that fold, as a spreadsheet numbers them.
    """

    record: GeneratorRecord
    fold: str
    patients: tuple[str, ...]
    rows: tuple[int, ...]

    def text(self) -> str:
        """Say what is wrong and what to do."""
        who = f"patient {self.patients[0]!r}" if len(self.patients) == 1 else f"{len(self.patients)} patients"
        named = "" if len(self.patients) == 1 else f" ({listing([repr(p) for p in self.patients], limit=3)})"
        return (
            f"generator {self.record.digest[:DIGEST_LENGTH]} ({self.record.name}): has learnt from {who}{named} whose"
            f" images are in {self.fold} (rows {listing(self.rows, limit=6)}); expected none, since its images may show"
            " them again. Train a generator on this table's train fold, one for each fold of a cross-validation."
        )


def find_leaks(manifest: Manifest, records: Sequence[GeneratorRecord]) -> tuple[GeneratorLeak, ...]:
    """Find the patients a generator learnt from who are in `reward`, `tune` or `test`.

    Args:
        manifest: The table, with folds.
        records: The generators.

    Returns:
        One leak a generator and fold.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": list("ab"), "path": "x.png",
        ...     "patient_id": ["p", "q"], "fold": ["train", "test"], "Hernia": 1}))
        >>> [leak.rows for leak in find_leaks(table, [GeneratorRecord("gen", "0a", frozenset({"p", "q"}))])]
        [(3,)]
    """
    patients, folds = manifest.patients.astype(str), manifest.folds.astype(str)
    found = []
    for record in records:
        learnt = np.isin(patients, sorted(record.patients))
        for fold in SHUT:
            rows = learnt & (folds == fold)
            if rows.any():
                who = tuple(dict.fromkeys(patients[rows].tolist()))
                found.append(GeneratorLeak(record, fold, who, tuple(spreadsheet_rows(rows))))
    return tuple(found)


def generator_leaks(manifest: Manifest, records: Sequence[GeneratorRecord]) -> tuple[str, ...]:
    """Return a sentence for each leak; see `find_leaks`."""
    return tuple(leak.text() for leak in find_leaks(manifest, records))


def find_records(manifest: Manifest) -> tuple[GeneratorRecord, ...]:
    """Read the records of the generators that made a table's synthetic images, where they lie beside them.

    They are looked for beside the images, in the folder above, and beside the table.

    Args:
        manifest: The table; without synthetic rows nothing is looked for.

    Returns:
        One record a generator and list of patients; empty where none is found.

    Raises:
        MedtailError: A record is there but damaged.
    """
    synthetic = ~manifest.is_real
    if not synthetic.any():
        return ()
    cells = manifest.frame.loc[synthetic, "path"].astype(str)
    folders = dict.fromkeys(Path(path).parent for path in cells if not is_url(path))
    places = [place for folder in folders for place in (manifest.root / folder, (manifest.root / folder).parent)]
    found: dict[tuple[str, frozenset[str]], GeneratorRecord] = {}
    for place in dict.fromkeys((*places, manifest.root)):
        if (place / RECORD).is_file():
            record = GeneratorRecord.from_json(read_json(place / RECORD), name=f"{place.name}/{RECORD}")
            found.setdefault((record.digest, record.patients), record)
    return tuple(found.values())


def unrecorded(manifest: Manifest, records: Sequence[GeneratorRecord]) -> np.ndarray:
    """Return which rows were made by a generator of which there is no record, bool [rows].

    A row names its generator in its patient id, `syn:<12 characters of the digest>:<number>`; other synthetic rows
    belong to any record there is.
    """
    known = {record.digest[:DIGEST_LENGTH] for record in records}
    patients = [str(patient) for patient in manifest.frame["patient_id"]]
    missing = [
        patient.split(":")[1] not in known if patient.startswith(SYNTHETIC) else not records for patient in patients
    ]
    return np.asarray(~manifest.is_real & np.array(missing, dtype=bool))


def check_generator_leaks(manifest: Manifest, *, records: Sequence[GeneratorRecord] | None = None) -> None:
    """Refuse a table whose synthetic images come from a generator that has seen its reward, tune or test patients.

    Args:
        manifest: The table.
        records: The generators; those found beside the images if None.

    Raises:
        MedtailError: There is such a patient; every generator and fold is named.
    """
    problems = Problems(manifest.name)
    for text in generator_leaks(manifest, find_records(manifest) if records is None else records):
        problems.add(text)
    problems.raise_if_any()
