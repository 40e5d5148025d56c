"""SynTUS-Net from simulated nodules to results, and the studies of its parts."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtail.config import config_to_dict, read_yaml
from medtail.sources.phantom import PhantomConfig
from medtail.sources.phantom_writing import phantom_manifest
from medtail.studies.arms import budgets, differences, resolve_arms
from medtail.studies.config import load_study
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.splits import split_manifest
from medtail.training.config import TrainConfig, load_train_config, merge, train_config
from medtail.training.ensembles import train
from medtail.training.predict import predict

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STUDIES = ("syntus_factorial", "syntus_parts", "syntus_sham")
MODULES = {
    "A": {"sampler.rake", "sampler.ledger", "tail_mix"},
    "B": {"head.attention", "head.batch_mixer"},
    "C": {"head.two_layers", *(f"objective.{part}" for part in ("balanced", "consistency", "lexical", "smoothing"))},
}


RELATIVE = ("echo_anechoic", "echo_hyper", "echo_iso", "echo_hypo", "echo_very_hypo", "margin_ete")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("phantom")
    manifest = phantom_manifest(folder / "nodules", images=120, config=PhantomConfig(size_px=32))
    found = split_manifest(manifest, fractions={"train": 0.5, "tune": 0.2, "test": 0.3}).manifest
    found.write(folder / "nodules" / "split.csv")
    return found


@pytest.fixture
def make(split: Manifest, tmp_path: Path) -> Any:
    def config(**changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "manifest": str(split.root / "split.csv"),
            "cache": str(tmp_path / "cache"),
            "pixels": {"size_px": 32},
            "optimizer": {"epochs": 2},
            "threads": 1,
            "accelerator": "cpu",
        }
        path = CONFIGS / "syntus" / "tiny.yaml"
        return train_config(merge(merge(read_yaml(path), values), changes), where=path.name, folder=tmp_path)

    return config


def log_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_phantoms_become_predictions_at_the_tiny_size(make: Any, split: Manifest, tmp_path: Path) -> None:
    config = make(sampler={"from_epoch": 1}, objective={"smoothing": {"from_epoch": 1}})
    outcome = train(config, tmp_path / "run", quiet=True)
    assert outcome.epochs_run == 2
    first, last = log_of(tmp_path / "run")
    assert all(np.isfinite(float(last[f"train_{part}"])) for part in ("loss", "cls", "lex", "con"))
    # the recipe keeps the epoch whose decoded reports are best, the earlier of equals
    quality = [float(first["tune_f1"]), float(last["tune_f1"])]
    assert outcome.best_epoch == 1 + int(np.argmax(quality))
    assert float(last["train_smoothed"]) > 0 == float(first["train_smoothed"])
    # natural labels in the first epoch, raked ones in the last
    assert float(first["rake_largest_weight"]) == pytest.approx(1.0)
    natural = dict(zip(split.labels.class_names, _train_shares(split), strict=True))
    assert float(first["reached_foci_rim"]) == pytest.approx(natural["foci_rim"])
    tail = min((name for name in natural if natural[name] > 0), key=natural.__getitem__)
    assert float(last[f"reached_{tail}"]) > 1.5 * natural[tail]
    scores = predict(tmp_path / "run", split, fold="test")
    assert len(scores) == int((split.folds == "test").sum())
    assert np.isfinite(scores.scores).all()


def _train_shares(manifest: Manifest) -> list[float]:
    return [float(value) for value in (manifest.targets[manifest.folds == "train"] == 1).mean(axis=0)]


@pytest.mark.slow
def test_a_run_cut_off_goes_on_as_if_nothing_had_happened(make: Any, tmp_path: Path) -> None:
    from medtail.training.callbacks import RunKeeper

    config = make(sampler={"from_epoch": 1}, optimizer={"epochs": 3})
    train(config, tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        write, epochs = RunKeeper._write, []

        def write_and_stop(self: RunKeeper, module: Any, *, is_best: bool) -> None:
            write(self, module, is_best=is_best)
            epochs.append(module.epoch)
            if len(epochs) == 2:
                raise KeyboardInterrupt

        patch.setattr(RunKeeper, "_write", write_and_stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(config, tmp_path / "cut", quiet=True)
    train(config, tmp_path / "cut", resume=True, quiet=True)
    for whole, cut in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "cut"), strict=True):
        assert {k: v for k, v in whole.items() if k != "seconds"} == {k: v for k, v in cut.items() if k != "seconds"}


@pytest.mark.parametrize(
    "changes",
    [
        {"tail_mix": {"probability": 1.0, "mixed": 0.0}},
        {"tail_mix": {"probability": 1.0, "mixed": 1.0, "tail_below": 0.3}},
        {"tail_mix": {"probability": 1.0, "mixed": 0.0, "paste": 1.0, "tail_below": 0.3}},
    ],
    ids=["strong", "mixed", "pasted"],
)
def test_tail_synthesis_touches_the_second_stream_alone(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Any]
) -> None:
    """What the network sees and is taught of rows as they come is the same whatever becomes of the raked ones."""
    import torch

    from medtail.training import module as training_module

    seen: list[torch.Tensor] = []
    taught: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    prepare, step = training_module.TrainingModule._prepare, training_module.Step

    def record_step(**values: Any) -> Any:
        taught.append((values["targets"].clone(), values["streams"].clone(), seen[-1].clone()))
        return step(**values)

    def record(self: Any, images: torch.Tensor) -> torch.Tensor:
        found = prepare(self, images)
        seen.append(found)
        return found

    monkeypatch.setattr(training_module.TrainingModule, "_prepare", record)
    monkeypatch.setattr(training_module, "Step", record_step)
    train(make(optimizer={"epochs": 1}, **changes), tmp_path / "run", quiet=True)
    first = list(taught)
    taught.clear()
    train(make(optimizer={"epochs": 1}, tail_mix=None), tmp_path / "plain", quiet=True)
    assert len(first) == len(taught) > 0
    differs = False
    for (targets, streams, images), (plain_targets, plain_streams, plain_images) in zip(first, taught, strict=True):
        assert torch.equal(streams, plain_streams)
        rows = streams == 0
        assert torch.equal(targets[rows], plain_targets[rows])
        assert torch.equal(images[rows], plain_images[rows])
        differs |= not torch.equal(images, plain_images) or not torch.equal(targets, plain_targets)
        if changes["tail_mix"].get("paste"):  # of a pasted lesion, what is relative to its surroundings is unknown
            emptied = targets.isnan() & ~plain_targets.isnan()
            labels = read_manifest(make().manifest, groups=make().groups).labels.class_names
            assert {labels[c] for c in emptied.any(dim=0).nonzero().flatten().tolist()} <= {*RELATIVE}
            assert torch.equal(targets[~emptied], plain_targets[~emptied]), "no label is made by pasting"
            continue
        for group in ((0, 1, 2, 3), (4, 5, 6, 7, 8), (9, 10), (11, 12, 13, 14)):  # a mixture is still one of each
            torch.testing.assert_close(targets[:, list(group)].sum(dim=1), torch.ones(len(targets)))
    assert differs


# --- the studies of its parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_arms_of_a_study_differ_in_the_named_switches_alone_and_spend_the_same(name: str) -> None:
    study, base = load_study(CONFIGS / "studies" / f"{name}.yaml")
    arms = resolve_arms(base, study.arms, where=name)
    assert len(study.seeds) >= 5
    spent = [budgets(arm.config, train_rows=3000) for arm in arms.values()]
    assert all(one == spent[0] for one in spent)
    assert {arm.config.sampler.kind for arm in arms.values()} == {"two_streams"}
    if name == "syntus_factorial":
        full = config_to_dict(arms["ABC"].config)
        for arm, found in arms.items():
            off = set("ABC") - set(arm if arm != "none" else "")
            keys = {change.key for change in differences(full, config_to_dict(found.config))}
            allowed = {key for module in off for key in MODULES[module]}
            changed = {next((k for k in allowed if key == k or key.startswith(f"{k}.")), key) for key in keys}
            assert changed == allowed, arm
        assert len(arms) == 8
    else:
        full = config_to_dict(arms["full"].config)
        for arm, found in arms.items():
            keys = {change.key for change in differences(full, config_to_dict(found.config))}
            tops = {".".join(key.split(".")[:2]) if not key.startswith("tail_mix") else "tail_mix" for key in keys}
            if arm != "full":
                assert len(tops) == (2 if arm == "no_consistency" else 1), (arm, keys)


@pytest.mark.parametrize("config", sorted((CONFIGS / "syntus").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid(config: Path) -> None:
    found = load_train_config(config)
    assert found.recipe == "syntus"
    assert found.tail_mix is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"two_layers": False}}, "consistency: compares two last layers; expected a head with `kind: syntus"),
        ({"sampler": {"kind": "uniform"}}, "smoothing: needs an account of how hard rows have been"),
        (
            {"sampler": {"kind": "uniform"}, "objective": {"kind": "plain"}, "head": {"kind": "linear"}},
            "tail_mix.stream: found 1, but sampler 'uniform' has streams 0 to 0",
        ),
        ({"objective": {"kind": "plain"}}, "head.batch_mixer: its route is read by the objective 'syntus' alone"),
        ({"optimizer": {"batch_size": 1}}, "a sampler of two streams expected at least 2"),
        ({"tail_mix": {"tail_below": 1e-6}}, "tail_mix.tail_below: no label is in fewer than"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    make: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    from medtail.errors import MedtailError

    with pytest.raises(MedtailError, match=message):
        train(make(**changes), tmp_path / "run", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["syntus_factorial", "syntus_sham"])
def test_every_arm_trains(make: Any, tmp_path: Path, name: str) -> None:
    study, base = load_study(CONFIGS / "studies" / f"{name}.yaml")
    small = config_to_dict(make(optimizer={"epochs": 1, "batch_size": 16}))
    for key in ("manifest", "cache", "pixels", "optimizer", "threads", "accelerator"):
        base[key] = small[key]
    for arm, found in resolve_arms(base, study.arms, where=name).items():
        outcome = train(found.config, tmp_path / arm, quiet=True)
        assert outcome.epochs_run == 1
