"""The scores a study is judged on: of each arm and seed one table of all images, made of what its cells predicted.

On tune, each image of a cross-validation is scored by the one model that did not learn from it. On test and on
external images the scores of the fold models are averaged. Those tables are opened here and nowhere else: once, when
every cell of every arm is finished, and that is written down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from medtail.errors import MedtailError, listing
from medtail.judging.pairing import pair_rows
from medtail.runs import digest_bytes, read_json, write_json
from medtail.studies.cells import Cell
from medtail.studies.decoding import chooser
from medtail.studies.protocol import Study, read_external
from medtail.tables.combine import average_predictions
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

OPENED = "opened.json"
TUNE, TEST, EXTERNAL = "tune", "test", "external_"
Tick = Callable[[int, int], None]


@final
@dataclass(frozen=True)
class ScoredSet:
    """One set of images, scored by every arm.

    Attributes:
        name: `tune`, `test` or `external_NAME`.
        tables: Arm → one table a seed, rows and classes in one order.
        by_fold: For every fold, arm → one table a seed, of that fold's model alone.
        manifest: Rows with their site, in any order.
    """

    name: str
    tables: Mapping[str, tuple[Predictions, ...]]
    by_fold: tuple[Mapping[str, tuple[Predictions, ...]], ...]
    manifest: Manifest

    @property
    def truth(self) -> Predictions:
        """Any of the tables, for what they share."""
        return next(iter(self.tables.values()))[0]


def whole_seeds(study: Study, root: Path) -> dict[str, tuple[int, ...]]:
    """Return each arm's seeds of which every fold is finished."""
    done = {(c.arm, c.seed, c.fold) for c in study.cells(root) if c.record.exists()}
    folds = range(study.num_folds)
    return {arm: tuple(s for s in study.seeds if all((arm, s, k) in done for k in folds)) for arm in study.arms}


def tune_set(study: Study, root: Path, seeds: Mapping[str, Sequence[int]]) -> ScoredSet:
    """Gather the scores on tune, with thresholds chosen on them.

    Args:
        study: The study.
        root: Its folder.
        seeds: Arm → seeds to take, whose cells are all finished; an arm without any is left out.

    Raises:
        MedtailError: A table is missing or damaged, or a cell scored other images.
    """
    return _gather(study, root, seeds, TUNE, study.manifest)


def opened(root: Path) -> dict[str, dict[str, object]]:
    """Return when and for which arms the sets beyond tune were opened."""
    return read_json(root / OPENED) if (root / OPENED).exists() else {}


def check_unopened(study: Study, root: Path) -> None:
    """Refuse arms that come after the final scores were seen.

    Raises:
        MedtailError: A set the study would judge has been opened for other arms.
    """
    for name in _final_sets(study):
        record = opened(root).get(name)
        if record is None:
            continue
        arms = record["arms"]
        assert isinstance(arms, list)
        late = [arm for arm in study.arms if arm not in arms]
        if late:
            raise MedtailError(
                f"{root}: {name.replace('_', ' ')} was opened on {record['time']} for {listing(arms, limit=12)}; scores"
                f" of {listing(late)} would be those of arms made afterwards. Judge `tune` (and leave `external` out),"
                " or begin a new study with all arms."
            )


def final_sets(
    study: Study, root: Path, tune: ScoredSet, *, tick: Callable[[str], Tick | None] | None = None
) -> list[ScoredSet]:
    """Open test, if that is judged, and the external tables, with the thresholds chosen on tune.

    Args:
        study: The study; every cell is finished.
        root: Its folder.
        tune: The scores on tune of all arms.
        tick: Given a set's name, returns what is told (cells scored, cells).

    Raises:
        MedtailError: Some cell is not finished, or an arm is new since a set was opened.
    """
    missing = [cell.name for cell in study.cells(root) if not cell.record.exists()]
    if missing:
        raise MedtailError(f"{root}: {len(missing)} cells are not finished ({listing(missing)}); nothing is opened.")
    check_unopened(study, root)
    seeds = dict.fromkeys(study.arms, study.seeds)
    found = []
    for name in _final_sets(study):
        manifest, fold = _manifest_of(study, name)
        cells = study.cells(root)
        told = None if tick is None else tick(name)
        for number, cell in enumerate(cells):
            _score(cell, name, manifest, fold)
            if told is not None:
                told(number + 1, len(cells))
        gathered = _gather(study, root, seeds, name, manifest)
        limits = {arm: [table.thresholds for table in tables] for arm, tables in tune.tables.items()}
        found.append(_with_thresholds(gathered, limits))
        record = opened(root)
        if name not in record:
            told_when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_json(root / OPENED, record | {name: {"time": told_when, "arms": list(study.arms)}})
    return found


