from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.lexicons.descriptors import GROUPS, LABEL_NAMES, Focus
from medtail.lexicons.probabilities import probabilities_from_labels
from medtail.lexicons.propagation import level_law
from medtail.lexicons.score_laws import score_laws
from medtail.lexicons.systems import SYSTEMS

B = {"comp_mixed": 0.45, "comp_solid": 0.55, "echo_iso": 0.55, "echo_hypo": 0.45, "shape_wider": 0.6,
     "shape_taller": 0.4, "margin_smooth": 0.6, "margin_irregular": 0.4, "foci_macro": 0.4, "foci_punctate": 0.4,
     "foci_none": 0.36}  # fmt: skip


def scores(*changes: dict[str, object]) -> pd.DataFrame:
    row = dict.fromkeys(LABEL_NAMES, 0.0) | B
    return pd.DataFrame([{"image_id": f"n{number}", **row, **change} for number, change in enumerate(changes)])


def test_a_row_says_level_run_advice_and_what_would_change() -> None:
    scored = score_laws(scores({"size_mm": 12.0}, {"size_mm": np.nan}))
    first, second = scored.results.to_dict("records")
    assert first["acr_p_TR5"] == pytest.approx(0.4957, abs=6e-5)
    assert (first["acr_level"], first["acr_argmax_level"], first["acr_argmax_differs"]) == ("TR5", "TR3", True)
    assert [first[group] for group in GROUPS] == ["solid", "iso", "wider", "smooth", "none"]
    assert first["acr_run"] == "TR3 to TR5"
    assert first["acr_p_run"] == pytest.approx(first["acr_p_TR3"] + first["acr_p_TR4"] + first["acr_p_TR5"])
    assert first["acr_p_FNA"] == pytest.approx(first["acr_p_TR5"])
    assert first["acr_p_FOLLOW"] == pytest.approx(first["acr_p_TR4"])
    assert first["acr_advice"] == "FNA"
    assert first["acr_would_change"].startswith("shape taller (now 40%) for certain would move 31%")
    assert second["acr_advice"] == ""
    assert np.isnan(second["acr_p_FNA"])
    assert scored.results["row"].tolist() == [2, 3]
    assert any("not marked as calibrated" in warning for warning in scored.warnings)


def test_results_are_the_laws() -> None:
    random = np.random.default_rng(0)
    parts = [random.dirichlet(np.ones(k), 30) for k in (4, 5, 2, 4)]
    foci = random.random((30, len(Focus)))
    values = np.hstack([*parts, np.prod(1 - foci, axis=1)[:, None], foci])
    scored = score_laws(pd.DataFrame(values, columns=list(LABEL_NAMES)), system="all", is_calibrated=True)
    assert scored.warnings == ()
    given = probabilities_from_labels(values, is_calibrated=True)
    for system in SYSTEMS:
        law = level_law(given, system=system)
        columns = [f"{system}_p_{name}" for name in law.categories]
        assert scored.results[columns].to_numpy() == pytest.approx(law.probabilities)
        assert (f"{system}_p_undefined" in scored.results) == (system in ("eu", "k"))
    assert scored.results["acr_mean_points"].to_numpy() == pytest.approx(level_law(given).mean_points)
    assert scored.results["acr_off_chart"].to_numpy() == pytest.approx(level_law(given).off_chart)


def test_a_bad_row_never_stops_the_others() -> None:
    bad = [{}, {"comp_solid": 0.9}, {"foci_rim": 1.4}, dict.fromkeys(LABEL_NAMES, np.nan), {"size_mm": -3.0},
           {"echo_iso": np.nan, "margin_smooth": 0.2}, {}]  # fmt: skip
    scored = score_laws(scores(*bad))
    assert scored.results["row"].tolist() == [2, 8]
    found = [(row.row, row.id, row.group) for row in scored.errors.itertuples()]
    assert found == [(3, "n1", "composition"), (4, "n2", "foci"), (5, "n3", ""), (6, "n4", "size"),
                     (7, "n5", "echogenicity"), (7, "n5", "margin")]  # fmt: skip
    assert "whose sum is 1.35; expected 1 within 0.001" in scored.errors["message"].iloc[0]
    assert "--scores separate" in scored.errors["message"].iloc[0]
    assert "all twenty scores are empty" in scored.errors["message"].iloc[2]
    alone = score_laws(scores({}))
    columns = [name for name in alone.results if name.startswith("acr_p_TR")]
    assert scored.results[columns].to_numpy()[0] == pytest.approx(alone.results[columns].to_numpy()[0])


def test_text_cells_are_named_and_nothing_usable_is_an_error() -> None:
    frame = scores({}, {"echo_iso": "high"})
    assert score_laws(frame).errors[["row", "group", "value"]].values.tolist() == [[3, "echo_iso", "high"]]
    with pytest.raises(MedtailError, match=r"no row can be used; row 2, composition: found"):
        score_laws(scores({"comp_solid": 0.9}))
    with pytest.raises(MedtailError, match="no row can be used; it has no rows"):
        score_laws(scores({}).iloc[:0])
    with pytest.raises(MedtailError, match=r"column 'shape_taller': missing; did you mean 'shape_tall'"):
        score_laws(frame.rename(columns={"shape_taller": "shape_tall"}))


def test_separate_scores_are_said_to_be() -> None:
    frame = scores({"comp_solid": 0.9, "comp_mixed": 0.5})
    found = score_laws(frame, meaning="separate").probabilities
    assert found.composition[0, [2, 3]] == pytest.approx([0.1, 0.9])


def test_conditioning_reports_what_it_removed() -> None:
    frame = scores({"echo_anechoic": 0.1, "echo_iso": 0.45})
    scored = score_laws(frame, consistency="conditioned")
    assert any("taken away: 10.0% of the probability on average, at most 10.0%" in text for text in scored.warnings)
    assert not any("taken away" in text for text in score_laws(frame).warnings)


def test_what_has_no_category_is_not_given_one() -> None:
    hidden = {"echo_anechoic": 1.0, "echo_iso": 0.0, "echo_hypo": 0.0, "comp_solid": 1.0, "comp_mixed": 0.0,
              "size_mm": 12.0}  # fmt: skip
    row = score_laws(scores(hidden), system="k").results.iloc[0]
    assert (row["k_level"], row["k_p_level"], row["k_run"]) == ("", 1.0, "")
    assert (row["k_advice"], row["k_p_FNA"], row["k_argmax_level"], bool(row["k_argmax_differs"])) == (
        "",
        0.0,
        "",
        False,
    )
