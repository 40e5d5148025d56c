"""The report as a file: complete, self-contained, safe, the same bytes each time."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.retarget import retarget
from medtail.reporting.facts import class_facts
from medtail.reporting.report import write_report
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import manifest_from_frame
from medtail.tables.predictions import Predictions
from medtail.tables.results import results_from_rows

VOID = {"meta", "br", "img"}
FIRST = ["summary", "groups", "classes", "figures", "reliability", "decisions"]
LAST = ["examples", "data", "methods", "limits", "references"]
SECTIONS = [*FIRST, *LAST]


class Page(HTMLParser):
    """Collects what the tests ask about and insists that every tag is closed by its own end tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def full(judged, tmp_path_factory) -> str:
    """The page with everything in it."""
    from PIL import Image

    return write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        predictions=judged.predictions,
        results=judged.results,
        title=f"Report {judged.evil}",
        card={"backbone": "resnet", "note": judged.evil},
        config={"loss": {"kind": "asl"}, "note": judged.evil},
        manifest=judged.manifest,
        read_image=lambda path: np.asarray(Image.open(path), dtype=float) / 255.0,
        log=pd.DataFrame({"epoch": [0, 1], "train_loss": [1.0, 0.5], "tune_map": [0.1, 0.2]}),
        methods=["ridnik2021", "he2016"],
    ).read_text(encoding="utf-8")


def test_sections_come_in_order_and_the_contents_lead_to_them(full) -> None:
    page = Page(full)
    assert [attrs["id"] for attrs in page.named("section")] == SECTIONS
    assert [attrs["href"] for attrs in page.named("a")] == [f"#{name}" for name in SECTIONS]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_ids_are_unique_and_references_inside_the_page_resolve(full) -> None:
    page = Page(full)
    ids = Counter(attrs["id"] for _, attrs in page.tags if "id" in attrs)
    assert max(ids.values()) == 1
    used = {attrs[name] for _, attrs in page.tags for name in ("aria-labelledby",) if name in attrs}
    used |= set(re.findall(r"url\(#([\w-]+)\)", full))
    assert used
    assert used <= set(ids)


def test_page_fetches_nothing(full) -> None:
    page = Page(full)
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "video", "audio", "use")
        for name, value in attrs.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("src", "href", "srcset", "poster", "data", "action"):
                assert value.startswith(("#", "data:image/jpeg;base64,")), f"{tag} {name}={value[:60]}"
    assert not re.search(r"https?://|@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", full)


def test_security_policy_allows_exactly_the_style_and_script_inside(full) -> None:
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', full)[1])
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", full, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # a policy of hashes would silently ignore style attributes
    assert not any("style" in attrs for _, attrs in Page(full).tags)


def test_markup_in_names_ids_and_config_stays_text(full, judged) -> None:
    assert full.count("<script") == 1
    assert judged.evil not in full
    assert "<b>i203" not in full
    assert html.escape(judged.evil, quote=False).replace('"', "&#34;") in full