def _final_sets(study: Study) -> list[str]:
    return [*([TEST] if study.judge.fold == "test" else []), *(EXTERNAL + name for name in study.external)]


def _manifest_of(study: Study, name: str) -> tuple[Manifest, str | None]:
    if name == TEST:
        return study.manifest, "test"
    external = name.removeprefix(EXTERNAL)
    return read_external(external, study.external[external], study.manifest), None


def _score(cell: Cell, name: str, manifest: Manifest, fold: str | None) -> None:
    from medtail.training.predict import predict

    if cell.predictions(name).exists():
        return
    # an arm whose scores depend on their company was asked for by name; the cautions say so
    if name == TEST:  # the fold's own table has the same test rows; its digest is the one the model knows
        manifest = read_manifest(cell.config.manifest, groups=cell.config.groups)
    predict(cell.folder, manifest, fold=fold, allow_batch_dependent=True, quiet=True).write(cell.predictions(name))


def _gather(study: Study, root: Path, seeds: Mapping[str, Sequence[int]], name: str, manifest: Manifest) -> ScoredSet:
    cells = {(cell.arm, cell.seed, cell.fold): cell for cell in study.cells(root)}
    single = {
        (arm, seed, k): _chosen_classes(study, cells[arm, seed, k].scores(name))
        for arm, taken in seeds.items()
        for seed in taken
        for k in range(study.num_folds)
    }
    if not single:
        raise MedtailError(f"{root}: no arm is finished yet; nothing to judge.")
    whole: dict[tuple[str, int], Predictions] = {}
    for arm, taken in seeds.items():
        for seed in taken:
            parts = [single[arm, seed, k] for k in range(study.num_folds)]
            joined = _stacked(parts) if name == TUNE else average_predictions(parts)
            joined = replace(joined, train_counts=_counts(study, joined), name=f"{arm}, seed {seed}")
            if name == TUNE:
                joined = replace(joined, thresholds=chooser(study.judge)(joined))
            whole[arm, seed] = joined
    paired = pair_rows({f"{arm}, seed {seed}": table for (arm, seed), table in whole.items()})
    tables = {arm: tuple(paired[f"{arm}, seed {seed}"] for seed in taken) for arm, taken in seeds.items() if len(taken)}
    by_fold = []
    for k in range(study.num_folds):
        parts_of = {f"{arm}, seed {s}": single[arm, s, k] for arm, taken in seeds.items() for s in taken}
        together = pair_rows(parts_of)
        by_fold.append(
            {
                arm: tuple(
                    replace(
                        together[f"{arm}, seed {s}"],
                        thresholds=tables[arm][r].thresholds,
                        train_counts=tables[arm][r].train_counts,
                    )
                    for r, s in enumerate(taken)
                )
                for arm, taken in seeds.items()
                if len(taken)
            }
        )
    return ScoredSet(name, tables, tuple(by_fold), manifest)


def _with_thresholds(scored: ScoredSet, limits: Mapping[str, Sequence[Mapping[str, float] | None]]) -> ScoredSet:
    def with_limits(tables: Mapping[str, tuple[Predictions, ...]]) -> dict[str, tuple[Predictions, ...]]:
        return {
            arm: tuple(replace(table, thresholds=limit) for table, limit in zip(found, limits[arm], strict=True))
            for arm, found in tables.items()
        }

    return replace(scored, tables=with_limits(scored.tables), by_fold=tuple(map(with_limits, scored.by_fold)))


def _chosen_classes(study: Study, table: Predictions) -> Predictions:
    if study.judge.classes is None:
        return table
    columns = [table.labels.index(name) for name in study.judge.classes]
    labels = table.labels.select(study.judge.classes)
    return replace(
        table,
        scores=table.scores[:, columns],
        targets=table.targets[:, columns],
        labels=labels,
        thresholds=None,
        train_counts=None if table.train_counts is None else table.train_counts.select(labels.class_names),
    )


def _counts(study: Study, table: Predictions) -> ClassCounts:
    return study.train_counts.select(table.labels.class_names)


def _stacked(parts: Sequence[Predictions]) -> Predictions:
    """Put the tune rows of all folds behind one another."""
    first = parts[0]
    if len(parts) == 1:
        return first
    ids = np.concatenate([part.image_ids for part in parts])
    if len(set(ids)) < len(ids):
        raise MedtailError("study: an image is in tune of two folds; the folds were not made by one cross-validation.")
    digests = dict(first.digests)
    digests["model"] = digest_bytes(*(part.digests.get("model", "").encode() for part in parts))
    return replace(
        first,
        image_ids=ids,
        patients=np.concatenate([part.patients for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
        thresholds=None,
        digests=digests,
    )
