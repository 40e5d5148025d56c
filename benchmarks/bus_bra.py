"""The recipes on BUS-BRA against two yardsticks, all judged on the same held-out fold in one run.

    python benchmarks/bus_bra.py --data ../shared/data/bus_bra --out runs/bus_bra

Official folds 1-3 are train and tune, fold 4 is test and opened once, at the end. Yardstick 1: scikit-learn logistic
regression on frozen `efficientnet_lite0` features. Yardstick 2: what a good plain fine-tuning script does (class head
with logit-adjusted cross-entropy, AdamW, cosine, flips), trained on all of folds 1-3. Then the project's configs.
Every row gets a patient-level interval; the differences to each yardstick are paired on the same resamples.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from medtail.judging.decisions import decide
from medtail.judging.metrics import auroc, average_precision
from medtail.models.backbones import EfficientNetLite0Config, build_backbone
from medtail.pixels.dataset import to_float
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import open_store
from medtail.seeding import stream
from medtail.sources.bus_bra import import_bus_bra
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import Predictions, scores_from_logits
from medtail.tables.splits import split_manifest
from medtail.training.config import load_train_config
from medtail.training.ensembles import train
from medtail.training.judged import judge_run

PIXELS = PixelConfig(size_px=128, channels=1, crop="roi", margin=0.15)
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TASKS = {"malignancy": "bus_bra_malignancy", "subtypes": "bus_bra_subtypes"}


def figures(scores: np.ndarray, targets: np.ndarray, groups: tuple[tuple[int, ...], ...]) -> dict[str, float]:
    """AUROC, AP and F1 of the malignant column, or macro over the supported classes of the histology group."""
    if not groups:
        return {"auroc": auroc(scores[:, 0], targets[:, 0]), "ap": average_precision(scores[:, 0], targets[:, 0])}
    supported = [c for c in range(targets.shape[1]) if 0 < targets[:, c].sum() < len(targets)]
    decisions = decide(scores, thresholds=np.full(targets.shape[1], 0.5), groups=groups)
    overlap, called = (decisions & (targets == 1)).sum(0), decisions.sum(0)
    f1 = 2 * overlap / np.maximum(called + (targets == 1).sum(0), 1)
    return {
        "auroc": float(np.mean([auroc(scores[:, c], targets[:, c]) for c in supported])),
        "ap": float(np.mean([average_precision(scores[:, c], targets[:, c]) for c in supported])),
        "f1": float(np.mean(f1[supported])),
    }


def frozen_features(images: np.ndarray) -> np.ndarray:
    """Pooled features of the ImageNet network, float32 [N, 1280]."""
    backbone = build_backbone(EfficientNetLite0Config(), channels=1, size_px=PIXELS.size_px).eval()
    with torch.inference_mode():
        parts = [
            backbone(to_float(torch.from_numpy(images[k : k + 64]))).mean((2, 3)) for k in range(0, len(images), 64)
        ]
    return torch.cat(parts).numpy()


def logistic(features: np.ndarray, targets: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray) -> np.ndarray:
    """Scores of a logistic regression with scikit-learn's defaults; a class never seen scores 0."""
    scaler = StandardScaler().fit(features[train_rows])
    labels = targets[train_rows].argmax(1) if targets.shape[1] > 1 else targets[train_rows, 0].astype(int)
    model = LogisticRegression(max_iter=3000).fit(scaler.transform(features[train_rows]), labels)
    probabilities = model.predict_proba(scaler.transform(features[test_rows]))
    if targets.shape[1] == 1:
        return probabilities[:, 1:]
    scores = np.zeros((len(test_rows), targets.shape[1]))
    scores[:, model.classes_] = probabilities
    return scores


