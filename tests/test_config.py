from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from medtail.config import CLOSED, apply_overrides, build_config, config_to_dict, dump_yaml, read_yaml
from medtail.errors import MedtailError, UsageError


@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["focal"] = "focal"
    gamma: Annotated[float, Field(ge=0)] = 2.0


@dataclass(frozen=True, kw_only=True)
class LdamConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["ldam"] = "ldam"
    margin: Annotated[float, Field(gt=0, le=1)] = 0.5
    deferred_epochs: int = 0


LossConfig = Annotated[Union[FocalConfig, LdamConfig], Field(discriminator="kind")]  # noqa: UP007 - as components write it


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["mix"] = "mix"
    inner: LossConfig = FocalConfig()


AnyLossConfig = Annotated[FocalConfig | LdamConfig | MixConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    size_px: Annotated[int, Field(ge=8)] = 64
    cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    epochs: int = 1
    loss: LossConfig | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    name: str = "run"
    seed: int = 0
    size: Literal["tiny", "small", "base"] = "tiny"
    pretrained: bool = True
    clip: float | None = None
    steps: int | str | None = None
    loss: AnyLossConfig = FocalConfig()
    pixels: StoreConfig = StoreConfig()
    stages: tuple[StageConfig, ...] = ()
    range: tuple[float, float] = (0.0, 1.0)
    heads: dict[str, StageConfig] = field(default_factory=dict)
    either: FocalConfig | LdamConfig | None = None

    def __post_init__(self) -> None:
        if self.range[0] >= self.range[1]:
            raise MedtailError(f"range {self.range}: expected the lower end first")


def build(**values: Any) -> RunConfig:
    return build_config(RunConfig, values, where="run.yaml")


def mistakes(**values: Any) -> list[str]:
    with pytest.raises(UsageError) as caught:
        build(**values)
    return str(caught.value).splitlines()


def test_defaults_are_filled_in():
    assert build() == RunConfig()


def test_kind_picks_the_union_member():
    assert build(loss={"kind": "ldam", "margin": 0.3}).loss == LdamConfig(margin=0.3)
    assert build(loss={"kind": "mix", "inner": {"kind": "ldam"}}).loss == MixConfig(inner=LdamConfig())
    assert build(stages=[{"loss": {"kind": "focal"}}, {}]).stages == (StageConfig(loss=FocalConfig()), StageConfig())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sead": 1}, r"run.yaml, sead: unknown key; did you mean 'seed'?"),
        ({"pixels": {"size": 9}}, "run.yaml, pixels.size: unknown key; did you mean 'size_px'?"),
        ({"loss": {"kind": "focal", "gama": 1}}, "run.yaml, loss.gama: unknown key; did you mean 'gamma'?"),
        (
            {"loss": {"kind": "ldam", "zzz": 1}},
            "run.yaml, loss.zzz: unknown key; known here: deferred_epochs, kind, margin",
        ),
        (
            {"loss": {"kind": "mix", "inner": {"kind": "ldam", "marign": 1}}},
            "run.yaml, loss.inner.marign: unknown key; did you mean 'margin'?",
        ),
        ({"stages": [{}, {"epoch": 3}]}, "run.yaml, stages.1.epoch: unknown key; did you mean 'epochs'?"),
        (
            {"stages": [{"loss": {"kind": "focal", "gama": 1}}]},
            "run.yaml, stages.0.loss.gama: unknown key; did you mean 'gamma'?",
        ),
        ({"heads": {"a": {"epoch": 3}}}, "run.yaml, heads.a.epoch: unknown key; did you mean 'epochs'?"),
        ({"either": {"kind": "focal", "gama": 3}}, "run.yaml, either.gama: unknown key; did you mean 'gamma'?"),
    ],
)
def test_unknown_keys_are_errors_at_any_depth_with_the_nearest_name(values, expected):
    # a union without a discriminator is tried member by member, so more may follow on the line
    assert mistakes(**values)[0].startswith(expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"loss": {"kind": "focl"}}, "loss.kind: found 'focl'; expected focal, ldam or mix; did you mean 'focal'?"),
        ({"loss": {"kind": "xyz"}}, "loss.kind: found 'xyz'; expected focal, ldam or mix"),
        ({"loss": {"gamma": 1}}, "loss: found {'gamma': 1} without 'kind'; expected kind: focal, ldam or mix"),
        (
            {"loss": "focal"},
            "loss: found 'focal'; expected a section with its own keys, such as 'kind': focal, ldam or mix",
        ),
        ({"loss": None}, "loss: found None; expected a section with its own keys, such as 'kind': focal, ldam or mix"),
        (
            {"loss": {"kind": "mix", "inner": {"kind": "mix"}}},
            "loss.inner.kind: found 'mix'; expected focal or ldam",
        ),
        (
            {"stages": [{"loss": {"kind": "ladm"}}]},
            "stages.0.loss.kind: found 'ladm'; expected focal or ldam; did you mean 'ldam'?",
        ),
        ({"pixels": 64}, "pixels: found 64; expected a section with its own keys, such as 'cache' or 'size_px'"),
    ],
)
def test_a_wrong_or_missing_kind_names_the_known_ones(values, expected):
    assert mistakes(**values) == [f"run.yaml, {expected}"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seed": "one"}, "seed: found 'one'; expected a valid integer"),
        ({"seed": 1.5}, "seed: found 1.5; expected a valid integer"),
        ({"name": 5}, "name: found 5; expected a valid string"),
        ({"size": "tinny"}, "size: found 'tinny'; expected 'tiny', 'small' or 'base'; did you mean 'tiny'?"),
        ({"clip": "no"}, "clip: found 'no'; expected a valid number"),
        ({"clip": math.nan}, "clip: found nan; expected a finite number"),
        ({"clip": math.inf}, "clip: found inf; expected a finite number"),
        ({"steps": [1]}, "steps: found [1]; expected a valid integer or a valid string"),
        ({"loss": {"kind": "focal", "gamma": -1}}, "loss.gamma: found -1; expected a value greater than or equal to 0"),
        ({"loss": {"kind": "ldam", "margin": 1.5}}, "loss.margin: found 1.5; expected a value less than or equal to 1"),
        ({"pixels": {"size_px": 4}}, "pixels.size_px: found 4; expected a value greater than or equal to 8"),
        ({"range": [0.5]}, "range.1: missing; expected a value here"),
        ({"range": [1, 0]}, "(top level): range (1.0, 0.0): expected the lower end first"),
        ({"stages": {"epochs": 1}}, "stages: found {'epochs': 1}; expected a valid tuple"),
        ({"heads": {1: {}}}, "heads.1: found 1; expected a valid string"),
        ({"name": ["x" * 500]}, f"name: found ['{'x' * 78}…; expected a valid string"),
    ],
)
def test_wrong_values_show_what_was_found_and_what_is_expected(values, expected):
    found = mistakes(**values)
    assert len(found) == 1
    assert found[0].startswith(f"run.yaml, {expected}")