def test_numbers_on_the_page_are_those_of_the_results(full, judged) -> None:
    body = re.search(r'id="class-table">.*?<tbody>(.*?)</tbody>', full, flags=re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
    assert len(rows) == judged.predictions.labels.num_classes
    for row in rows:
        keys = [html.unescape(key) for key in re.findall(r'data-v="([^"]*)"', row)]
        for column, metric in ((4, "n_pos"), (5, "n_pos_patients"), (6, "prevalence"), (7, "ap"), (8, "ap_chance"),
                               (9, "auroc"), (10, "f1"), (11, "recall"), (12, "precision"), (13, "specificity"),
                               (15, "ece")):  # fmt: skip
            stored = judged.results.value(metric, class_name=keys[0])
            assert (float(keys[column]) == stored) if keys[column] else np.isnan(stored), (keys[0], metric)


def test_undefined_values_are_a_dash_with_the_reason(full) -> None:
    row = re.search(r'<tr><th scope="row" data-v="absent".*?</tr>', full, flags=re.DOTALL)[0]
    assert row.count('<td data-v="" title="not defined: no positives">–</td>') >= 4
    assert ">nan<" not in full.lower()
    assert "NaN" not in full


def test_every_drawing_and_picture_has_words(full) -> None:
    page = Page(full)
    assert len(page.named("svg")) >= 2 * 7 + 5
    assert all(attrs.get("aria-label") and attrs.get("role") == "img" for attrs in page.named("svg"))
    assert len(page.named("img")) >= 8
    assert all(
        attrs.get("alt") and int(attrs["width"]) <= 192 and int(attrs["height"]) <= 192 for attrs in page.named("img")
    )


def test_references_are_exactly_those_of_the_methods(full) -> None:
    listed = re.search(r'<ol class="references">(.*?)</ol>', full, flags=re.DOTALL)[1]
    found = re.findall(r"<li>(\w+)", listed)
    assert {"Ridnik", "He", "Efron", "Saito", "Naeini", "Lipton", "Lin", "Kumar"} == set(found) - {"Hanley"}


@pytest.fixture(scope="module")
def whole(judged, tmp_path_factory) -> tuple[str, str]:
    """Two pages of the same inputs with every section of the judge, names hostile wherever names can be."""
    predictions = replace(judged.predictions, digests={**judged.predictions.digests, "calibration": "c" * 64})
    site = np.where(np.arange(len(predictions)) % 3 == 0, judged.evil, "south").astype(object)
    config = EvaluationConfig(bootstrap=64, tail_cuts=(0.3, 0.11), critical=(judged.evil, "common"))
    results = evaluate(predictions, config=config, by={"site": site})
    tune = replace(
        predictions,
        image_ids=np.array([f"t{n}" for n in range(len(predictions))], dtype=object),
        patients=np.array([f"t{p}" for p in predictions.patients], dtype=object),
        folds=np.full(len(predictions), "tune", dtype=object),
    )
    there = retarget(predictions, {judged.evil: {judged.evil: 0.01, "rare": 0.02}}, config=config)
    folder = tmp_path_factory.mktemp("whole")
    first, second = (
        write_report(
            folder / name, predictions=predictions, results=results, title="Whole", tune=tune, retargeted=there
        ).read_text("utf-8")
        for name in ("a.html", "b.html")
    )
    return first, second


def test_heat_maps_of_the_model_have_a_section_and_those_of_another_are_refused(judged, tmp_path) -> None:
    measure = {
        "class": "",
        "measure": "gap_over_chance",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "maps": 1,
        "patients": 1,
    }
    record = {
        "format": "medtail-explain/1", "method": "layer_cam", "branch": "joint", "members": 1, "model": "a" * 64,
        "verdicts": {"randomisation": {"passed": False, "words": f"failed: {judged.evil}"}}, "sanity": [measure],
        "maps": [],
    }  # fmt: skip
    (tmp_path / "explain.json").write_text(json.dumps(record))
    given = {"predictions": judged.predictions, "results": judged.results, "title": "T", "explained": tmp_path}
    page = write_report(tmp_path / "r.html", **given).read_text("utf-8")
    assert '<a href="#explained">Where the model looks</a>' in page
    assert "Randomisation check failed: " in page
    assert judged.evil not in page
    assert "Before you believe a map" in page
    with pytest.raises(MedtailError, match="of the model aaaaaaaaaaaa; expected bbbbbbbbbbbb"):
        write_report(tmp_path / "s.html", **given, card={"digests": {"weights": "b" * 64}})


def test_every_section_of_the_judge_stands_in_order_and_well_formed(whole) -> None:
    page = Page(whole[0])
    middle = ["subgroups", "conformal", "abstention", "prevalence"]
    assert [attrs["id"] for attrs in page.named("section")] == [*FIRST, *middle, *LAST[1:]]
    ids = Counter(attrs["id"] for _, attrs in page.tags if "id" in attrs)
    assert max(ids.values()) == 1
    assert not any("style" in attrs for _, attrs in page.tags)
    assert ">nan<" not in whole[0].lower()
    assert not re.search(r"\bnan\b", re.sub(r"<(style|script)>.*?</\1>", "", whole[0], flags=re.DOTALL))


def test_hostile_subgroups_sites_and_critical_classes_stay_text(whole, judged) -> None:
    assert whole[0].count("<script") == 1
    assert judged.evil not in whole[0]
    shown = html.escape(f"site={judged.evil}", quote=False).replace('"', "&#34;")
    assert shown in whole[0]


def test_methods_of_the_sections_are_cited_and_their_words_explained(whole) -> None:
    listed = re.search(r'<ol class="references">(.*?)</ol>', whole[0], flags=re.DOTALL)[1]
    cited = set(re.findall(r"<li>(\w+)", listed))
    assert {"Vickers", "Holm", "Vovk", "Geifman", "Jones", "Saerens", "Kumar"} <= cited
    assert "no entry in references.bib" not in whole[0]
    for word in ("any tail finding", "missed (FNR)", "net benefit", "gap", "coverage", "refused", "PPV, NPV"):
        assert f"<dt>{word}</dt>" in whole[0]


def test_same_inputs_give_the_same_bytes(judged, tmp_path, whole) -> None:
    pages = [
        write_report(tmp_path / name, predictions=judged.predictions, results=judged.results, title="T").read_bytes()
        for name in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]
    assert whole[0] == whole[1]


def test_scores_of_strangers_without_card_counts_or_thresholds_are_reported(judged, tmp_path) -> None:
    bare = replace(
        judged.predictions,
        train_counts=None,
        thresholds=None,
        digests={},
        has_patients=False,
        patients=judged.predictions.image_ids,
        folds=np.full(len(judged.predictions), "", dtype=object),
    )
    results = evaluate(bare, config=EvaluationConfig(bootstrap=64))
    text = write_report(tmp_path / "r.html", predictions=bare, results=results, title="Bare").read_text("utf-8")
    page = Page(text)
    assert [attrs["id"] for attrs in page.named("section")] == [name for name in SECTIONS if name != "examples"]
    assert "No groups: how often each class was seen in training is not known." in text
    assert "Left out, because the judged images do not define their AP: " in text


def test_results_without_a_header_or_any_row_still_make_a_page(judged, tmp_path) -> None:
    text = write_report(
        tmp_path / "r.html", predictions=judged.predictions, results=results_from_rows([]), title="Empty"
    ).read_text("utf-8")
    Page(text)
    assert "No intervals were computed" in text


def test_multiclass_task_is_reported_with_its_confusion(tmp_path) -> None:
    random = np.random.default_rng(0)
    labels = LabelSpace.from_columns(["type=a", "type=b", "type=c"])
    scores = random.dirichlet(np.ones(3), size=60)
    truth = np.eye(3)[random.integers(0, 2, 60)]
    ids = np.array([f"i{n}" for n in range(60)], dtype=object)
    predictions = Predictions(ids, ids, scores, truth, labels, np.array(["test"] * 60, dtype=object))
    text = write_report(
        tmp_path / "r.html", predictions=predictions,
        results=evaluate(predictions, config=EvaluationConfig(bootstrap=32)), title="Types",
    ).read_text("utf-8")  # fmt: skip
    Page(text)
    assert "one class an image" in text
    assert "Hatched: no image of type=c." in text


def test_long_tail_of_45_classes_stays_small_and_draws_24_panels(tmp_path) -> None:
    random = np.random.default_rng(1)
    names = [f"finding {n:02d}" for n in range(45)]
    shares = np.geomspace(0.3, 0.002, 45)
    targets = (random.random((4000, 45)) < shares).astype(float)
    scores = 1 / (1 + np.exp(-(random.normal(size=targets.shape) + targets - 2)))
    ids = np.array([f"i{n:05d}" for n in range(4000)], dtype=object)
    frame = pd.DataFrame({"image_id": ids, "path": "x.png", "patient_id": ids, "fold": ["train", "test"] * 2000})
    manifest = manifest_from_frame(pd.concat([frame, pd.DataFrame(targets, columns=names)], axis=1))
    test = manifest.folds == "test"
    from medtail.tables.tail import count_classes

    predictions = Predictions(ids[test], ids[test], scores[test], targets[test], LabelSpace(tuple(names)),
                              manifest.folds[test], train_counts=count_classes(manifest))  # fmt: skip
    results = evaluate(predictions, config=EvaluationConfig(bootstrap=16))
    noise = random.random((256, 256, 3))
    out = write_report(
        tmp_path / "r.html", predictions=predictions, results=results, title="Long", manifest=manifest,
        read_image=lambda _: noise,
    )  # fmt: skip
    assert out.stat().st_size < 6_000_000
    text = out.read_text("utf-8")
    assert text.count("precision–recall curve (AP") == 2 * 24
    assert "The 12 rarest classes, then the 12 commonest of 45." in text
    pictures = re.findall(r'src="(data:[^"]+)"', text)
    assert sum(map(len, pictures)) <= 2_000_000
    facts = class_facts(predictions, results, counts=predictions.train_counts)
    shown = re.findall(r'<p class="who [^"]*">(finding \d\d)</p>', text)
    assert shown[0] == facts[-1].name
    assert {facts[0].name, facts[-1].name} <= set(shown)


def test_page_that_cannot_be_written_leaves_nothing(judged, tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(MedtailError, match="cannot be written"):
        write_report(blocked / "r.html", predictions=judged.predictions, results=judged.results, title="T")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["file"]
