"""Recipes: layers, sizes, and what the CXR-LT ones owe to their originals."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from medtail.config import read_yaml
from medtail.errors import MedtailError, UsageError
from medtail.losses.build import AslConfig, DbLightConfig, LdamConfig
from medtail.models.backbones import branch_configs
from medtail.models.csra import CsraConfig
from medtail.models.glori import GloriConfig
from medtail.models.ml_decoder import MlDecoderConfig
from medtail.models.shapes import SHAPES
from medtail.models.text_query import TextQueryConfig
from medtail.reporting.bibliography import KEY, parse_bib
from medtail.sampling.build import RepeatFactorSamplerConfig
from medtail.training.config import TrainConfig, load_train_config, train_config
from medtail.training.recipes import RECIPES, recipe_layers
from medtail.training.recipes_cxrlt import CXRLT_RECIPES
from medtail.training.second import RetrainConfig, StudyFusionConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "cxr_lt"
SIZES = ("tiny", "small", "base")
EVERY = [(name, size) for name in CXRLT_RECIPES for size in SIZES]


def resolved(name: str, size: str, **keys: Any) -> TrainConfig:
    return train_config({"manifest": "m.csv", "recipe": f"{name}/{size}", **keys})


def test_a_recipe_without_a_size_is_its_usual_one() -> None:
    plain, small = (train_config({"manifest": "m.csv", "recipe": f"cxrlt_ral{end}"}) for end in ("", "/small"))
    assert (plain.recipe, small.recipe) == ("cxrlt_ral", "cxrlt_ral/small")
    assert plain.backbone == small.backbone
    assert plain.pixels.size_px == 224


def test_the_users_keys_lie_over_the_sizes_and_another_kind_replaces_its_section() -> None:
    found = resolved("cxrlt_textquery", "tiny", optimizer={"epochs": 3}, backbone={"kind": "vit"}, head={"heads": 8})
    assert (found.optimizer.epochs, found.optimizer.learning_rate) == (3, 2e-3)
    assert (found.backbone.kind, found.backbone.size) == ("vit", "tiny")
    assert isinstance(found.head, TextQueryConfig)
    assert (found.head.heads, found.head.width) == (8, 64)
    assert resolved("cxrlt_chexfusion", "tiny", second=None).second is None


def test_sizes_that_are_not_there_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"x, recipe: 'cxrlt_ral' has the sizes tiny, small, base; found 'bas'; did you"
    ):
        recipe_layers("cxrlt_ral/bas", where="x")
    with pytest.raises(UsageError, match=r"'baseline' has one size alone, found 'baseline/tiny'; expected 'baseline'"):
        recipe_layers("baseline/tiny")
    with pytest.raises(UsageError, match=r"no recipe 'cxrlt_yal/tiny'; did you mean 'cxrlt_yale'"):
        recipe_layers("cxrlt_yal/tiny")


@pytest.mark.parametrize(("name", "size"), EVERY)
def test_every_size_is_a_config_and_only_base_asks_for_weights(name: str, size: str) -> None:
    config = resolved(name, size)
    weights = [getattr(branch, "weights", None) for branch in branch_configs(config.backbone)]
    assert [weight is not None for weight in weights] == [size == "base"]
    if size == "base":
        assert set(weights) <= set(SHAPES), "its shape must be known, or it cannot be built without weights"
    assert config.pixels.size_px == {"tiny": 64, "small": 224}.get(size, config.pixels.size_px)
    assert config.augment.strengths()["flip"] == 0.5


@pytest.mark.parametrize("name", CXRLT_RECIPES)
def test_every_system_says_whose_it_is_and_what_it_leaves_out(name: str) -> None:
    recipe = RECIPES[name]
    assert set(recipe.sizes) == set(SIZES)
    assert re.search(r"20\d\d", recipe.origin)
    assert recipe.leaves_out
    known = parse_bib(files("medtail").joinpath("references.bib").read_text(encoding="utf-8"))
    cited = [match[0] for match in re.finditer(KEY, recipe.origin)]
    assert set(cited) <= set(known)


def test_the_recipes_are_the_systems_of_the_published_table() -> None:
    """Backbone, resolution, loss and head of each row; rates where the teams name them."""
    base = {name.removeprefix("cxrlt_"): resolved(name, "base") for name in CXRLT_RECIPES}
    weighted = AslConfig(prior_weights=True)
    assert (weighted.gamma_negative, weighted.gamma_positive, weighted.clip) == (4.0, 1.0, 0.05)
    assert {name: config.pixels.size_px for name, config in base.items()} == {
        "baseline": 224, "chexfusion": 384, "yale": 1024, "tokyo": 512, "foundation": 448, "textquery": 512,
        "ral": 384, "isbi26": 512, "ldam": 384,
    }  # fmt: skip
    for name in ("chexfusion", "yale", "tokyo"):
        assert base[name].loss == weighted, name
    assert base["textquery"].loss == AslConfig(prior_weights=True, gamma_negative=6.0, gamma_positive=0.0)
    assert {base[name].loss.kind for name in ("baseline", "foundation")} == {"bce"}
    assert base["ral"].loss.kind == "ral"
    assert base["isbi26"].loss == DbLightConfig()
    assert isinstance(base["ldam"].loss, LdamConfig)
    assert base["ldam"].loss.reweight_from is not None
    assert isinstance(base["chexfusion"].head, MlDecoderConfig)
    assert isinstance(base["chexfusion"].second, StudyFusionConfig)
    fusion = base["chexfusion"].second.fusion
    assert (fusion.layers, fusion.heads, fusion.most_views) == (2, 8, 4)
    assert base["isbi26"].head == CsraConfig(share=0.1)
    optim = base["yale"].optimizer
    assert (optim.learning_rate, optim.weight_decay, optim.ema_decay) == (1e-3, 0.01, 0.9997)
    optim = base["tokyo"].optimizer
    assert (optim.learning_rate, optim.weight_decay, optim.epochs) == (1e-4, 0.01, 20)
    assert isinstance(base["foundation"].head, GloriConfig)
    assert getattr(base["foundation"].backbone, "blocks", None) == 4
    optim = base["foundation"].optimizer
    assert optim.freeze_epochs == optim.epochs, "the encoder stays frozen"


def test_the_winner_of_2026_warms_the_head_up_and_then_trains_everything() -> None:
    config = resolved("cxrlt_isbi26", "base")
    optim, second = config.optimizer, config.second
    assert (optim.epochs, optim.freeze_epochs, optim.learning_rate, optim.ema_decay) == (10, 10, 1e-3, 0.9999)
    assert isinstance(second, RetrainConfig)
    after = config.second_stage()
    assert (after.optimizer.epochs, after.optimizer.freeze_epochs) == (60, 0)
    assert after.optimizer.learning_rate == 1.5e-4
    assert after.optimizer.learning_rate * after.optimizer.backbone_factor == pytest.approx(1.5e-5)
    assert after.sampler == config.sampler == RepeatFactorSamplerConfig(threshold=0.01, cap=10.0)
    assert after.loss == config.loss
    assert config.tta == "flip_rotate_scale"


def test_each_system_has_a_file_that_runs_as_it_is() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {name.removeprefix("cxrlt_") for name in CXRLT_RECIPES}
    for path in CONFIGS.glob("*.yaml"):
        assert read_yaml(path)["recipe"] == f"cxrlt_{path.stem}/tiny"
        config = load_train_config(path, overrides=[f"recipe=cxrlt_{path.stem}/base"])
        assert config.manifest.endswith("data/nih14/manifest.csv")
        assert config.recipe == f"cxrlt_{path.stem}/base"


def test_without_a_network_the_weights_of_base_are_missed_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from medtail.models.backbones import build_backbone

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = resolved("cxrlt_yale", "base")
    with pytest.raises(
        MedtailError, match=r"'facebook/convnext-base-384-22k-1k' was not found.*HF_HUB_OFFLINE is set.*a local folder"
    ):
        build_backbone(config.backbone, channels=1, size_px=64)
