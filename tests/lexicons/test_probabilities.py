from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medtail.errors import MedtailError
from medtail.lexicons.descriptors import EXCLUSIVE, GROUPS, LABEL_NAMES, LABELS, Focus, Reading, group_values
from medtail.lexicons.probabilities import (
    argmax_readings,
    descriptor_probabilities,
    exclusive,
    exclusive_from_scores,
    label_faults,
    point_mass,
    probabilities_from_labels,
)

GOOD = {
    "composition": [0.02, 0.03, 0.25, 0.70],
    "echogenicity": [0.02, 0.08, 0.30, 0.55, 0.05],
    "shape": [0.8, 0.2],
    "margin": [0.55, 0.15, 0.25, 0.05],
    "foci": [0.03, 0.15, 0.05, 0.30],
}


def test_arrays_and_words_stand_side_by_side() -> None:
    found = descriptor_probabilities(**{**GOOD, "shape": "taller", "margin": "undetermined", "foci": "rim;macro"})
    assert found.shape.tolist() == [[0.0, 1.0]]
    assert found.margin.tolist() == [[0, 0, 0, 0, 1]]
    assert found.foci.tolist() == [[0, 1, 1, 0]]
    assert found.composition.shape == (1, 5)
    assert found.composition[0, -1] == 0.0
    assert descriptor_probabilities(**{**GOOD, "foci": frozenset()}).foci.tolist() == [[0, 0, 0, 0]]


def test_one_row_serves_all() -> None:
    many = np.tile(GOOD["composition"], (3, 1))
    found = descriptor_probabilities(**{**GOOD, "composition": many})
    assert len(found) == 3
    assert found.shape.shape == (3, 2)
    with pytest.raises(MedtailError, match="echogenicity: found 2 rows; expected 3, or one for all"):
        descriptor_probabilities(**{**GOOD, "composition": many, "echogenicity": np.tile(GOOD["echogenicity"], (2, 1))})


@pytest.mark.parametrize(
    ("group", "values", "match"),
    [
        (
            "composition",
            [0.5, 0.5, 0.5, 0.5],
            r"row 0, composition: found 0.5, 0.5, 0.5, 0.5, whose sum is 2; expected 1",
        ),
        ("shape", [0.8, 0.21], "shape: found 0.8, 0.21, whose sum is 1.01"),
        ("shape", [1.2, -0.2], r"shape: found 1.2, -0.2; expected probabilities in \[0, 1\]"),
        ("shape", [np.nan, 1.0], r"shape: found nan, 1; expected probabilities"),
        ("foci", [0.1, 0.1, 1.5, 0.0], "foci: found 0.1, 0.1, 1.5, 0; expected probabilities"),
        ("margin", [0.5, 0.5], r"margin: found an array of shape \(1, 2\); expected \[N, 4\]: smooth, ill_defined"),
        ("composition", "solidd", "composition: found 'solidd', unknown; did you mean 'solid'"),
        ("foci", "microcalcifications", "foci: found 'microcalcifications', unknown; did you mean 'punctate'"),
    ],
)
def test_what_is_no_probability_is_refused(group: str, values: object, match: str) -> None:
    with pytest.raises(MedtailError, match=match):
        descriptor_probabilities(**{**GOOD, group: values}, where="rows of model A")


def test_every_bad_row_and_group_is_named_at_once() -> None:
    bad = {name: np.tile(values, (4, 1)) for name, values in GOOD.items()}
    bad["shape"][1] = [0.5, 0.6]
    bad["margin"][3, 0] = 2.0
    with pytest.raises(MedtailError) as caught:
        descriptor_probabilities(**bad, where="model A")
    assert [line[:24] for line in str(caught.value).splitlines()] == [
        "model A, row 1, shape: f",
        "model A, row 3, margin: ",
    ]


def test_sums_are_rescaled_within_a_thousandth_and_no_further() -> None:
    found = descriptor_probabilities(**{**GOOD, "shape": [0.8, 0.2009]})
    assert found.shape.sum() == pytest.approx(1.0, abs=1e-15)
    with pytest.raises(MedtailError, match=r"expected 1 within 0.001"):
        descriptor_probabilities(**{**GOOD, "shape": [0.8, 0.2011]})


def test_no_foci_is_compared_and_not_used() -> None:
    implied = float(np.prod(1 - np.array(GOOD["foci"])))
    assert descriptor_probabilities(**GOOD, foci_none=np.array([implied + 0.19])).warnings == ()
    warned = descriptor_probabilities(**GOOD, foci_none=np.array([implied - 0.21])).warnings
    assert len(warned) == 1
    assert "P(no foci) differs by more than 0.2" in warned[0]
    assert np.array_equal(
        descriptor_probabilities(**GOOD, foci_none=np.array([0.0])).foci, descriptor_probabilities(**GOOD).foci
    )