def test_a_required_key_that_is_missing_is_named():
    @dataclass(frozen=True, kw_only=True)
    class Needed:
        manifest: str

    with pytest.raises(UsageError, match=r"^run\.yaml, manifest: missing; expected a value here$"):
        build_config(Needed, {}, where="run.yaml")


def test_every_mistake_of_a_file_is_listed_at_once():
    found = mistakes(
        sead=1, size="huge", pixels={"size_px": "big"}, stages=[{"epochs": "x"}, {"loss": {"kind": "y"}}], heads=3
    )
    assert [line.partition(":")[0] for line in found] == [
        "run.yaml, size",
        "run.yaml, pixels.size_px",
        "run.yaml, stages.0.epochs",
        "run.yaml, stages.1.loss.kind",
        "run.yaml, heads",
        "run.yaml, sead",
    ]


def test_values_given_are_not_changed():
    values = {"loss": {"kind": "focal"}}
    build(**values)
    assert values == {"loss": {"kind": "focal"}}


# --- YAML -----------------------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_is_1_2_so_words_are_words_and_numbers_numbers(tmp_path):
    read = read_yaml(write(tmp_path, "a: no\nb: 1e-3\nc: 0o17\nd: 017\ne: on\nf: true\ng: 12:30\nh:\ni: ~\n"))
    assert read == {"a": "no", "b": 1e-3, "c": 15, "d": 17, "e": "on", "f": True, "g": "12:30", "h": None, "i": None}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_is_an_empty_config(tmp_path, text):
    assert read_yaml(write(tmp_path, text)) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", r"run\.yaml: not valid YAML: .*duplicate key"),
        ("loss: [1, 2\n", r"run\.yaml: not valid YAML"),
        ("a: b: c\n", r"run\.yaml: not valid YAML"),
        ("\tseed: 1\n", r"run\.yaml: not valid YAML"),
        ("x: !!python/object/apply:os.system ['true']\n", r"run\.yaml: not valid YAML: .*could not determine"),
        ("- 1\n- 2\n", r"run\.yaml: found list; expected 'key: value' lines\."),
        ("just text\n", r"run\.yaml: found str; expected 'key: value' lines\."),
    ],
)
def test_what_is_no_mapping_is_refused_with_the_file_named(tmp_path, text, expected):
    with pytest.raises(UsageError, match=f"(?s){expected}"):
        read_yaml(write(tmp_path, text))


