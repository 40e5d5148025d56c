from __future__ import annotations

import io
from dataclasses import replace

import pytest
from ruamel.yaml import YAML

from medtail.reporting.checklists import CHECKLISTS
from medtail.reporting.facts import number
from medtail.reporting.model_card import checklist_tally, hub_header, model_card
from medtail.reporting.run_facts import RunFacts


@pytest.fixture
def facts(judged) -> RunFacts:
    return RunFacts(
        name="thyroid_run", labels=judged.predictions.labels, digest="ab" * 32, note="For research use only.",
        counts=judged.predictions.train_counts, thresholds=judged.predictions.thresholds,
        config={"loss": {"kind": "focal", "gamma": 2.0}, "cache": "secret-cache", "seed": 3},
        versions={"medtail": "1", "platform": "secret-machine"}, training={"tune_map": 0.61},
        manifest=judged.manifest, manifest_name="judged.csv", predictions=judged.predictions, results=judged.results,
        methods=("lin2017",),
    )  # fmt: skip


def header_of(text: str) -> dict:
    start, yaml, rest = text.split("---\n", 2)
    assert start == ""
    assert rest.startswith("\n# ")
    return YAML(typ="safe").load(io.StringIO(yaml))


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, header row first."""
    part = text.split(f"## {heading}\n", 1)[1]
    lines = []
    for line in part.splitlines():
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            break
    import re

    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if "|---|" not in line]


def test_the_header_is_yaml_with_the_results_themselves(facts):
    header = header_of(model_card(facts))
    assert header == hub_header(facts)
    (entry,) = header["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {"type": "judged-csv", "name": "judged.csv", "split": "test"}
    maps = [metric for metric in result["metrics"] if metric["type"] == "mean_average_precision"]
    assert maps[-1]["value"] == pytest.approx(facts.results.value("ap"), abs=1e-6)
    assert "all classes (" in maps[-1]["name"]
    assert "95 % interval [" in maps[-1]["name"]
    assert "license" not in header, "nobody has chosen one"


def test_the_hubs_own_reader_takes_the_header(facts):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(facts), ignore_metadata_errors=False)
    assert card.data.library_name == "medtail"
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert len(found) == len(hub_header(facts)["model-index"][0]["results"][0]["metrics"])
    assert all(isinstance(value, float) for value in found.values())


def test_every_class_stands_there_with_its_patients_and_interval(facts):
    columns, *rows = rows_of(model_card(facts), "Classes")
    assert len(rows) == facts.labels.num_classes
    at = {name: columns.index(name) for name in columns}
    by_name = {row[0]: row for row in rows}
    for found in facts.classes[:4]:
        row = by_name[found.name]
        assert row[at["train patients"]] == f"{found.train_patients:,}"
        assert row[at["AP"]] == found.ap.text().replace("[", "\\[").replace("]", "\\]")
        assert row[at["judged positives (patients)"]] == f"{found.n_pos} ({found.n_pos_patients})"
    absent = by_name["absent"]
    assert absent[at["AP"]] == "–", "no judged image shows it"


def test_results_are_those_of_the_table(facts):
    columns, *rows = rows_of(model_card(facts), "Results")
    overall = dict(zip(columns, rows[-1], strict=True))
    assert overall["classes"] == "all"
    assert overall["mAP"].split()[0] == number(facts.results.value("ap"))


def test_names_cannot_break_the_page(facts, judged):
    text = model_card(facts)
    assert judged.evil not in text
    assert '&lt;script>alert("x")&lt;/script>&amp;' in text
    lengths = {len(row) for row in rows_of(text, "Classes")}
    assert len(lengths) == 1, "every row has as many cells"


def test_what_is_not_known_is_a_gap_and_nothing_is_made_up(facts):
    bare = RunFacts("bare", facts.labels, digest="ab" * 32)
    text = model_card(bare)
    assert "The test fold has not been judged" in text
    assert "model-index" not in header_of(text)
    assert "mAP is" not in text
    assert text.count("**gap**") > model_card(facts).count("**gap**")
    assert rows_of(text, "Classes")[1][1:] == ["–", "–", "–"]


def test_both_checklists_are_there_item_by_item(facts):
    text = model_card(facts)
    for checklist in CHECKLISTS:
        columns, *rows = rows_of(text, checklist.name)
        assert columns == ["item", "asks for", "told", "by this run"]
        assert [row[0] for row in rows] == [item.number for item in checklist.items]
        told = [row[2] for row in rows]
        assert checklist_tally(facts, checklist) == (
            f"{len(rows)} items: {told.count('yes')} filled, {told.count('partly')} partly filled,"
            f" {told.count('**gap**')} gaps."
        )
        assert checklist_tally(facts, checklist) in text
    assert "replaces neither official form" in text


def test_the_machine_is_not_named(facts):
    assert "secret" not in model_card(facts)


def test_the_papers_of_the_methods_are_cited(facts):
    text = model_card(facts)
    assert "Focal Loss" in text
    assert "TRIPOD+AI" in text.split("## Provenance")[1]


def test_the_same_facts_give_the_same_text_and_other_results_another(facts):
    assert model_card(facts) == model_card(replace(facts))
    frame = facts.results.frame.copy()
    overall = (frame["metric"] == "ap") & (frame["class"] == "") & (frame["tail_group"] == "")
    frame.loc[overall, "value"] = 0.123456
    other = replace(facts, results=replace(facts.results, frame=frame))
    assert "0.123456" in model_card(other)
    assert "0.123456" not in model_card(facts)


def test_parts_of_the_model_are_named_and_those_it_has_not_are_left_out(facts):
    config = {"pixels": {"size_px": 64, "crop": "none", "margin": 0.15}, "band": {"kind": "none", "low": 10.0},
              "loss": {"kind": "focal", "gamma": 2.0}, "mix": None}  # fmt: skip
    text = model_card(replace(facts, config=config)).split("## Model\n")[1].split("## Data")[0]
    assert "- input: size px 64\n" in text
    assert "- loss: focal (gamma 2.0)\n" in text
    assert "band" not in text
    assert "mixing" not in text


def test_raw_scores_are_not_called_probabilities(facts):
    assert "none: scores are no probabilities" in model_card(facts)