def test_softmax_and_its_temperature() -> None:
    logits = np.log([[0.2, 0.3, 0.5]])
    assert exclusive(logits) == pytest.approx(np.array([[0.2, 0.3, 0.5]]))
    soft = exclusive(logits, temperature=2.0)
    assert soft == pytest.approx(np.sqrt([[0.2, 0.3, 0.5]]) / np.sqrt([0.2, 0.3, 0.5]).sum())
    assert exclusive(np.array([[1000.0, 0.0]])).tolist() == [[1.0, 0.0]]
    with pytest.raises(MedtailError, match=r"temperature 0.0: expected a number > 0"):
        exclusive(logits, temperature=0.0)
    with pytest.raises(MedtailError, match="row 0: found .*expected finite logits"):  # noqa: RUF043
        exclusive(np.array([[np.inf, 0.0]]))


def test_separate_scores_become_shares_of_the_odds() -> None:
    assert exclusive_from_scores(np.array([[0.9, 0.5]])) == pytest.approx(np.array([[0.9, 0.1]]))
    assert exclusive_from_scores(np.array([[0.9, 0.5]]))[0, 0] != pytest.approx(0.9 / 1.4)
    assert exclusive_from_scores(np.array([[1.0, 0.9, 1.0]])).tolist() == [[0.5, 0.0, 0.5]]
    assert exclusive_from_scores(np.array([[0.0, 1e-300]])).tolist() == [[0.0, 1.0]]
    assert exclusive_from_scores(np.array([[1e-320, 1 - 1e-16]])).sum() == pytest.approx(1.0)
    for wrong in ([[0.0, 0.0]], [[1.1, 0.2]], [[np.nan, 0.2]]):
        with pytest.raises(
            MedtailError, match=r"exclusive_from_scores, row 0: .*expected scores in \[0, 1\], not all 0"
        ):
            exclusive_from_scores(np.array(wrong))


@given(arrays(float, (3, 4), elements=st.floats(1e-6, 1 - 1e-6)))
@settings(max_examples=50, deadline=None)
def test_shares_of_odds_are_the_softmax_of_the_logits(scores: np.ndarray) -> None:
    assert exclusive_from_scores(scores) == pytest.approx(exclusive(np.log(scores / (1 - scores))), rel=1e-9)


def labelled(**changes: float) -> np.ndarray:
    row = dict.fromkeys(LABEL_NAMES, 0.0)
    row |= {f"comp_{value}": p for value, p in zip(group_values("composition"), GOOD["composition"], strict=True)}
    row |= {f"echo_{value}": p for value, p in zip(group_values("echogenicity"), GOOD["echogenicity"], strict=True)}
    row |= {"shape_wider": 0.8, "shape_taller": 0.2}
    row |= {f"margin_{value}": p for value, p in zip(group_values("margin"), GOOD["margin"], strict=True)}
    row |= {f"foci_{focus}": p for focus, p in zip(Focus, GOOD["foci"], strict=True)}
    row["foci_none"] = 0.55
    return np.array([list({**row, **changes}.values())])


def test_twenty_scores_are_read_by_name_and_group() -> None:
    found, expected = probabilities_from_labels(labelled()), descriptor_probabilities(**GOOD)
    for group in GROUPS:
        assert found.group(group) == pytest.approx(expected.group(group))
    assert not found.is_calibrated
    assert probabilities_from_labels(labelled(), is_calibrated=True).is_calibrated
    with pytest.raises(MedtailError, match=r"label scores: found shape \(1, 3\); expected \[N, 20\]"):
        probabilities_from_labels(np.zeros((1, 3)))


def test_separate_scores_are_told_from_distributions() -> None:
    scores = labelled(comp_solid=0.9)
    with pytest.raises(MedtailError, match="label scores, row 0, composition: .*--scores separate"):  # noqa: RUF043
        probabilities_from_labels(scores)
    found = probabilities_from_labels(scores, meaning="separate")
    columns = [LABEL_NAMES.index(name) for name in LABELS["composition"]]
    assert found.composition[:, :4] == pytest.approx(exclusive_from_scores(scores[:, columns]))
    assert found.foci.tolist() == [GOOD["foci"]]
    nothing = labelled(shape_wider=0.0, shape_taller=0.0)
    assert label_faults(nothing, meaning="separate") == {0: {"shape": "found only zeros; expected one score above 0."}}


def test_readings_of_the_likeliest_values() -> None:
    found = argmax_readings(descriptor_probabilities(**{**GOOD, "foci": [0.5, 0.49, 0.9, 0.0]}))
    assert [found[0].text(group) for group in GROUPS] == ["solid", "hypo", "wider", "smooth", "comet_tail + rim"]


def test_a_point_mass_is_the_reading_again() -> None:
    for group, kind in EXCLUSIVE.items():
        for value in kind:
            law = point_mass(Reading(**{group: value}), group)
            assert law.sum() == 1.0
            assert list(kind)[int(law.argmax())] is value


def test_rows_can_be_taken() -> None:
    many = descriptor_probabilities(**{**GOOD, "shape": [[0.8, 0.2], [0.1, 0.9]]}, is_calibrated=True)
    part = many.take(slice(1, 2))
    assert len(part) == 1
    assert part.is_calibrated
    assert part.shape.tolist() == [[0.1, 0.9]]