def plain_script(
    images: np.ndarray, targets: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray, *, epochs: int, seed: int
) -> np.ndarray:
    """Fine-tune the way a good short script does; no tune fold, no averaging of weights, last epoch."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    backbone = build_backbone(EfficientNetLite0Config(), channels=1, size_px=PIXELS.size_px).to(
        memory_format=torch.channels_last
    )
    head = torch.nn.Linear(1280, targets.shape[1])
    weights = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=5e-4, weight_decay=0.01)
    steps = len(train_rows) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-4, total_steps=epochs * steps, pct_start=0.1)
    counts = torch.tensor(np.maximum(targets[train_rows].sum(0), 0.5), dtype=torch.float32)
    log_prior = torch.log(counts / counts.sum())
    for _ in range(epochs):
        order = random.permutation(train_rows)
        backbone.train()
        for k in range(steps):
            rows = order[k * 32 : (k + 1) * 32]
            batch = to_float(torch.from_numpy(images[rows]))
            flipped = torch.from_numpy(random.random(32) < 0.5)
            batch = torch.where(flipped[:, None, None, None], batch.flip(3), batch) * (
                0.85 + 0.3 * float(random.random())
            )
            logits = head(F.dropout(backbone(batch.clamp(0, 1)).mean((2, 3)), 0.2))
            wanted = torch.from_numpy(targets[rows]).float()
            if targets.shape[1] > 1:
                loss = F.cross_entropy(logits + log_prior, wanted.argmax(1))
            else:
                loss = F.binary_cross_entropy_with_logits(logits, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    backbone.eval()
    with torch.inference_mode():
        logits = torch.cat(
            [head(backbone(to_float(torch.from_numpy(images[r]))).mean((2, 3))) for r in np.array_split(test_rows, 8)]
        ).numpy()
    return scores_from_logits(logits, (tuple(range(targets.shape[1])),) if targets.shape[1] > 1 else ())


def paired(
    systems: dict[str, np.ndarray], targets: np.ndarray, patients: np.ndarray, groups: tuple[tuple[int, ...], ...]
) -> dict[str, dict[str, dict[str, float]]]:
    """Values, patient-level intervals and differences to the recipe, all on the same 1,000 resamples."""
    people, index = np.unique(patients.astype(str), return_inverse=True)
    rows_of = [np.flatnonzero(index == k) for k in range(len(people))]
    random = stream(0, "benchmark", "bus_bra")
    values = {name: figures(scores, targets, groups) for name, scores in systems.items()}
    draws: dict[str, dict[str, list[float]]] = {n: {m: [] for m in values[n]} for n in systems}
    for _ in range(1000):
        rows = np.concatenate([rows_of[k] for k in random.integers(len(people), size=len(people))])
        for name, scores in systems.items():
            for metric, value in figures(scores[rows], targets[rows], groups).items():
                draws[name][metric].append(value)
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name in systems:
        out[name] = {}
        for metric, value in values[name].items():
            low, high = np.nanpercentile(draws[name][metric], [2.5, 97.5])
            difference = np.array(draws["recipe"][metric]) - np.array(draws[name][metric])
            d_low, d_high = np.nanpercentile(difference, [2.5, 97.5])
            out[name][metric] = {
                "value": value, "low": float(low), "high": float(high),
                "recipe_minus": values["recipe"][metric] - value, "diff_low": float(d_low), "diff_high": float(d_high),
            }  # fmt: skip
    return out


def recipe_scores(config_name: str, table: Path, out: Path, seed: int) -> tuple[Predictions, float]:
    """Train a config, predict its test fold; return predictions and minutes."""
    started = time.perf_counter()
    config = replace(load_train_config(CONFIGS / f"{config_name}.yaml"), manifest=str(table.resolve()), seed=seed)
    run = out / config_name
    if not (run / "model").is_dir():
        train(config, run)
    predictions = judge_run(run, quiet=True).predictions
    return predictions, (time.perf_counter() - started) / 60


def ready_manifest(data: Path, out: Path) -> tuple[Manifest, Path]:
    """Import, hold out official fold 4, split the rest 9:1 into train and tune by patient."""
    table = out / "split.csv"
    if not table.exists():
        manifest = import_bus_bra(data, test_fold=4)
        split_manifest(manifest, fractions={"train": 0.9, "tune": 0.1}, seed=0).manifest.write(table)
    return read_manifest(table), table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/bus_bra"))
    parser.add_argument("--epochs", type=int, default=18, help="of the plain script, per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--yardsticks", action="store_true", help="only compute and keep the plain script's scores")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    manifest, table = ready_manifest(options.data, options.out)
    images = open_store(manifest, PIXELS).images(np.arange(len(manifest)))
    learn, test = (np.flatnonzero(np.isin(manifest.folds.astype(str), f)) for f in (["train", "tune"], ["test"]))
    started = time.perf_counter()
    features = frozen_features(images)
    report: dict[str, object] = {"minutes": {}}
    for task in options.tasks:
        config_name = TASKS[task]
        names = [n for n in manifest.labels.class_names if (n == "malignant") == (task == "malignancy")]
        targets = manifest.with_classes(names).targets
        minutes: dict[str, float] = {}
        frozen = logistic(features, targets, learn, test)
        minutes["frozen"] = (time.perf_counter() - started) / 60
        started = time.perf_counter()
        kept = options.out / f"plain_{task}_{options.seed}.npy"
        if not kept.exists():
            np.save(kept, plain_script(images, targets, learn, test, epochs=options.epochs, seed=options.seed))
        plain = np.load(kept)
        minutes["plain script"] = (time.perf_counter() - started) / 60
        if options.yardsticks:
            continue
        predictions, minutes["recipe"] = recipe_scores(config_name, table, options.out, options.seed)
        order = {image_id: k for k, image_id in enumerate(predictions.image_ids)}
        rows = np.array([order[i] for i in manifest.frame["image_id"].to_numpy()[test]])
        columns = [predictions.labels.index(name) for name in names]
        recipe = predictions.scores[np.ix_(rows, columns)]
        groups = (tuple(range(len(names))),) if len(names) > 1 else ()
        systems = {"recipe": recipe, "frozen + logistic regression": frozen, "plain script": plain}
        np.savez(options.out / f"scores_{task}.npz", targets=targets[test], **systems)
        found = paired(systems, targets[test], manifest.patients[test], groups)
        report[task] = found
        report["minutes"][task] = minutes  # type: ignore[index]
        print(f"\n{task}: {len(test)} images, {len(set(manifest.patients[test]))} patients, minutes {minutes}")
        for name, metrics in found.items():
            cells = [f"{m} {v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for m, v in metrics.items()]
            print(f"  {name:30}", "  ".join(cells))
            if name != "recipe":
                cells = [
                    f"{v['recipe_minus']:+.3f} [{v['diff_low']:+.3f}, {v['diff_high']:+.3f}]" for v in metrics.values()
                ]
                print(f"  {'  recipe minus this':30}", "  ".join(cells))
        started = time.perf_counter()
    (options.out / f"benchmark_{'_'.join(options.tasks)}.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
