from __future__ import annotations

from pathlib import Path

import pytest

from medtail.errors import MedtailError
from medtail.lexicons.birads import ANY_OF, ONE_OF
from medtail.lexicons.descriptors import LABEL_NAMES
from medtail.sources.cxr_lt import EDITIONS
from medtail.sources.nih_cxr import FINDINGS, NO_FINDING
from medtail.zeroshot.prompts import BUILT_IN, FEWEST_PROMPTS, load_phrases

OWN = """
title: own
templates: ["{}", "a scan of {}", "{} on a scan", "there is {}"]
negatives: ["no {}"]
classes:
  Mass:
    names: [a mass, a tumour, a large lesion]
    descriptions: [something large]
    aliases: [Tumour]
"""


def test_every_class_of_every_edition_and_the_nih_findings_have_phrases() -> None:
    book = load_phrases("chest_xray")
    wanted = [item.name for edition in EDITIONS.values() for item in edition.classes] + [*FINDINGS, NO_FINDING]
    assert [name for name in wanted if book.find(name) is None] == []
    for edition in EDITIONS.values():  # two names of an edition never mean one class
        names = [item.name for item in edition.classes]
        assert len({book.find(name) for name in names}) == len(names)


def test_every_thyroid_label_and_every_birads_term_has_phrases() -> None:
    assert set(load_phrases("thyroid_us").class_names) == set(LABEL_NAMES)
    breast = load_phrases("breast_us")
    terms = [(group, term) for table in (ONE_OF, ANY_OF) for group, listed in table.items() for term in listed]
    spelled = [(f"{g}={t}", f"{g}_{t}", f"{g.rstrip('s')}_{t}", t) for g, t in terms]
    assert [names for names in spelled if not any(breast.find(name) for name in names)] == []


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_class_has_enough_different_phrases(name: str) -> None:
    book = load_phrases(name)
    for class_name in book.class_names:
        found = book.phrases([class_name])
        texts = {kind: [p.text for p in found if p.kind == kind] for kind in ("prompt", "negative", "description")}
        assert len(set(texts["prompt"])) >= FEWEST_PROMPTS, class_name
        assert texts["negative"], class_name
        assert texts["description"], class_name
        assert not set(texts["prompt"]) & set(texts["negative"]), class_name
        assert all("{" not in p.text for p in found), class_name


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_two_classes_share_a_prompt(name: str) -> None:
    book = load_phrases(name)
    owners: dict[str, set[str]] = {}
    for phrase in book.phrases(book.class_names):
        if phrase.kind == "prompt":
            owners.setdefault(phrase.text, set()).add(phrase.class_name)
    shared = {text: names for text, names in owners.items() if len(names) > 1}
    assert shared == {}


def test_phrases_carry_the_name_the_user_wrote() -> None:
    found = load_phrases("chest_xray").phrases(["pleural_thickening"])
    assert {phrase.class_name for phrase in found} == {"pleural_thickening"}
    assert "a chest X-ray without pleural thickening" in [p.text for p in found if p.kind == "negative"]


def test_class_without_phrases_is_refused_by_name_with_the_nearest() -> None:
    with pytest.raises(MedtailError) as caught:
        load_phrases("chest_xray").phrases(["Skoliosis", "Bulla", "Broken Heart"])
    assert "class 'Skoliosis': there are no phrases for it" in str(caught.value)
    assert "did you mean 'Scoliosis'" in str(caught.value)
    assert "class 'Broken Heart'" in str(caught.value)


def test_one_finding_under_two_names_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"'Effusion': is 'Pleural Effusion', like 'pleural effusion'"):
        load_phrases("chest_xray").phrases(["pleural effusion", "Effusion"])


def test_own_file_is_read_and_its_digest_changes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    book = load_phrases(path)
    assert book.find("tumour") == "Mass"
    assert [p.text for p in book.phrases(["Mass"])][:2] == ["a mass", "a scan of a mass"]
    path.write_text(OWN.replace("something large", "something big"), encoding="utf-8")
    assert load_phrases(path).digest != book.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"there is {}"]', '"there is"]', r"templates: found 'there is'; expected one '\{\}'"),
        ("[a mass, a tumour, a large lesion]", "[a mass]", r"Mass\.names: 1 names in 4 templates make 4 prompts; expe"),
        ("a large lesion]", "a mass]", r"Mass\.names: 1 repeated"),
        ("names:", "nmaes:", r"classes\.Mass\.nmaes: unknown key; did you mean 'names'"),
        ("aliases: [Tumour]", "aliases: [Tumour]\n  tumour: {names: [a b, b, c], descriptions: [d]}",
         r"classes\.tumour: 'tumour' already means 'Mass'"),
    ],
)  # fmt: skip
def test_mistake_in_a_file_is_named_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace(old, new), encoding="utf-8")
    with pytest.raises(MedtailError, match=message):
        load_phrases(path)


def test_unknown_built_in_file_names_the_nearest() -> None:
    with pytest.raises(MedtailError, match=r"--phrases 'chest_xrya': no such phrases; did you mean 'chest_xray'"):
        load_phrases("chest_xrya")
