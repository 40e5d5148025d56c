from __future__ import annotations

import shutil

import pytest

from medtail.cli.main import call
from medtail.errors import MedtailError
from medtail.training.ensembles import train
from medtail.training.judged import judge_run
from medtail.training.model_card import gather_facts, try_model_card, write_model_card


@pytest.fixture
def run(make_config, tmp_path):
    return train(make_config(optimizer={"epochs": 1, "batch_size": 18}), tmp_path / "run", quiet=True).run


def card_of(run) -> str:
    return (run / "model" / "README.md").read_text(encoding="utf-8")


def test_the_run_writes_its_card_and_writes_it_again_when_judged_and_calibrated(run):
    first = card_of(run)
    assert "The test fold has not been judged" in first
    judgement = judge_run(run, quiet=True)
    second = card_of(run)
    assert "model-index:" in second
    assert f"value: {round(judgement.results.value('ap'), 6)}" in second
    assert call(["calibrate", str(run), "--bootstrap", "0"]) == 0
    third = card_of(run)
    assert "fitted on" in third
    assert "The test fold has not been judged" in third, "its verdict is of the scores before calibration"
    assert not (run / "model" / "README.new.md").exists()


def test_an_ensemble_has_one_card_that_counts_its_networks(make_config, tmp_path):
    config = make_config(members=2, optimizer={"epochs": 1, "batch_size": 18}, test_time_flip=True)
    run = train(config, tmp_path / "two", quiet=True).run
    assert "- networks: 2, scores averaged" in card_of(run)
    assert "mirror image" in card_of(run)
    assert not list(run.rglob("member_*/README.md"))


def test_an_edited_card_is_never_overwritten(run):
    text = card_of(run)
    (run / "model" / "README.md").write_text(text.replace("**gap**", "Thyroid clinics.", 1), encoding="utf-8")
    assert write_model_card(run) == run / "model" / "README.new.md"
    assert "Thyroid clinics." in card_of(run)
    assert (run / "model" / "README.new.md").read_text(encoding="utf-8") == text
    (run / "model" / "README.md").unlink()
    assert write_model_card(run) == run / "model" / "README.md"


def test_the_card_names_no_folder_of_this_machine(run, tmp_path):
    assert str(tmp_path) not in card_of(run)
    assert "toy.csv" in card_of(run)


def test_a_table_that_has_changed_is_not_described(run, tmp_path):
    table = tmp_path / "toy.csv"
    table.write_text(table.read_text().replace("p01", "p99"))
    assert gather_facts(run).manifest is None
    write_model_card(run)
    assert "The table of images is not at hand" in card_of(run)


def test_results_of_other_weights_are_not_told(run):
    judge_run(run, quiet=True)
    header = run / "results" / "test.csv.json"
    header.write_text(header.read_text().replace(gather_facts(run).digest, "99" * 32))
    assert gather_facts(run).results is None


def test_a_config_of_another_version_still_says_what_was_done(run):
    path = run / "config.yaml"
    path.write_text(path.read_text() + "forgotten_key: /home/somebody/weights\nolder: [C:\\data\\x, echo=*/y]\n")
    facts = gather_facts(run)
    assert facts.config["forgotten_key"] == "weights"
    assert facts.config["older"] == ["x", "echo=*/y"], "only absolute paths name a machine"
    assert facts.config["backbone"]["kind"] == "resnet"
    assert facts.methods == ()


def test_an_unused_loss_is_not_claimed(make_config, tmp_path):
    config = make_config(objective={"kind": "two_way"}, optimizer={"epochs": 1, "batch_size": 18})
    run = train(config, tmp_path / "two_way", quiet=True).run
    assert "loss" not in gather_facts(run).config
    assert "- loss:" not in card_of(run)


def test_a_run_does_not_fail_over_its_card(run, caplog):
    shutil.rmtree(run / "model")
    with pytest.raises(MedtailError, match=r"no card\.json"):
        write_model_card(run)
    try_model_card(run)
    assert "The model card was not written (MedtailError)" in caplog.text