def test_a_missing_file_a_folder_and_binary_rubbish_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml: no such file; give the path of a YAML config\."):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="cannot be read as UTF-8 text"):
        read_yaml(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UsageError, match=r"x\.yaml: cannot be read as UTF-8 text"):
        read_yaml(tmp_path / "x.yaml")


# --- overrides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=3"], {"seed": 3, "loss": {"kind": "focal"}, "empty": None}),
        (["loss.gamma=1e-3"], {"seed": 0, "loss": {"kind": "focal", "gamma": 1e-3}, "empty": None}),
        (["a.b.c=no"], {"seed": 0, "loss": {"kind": "focal"}, "empty": None, "a": {"b": {"c": "no"}}}),
        (["empty.kind=ldam"], {"seed": 0, "loss": {"kind": "focal"}, "empty": {"kind": "ldam"}}),
        (["loss={kind: ldam, margin: 0.1}"], {"seed": 0, "loss": {"kind": "ldam", "margin": 0.1}, "empty": None}),
        (["seed="], {"seed": None, "loss": {"kind": "focal"}, "empty": None}),
        (["seed=1", "seed=2"], {"seed": 2, "loss": {"kind": "focal"}, "empty": None}),
        ([" seed = 4 "], {"seed": 4, "loss": {"kind": "focal"}, "empty": None}),
        (["name=a=b"], {"seed": 0, "loss": {"kind": "focal"}, "empty": None, "name": "a=b"}),
        (["folds=[1, 2]"], {"seed": 0, "loss": {"kind": "focal"}, "empty": None, "folds": [1, 2]}),
    ],
)
def test_overrides_are_read_as_yaml_and_the_last_wins(overrides, expected):
    given_config = {"seed": 0, "loss": {"kind": "focal"}, "empty": None}
    assert apply_overrides(given_config, overrides) == expected
    assert given_config == {"seed": 0, "loss": {"kind": "focal"}, "empty": None}


@pytest.mark.parametrize("override", ["seed", "=3", " =3", "loss..gamma=1", "loss.=1", ".seed=1"])
def test_an_override_without_key_or_value_shows_the_form(override):
    with pytest.raises(UsageError, match=r"--set .*: expected KEY=VALUE, for instance --set loss\.gamma=1\.5"):
        apply_overrides({}, [override])


def test_an_override_through_a_plain_value_is_refused():
    with pytest.raises(UsageError, match=r"--set 'seed\.x=1': 'seed' is 3, not a section with keys"):
        apply_overrides({"seed": 3}, ["seed.x=1"])


def test_an_override_that_is_no_yaml_is_refused():
    with pytest.raises(UsageError, match=r"--set loss=\[1: not valid YAML"):
        apply_overrides({}, ["loss=[1"])


def test_an_override_of_one_key_keeps_the_kind_the_file_chose():
    values = apply_overrides({"loss": {"kind": "ldam", "margin": 0.2}}, ["loss.deferred_epochs=4"])
    assert build(**values).loss == LdamConfig(margin=0.2, deferred_epochs=4)


# --- writing --------------------------------------------------------------------------------------------------------

# no control characters but the line end and the tab, and no line separators: nobody writes them into a config
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], include_characters="\n\t"))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT)
KEYS = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="_-= "), min_size=1)
TREES = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8)
)


@given(values=TREES)
def test_what_is_written_reads_back_equal(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(dump_yaml(values), encoding="utf-8", newline="\n")
    assert read_yaml(path) == values


@pytest.mark.parametrize("text", ["no", "1e-3", "null", "~", "", " x", "0x10", "2020-01-01", "- a", "a: b", "é\n\tü"])
def test_text_that_looks_like_something_else_stays_text(tmp_path, text):
    assert read_yaml(write(tmp_path, dump_yaml({"value": text}))) == {"value": text}


def test_a_resolved_config_can_be_run_again(tmp_path):
    config = build(
        loss={"kind": "mix", "inner": {"kind": "ldam", "margin": 0.1}},
        stages=[{"epochs": 2, "loss": {"kind": "focal"}}],
        heads={"a": {"epochs": 3}},
        pixels={"cache": "some/where"},
        clip=1e-7,
    )
    plain = config_to_dict(config)
    assert plain["pixels"]["cache"] == "some/where"
    assert plain["stages"][0]["loss"] == {"kind": "focal", "gamma": 2.0}
    again = build_config(RunConfig, read_yaml(write(tmp_path, dump_yaml(plain))), where="resolved.yaml")
    assert again == config


def test_keys_are_written_in_their_order_and_in_blocks():
    assert dump_yaml({"z": 1, "a": {"k": [1, 2]}}) == "z: 1\na:\n  k:\n  - 1\n  - 2\n"
