from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medtail.config import build_config, config_to_dict
from medtail.errors import MedtailError, UsageError
from medtail.models.backbones import (
    ConvNextConfig,
    DualConfig,
    EfficientNetConfig,
    EfficientNetLite0Config,
    HubConfig,
    ResNetConfig,
    ViTConfig,
    branch_configs,
    build_backbone,
    map_weights,
)
from medtail.models.checkpoint import ModelCard, ModelParts, load_model, save_model
from medtail.models.csasn import CsasnConfig
from medtail.models.diagnoser import build_diagnoser
from medtail.models.dual import DualBackbone
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace
from medtail.training.config import OptimConfig, train_config
from medtail.training.schedule import parameter_groups

SCRATCH_LITE0 = EfficientNetLite0Config(weights=None)


def fresh(config: DualConfig | None = None, *, channels: int = 3, size_px: int = 64) -> DualBackbone:
    torch.manual_seed(0)
    built = build_backbone(config or DualConfig(), channels=channels, size_px=size_px)
    assert isinstance(built, DualBackbone)
    return built


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Local folders of weights with normalisations of their own, as a person would have fetched them."""
    torch.manual_seed(1)
    made = {"vit": ((0.5,), (0.5,)), "efficientnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
    for name, (mean, std) in made.items():
        config: Any = ViTConfig() if name == "vit" else EfficientNetConfig()
        built = build_backbone(config, channels=3, size_px=64)
        built.network.model.save_pretrained(tmp_path / name)  # type: ignore[union-attr, operator]
        settings = {"image_mean": list(mean) * (3 // len(mean)), "image_std": list(std) * (3 // len(std))}
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return {name: str(tmp_path / name) for name in made}


@pytest.mark.parametrize(
    ("branches", "parts"), [("both", (64, 320)), ("vit", (64,)), ("cnn", (320,))], ids=["both", "vit", "cnn"]
)
def test_every_ablation_keeps_the_transformers_grid(branches: Any, parts: tuple[int, ...]) -> None:
    trunk = fresh(DualConfig(branches=branches), size_px=96).eval()
    assert trunk.feature_parts == parts
    assert trunk(torch.rand(2, 3, 96, 96)).shape == (2, sum(parts), 6, 6)
    assert trunk.grid(96) == (6, 6)


def test_map_is_the_branches_maps_normed_and_joined_transformer_first() -> None:
    trunk, images = fresh().eval(), torch.rand(2, 3, 64, 64)
    assert trunk.vit is not None
    assert trunk.cnn is not None

    def norm(features: Tensor) -> Tensor:
        return F.layer_norm(features.permute(0, 2, 3, 1), (features.shape[1],)).permute(0, 3, 1, 2)

    small = trunk.cnn(images)
    assert small.shape[-1] == 2
    large = F.interpolate(small, size=(4, 4), mode="bilinear", align_corners=False)
    expected = torch.cat([norm(trunk.vit(images)), norm(large)], dim=1)
    torch.testing.assert_close(trunk(images), expected)


def test_pooled_fusion_joins_the_class_token_and_the_pooled_features() -> None:
    trunk, images = fresh(DualConfig(fusion="pooled")).eval(), torch.rand(2, 3, 64, 64)
    assert trunk.vit is not None
    assert trunk.cnn is not None
    joined = trunk(images)
    assert joined.shape == (2, 384, 1, 1)
    assert trunk.grid(64) == (1, 1)
    hidden = trunk.vit.network.model((images - 0.5) / 0.5).last_hidden_state  # type: ignore[union-attr, operator]
    torch.testing.assert_close(joined[:, :64, 0, 0], F.layer_norm(hidden[:, 0], (64,)))
    pooled = trunk.cnn(images).mean(dim=(2, 3))
    torch.testing.assert_close(joined[:, 64:, 0, 0], F.layer_norm(pooled, (320,)))


@pytest.mark.parametrize("cnn", [SCRATCH_LITE0, EfficientNetConfig(), ResNetConfig(), ConvNextConfig()],
                         ids=lambda config: config.kind)  # fmt: skip
@pytest.mark.parametrize("fusion", ["map", "pooled"])
def test_any_convolutional_network_may_stand_beside_the_transformer(cnn: Any, fusion: Any) -> None:
    trunk = fresh(DualConfig(cnn=cnn, fusion=fusion), channels=1).eval()
    side = 4 if fusion == "map" else 1
    with torch.inference_mode():
        features = trunk(torch.rand(2, 1, 64, 64))
    assert features.shape == (2, trunk.feature_dim, side, side)
    assert torch.isfinite(features).all()


def test_signal_passes_an_untrained_convolutional_branch() -> None:
    trunk, images = fresh(), torch.rand(16, 3, 64, 64)
    assert trunk.cnn is not None
    with torch.no_grad():
        features = trunk.cnn.train()(images)
    assert 0.1 <= float(features.std()) <= 10
    assert float(features.std(dim=0).mean()) > 0.05, "the map must differ between images"
    momenta = [module.momentum for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert momenta
    assert max(momentum for momentum in momenta if momentum is not None) <= 0.1


def test_neither_branch_drowns_the_other() -> None:
    with torch.no_grad():  # in training mode: before any step, running statistics do not fit the network yet
        features = fresh()(torch.rand(4, 3, 64, 64))
    torch.testing.assert_close(features[:, :64].std(), features[:, 64:].std(), rtol=0.05, atol=0)


@pytest.mark.parametrize("size_px", [40, 100])
def test_images_that_leave_a_rest_of_a_patch_are_refused_with_sizes_that_do_not(size_px: int) -> None:
    below, above = size_px // 16 * 16, size_px // 16 * 16 + 16
    with pytest.raises(MedtailError, match=rf"size_px: found {size_px}; .*16 px.*the nearest are {below} and {above}"):
        fresh(size_px=size_px)
    with pytest.raises(UsageError, match=rf"pixels\.size_px: found {size_px}"):
        train_config({"manifest": "a.csv", "backbone": {"kind": "dual"}, "pixels": {"size_px": size_px}})


def test_images_smaller_than_a_patch_are_refused_also_without_the_transformer() -> None:
    for branches in ("both", "vit", "cnn"):
        with pytest.raises(MedtailError, match=r"found 8; .*patches of 16 px.*the smallest is 16"):
            fresh(DualConfig(branches=branches), size_px=8)  # type: ignore[arg-type]


def test_layer_groups_hold_every_parameter_once_and_end_together() -> None:
    trunk = fresh()
    groups = trunk.layer_groups()
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in trunk.named_parameters())
    assert all(dict(trunk.named_parameters())[name] is value for group in groups for name, value in group.items())
    assert trunk.vit is not None
    assert trunk.cnn is not None
    for name, branch in (("vit", trunk.vit), ("cnn", trunk.cnn)):
        alone = [{f"{name}.{key}" for key in group} for group in branch.layer_groups()]
        together = [{key for key in group if key.startswith(f"{name}.")} for group in groups]
        assert together[-len(alone) :] == alone, "as far from the end as without the other branch"
        assert not any(together[: -len(alone)])
    assert {"vit_norm.norm.weight", "cnn_norm.norm.bias"} <= groups[-1].keys()


def test_branch_without_weights_learns_at_the_heads_rate_beside_a_pretrained_one(folders: dict[str, str]) -> None:
    cnn = EfficientNetConfig(weights=folders["efficientnet"])
    labels = LabelSpace(("halo",))

    def last_group(backbone: DualConfig) -> set[str]:
        model = build_diagnoser(
            backbone=backbone, head=CsasnConfig.of_size("tiny"), labels=labels, link="sigmoid", channels=1, size_px=64
        )
        groups = model.layer_groups()
        names = [name for group in groups for name in group]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())
        return {".".join(name.split(".")[:2]) for name in groups[-1] if name.startswith("backbone.")}

    assert last_group(DualConfig(cnn=cnn)) == {"backbone.vit", "backbone.vit_norm", "backbone.cnn_norm"}
    assert last_group(DualConfig()) == set(), "all from scratch: nothing is set apart"
    both = DualConfig(cnn=cnn, vit=ViTConfig(weights=folders["vit"]))
    assert last_group(both) == {"backbone.vit_norm", "backbone.cnn_norm"}


def test_layer_wise_rates_of_a_branch_are_those_it_has_alone(folders: dict[str, str]) -> None:
    config = OptimConfig(learning_rate=1.0, backbone_factor=0.1, layer_decay=0.5)
    backbone = DualConfig(cnn=EfficientNetConfig(weights=folders["efficientnet"]))
    model = build_diagnoser(
        backbone=backbone, head=CsasnConfig.of_size("tiny"), labels=LabelSpace(("halo",)), link="sigmoid",
        channels=1, size_px=64,
    )  # fmt: skip
    name_of = {id(value): name for name, value in model.named_parameters()}
    rates = {
        name_of[id(value)]: group["peak_rate"]
        for group in parameter_groups(model.layer_groups(), config)
        for value in group["params"]
    }
    assert rates.keys() == dict(model.named_parameters()).keys()
    trunk = model.backbone
    assert isinstance(trunk, DualBackbone)
    assert trunk.cnn is not None
    for depth, group in enumerate(reversed(trunk.cnn.layer_groups())):
        assert [rates[f"backbone.cnn.{name}"] for name in group] == pytest.approx([0.1 * 0.5**depth] * len(group))
    others = {rate for name, rate in rates.items() if not name.startswith("backbone.cnn.")}
    assert others == {1.0}, "the head, the norms and the branch that starts from nothing"


def test_each_branch_normalises_as_its_own_weights_expect(folders: dict[str, str]) -> None:
    config = DualConfig(cnn=EfficientNetConfig(weights=folders["efficientnet"]), vit=ViTConfig(weights=folders["vit"]))
    trunk = fresh(config)
    assert trunk.vit is not None
    assert trunk.cnn is not None
    assert trunk.vit.mean.flatten().tolist() == [0.5] * 3
    assert trunk.cnn.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_model_of_fetched_weights_loads_without_them(folders: dict[str, str], tmp_path: Path) -> None:
    backbone = DualConfig(
        cnn=EfficientNetConfig(weights=folders["efficientnet"]), vit=HubConfig(weights=folders["vit"])
    )
    labels, head = LabelSpace(("halo", "nodule")), CsasnConfig.of_size("tiny")
    model = build_diagnoser(backbone=backbone, head=head, labels=labels, link="sigmoid", channels=1, size_px=64).eval()
    parts = ModelParts(pixels=PixelConfig(size_px=64, channels=1), backbone=backbone, head=head, link="sigmoid")
    save_model(tmp_path / "model", model, ModelCard(labels=labels, parts=parts))
    for folder in folders.values():
        shutil.rmtree(folder)
    loaded, _ = load_model(tmp_path / "model")
    images = torch.rand(3, 1, 64, 64)
    assert torch.equal(loaded(images), model(images))


def test_grid_without_the_transformer_is_read_from_its_config_alone(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    shape = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(shape).save_pretrained(tmp_path)
    hub = HubConfig(weights=str(tmp_path), mean=(0.5,), std=(0.5,))
    assert fresh(DualConfig(vit=hub, branches="cnn"), size_px=56).eval()(torch.rand(1, 3, 56, 56)).shape[-1] == 4
    assert fresh(DualConfig(vit=hub), size_px=56).eval()(torch.rand(1, 3, 56, 56)).shape == (1, 32 + 320, 4, 4)
    with pytest.raises(MedtailError, match=r"found 64; .*patches of 14 px.*the nearest are 56 and 70"):
        fresh(DualConfig(vit=hub))


def test_convolutional_network_in_the_transformers_place_is_refused(tmp_path: Path) -> None:
    for config in (ResNetConfig(), ConvNextConfig()):
        built = build_backbone(config, channels=3, size_px=64)
        built.network.model.save_pretrained(tmp_path / config.kind)  # type: ignore[union-attr, operator]
    with pytest.raises(MedtailError, match=r"resnet' is no network of patches.*under backbone\.cnn"):
        fresh(DualConfig(vit=HubConfig(weights=str(tmp_path / "resnet"), mean=(0.5,), std=(0.5,))))
    with pytest.raises(MedtailError, match=r"convnext' gives a map of 2 x 2 for images of 64 px, not one position"):
        fresh(DualConfig(vit=HubConfig(weights=str(tmp_path / "convnext"), mean=(0.5,), std=(0.5,))))


def test_configs_come_back_from_yaml_and_name_their_branches() -> None:
    config = DualConfig(size="small", cnn=SCRATCH_LITE0, vit=ViTConfig(size="tiny"), fusion="pooled")
    assert build_config(DualConfig, config_to_dict(config), where="test.yaml") == config
    assert [branch.kind for branch in branch_configs(config)] == ["vit", "efficientnet_lite0"]
    assert branch_configs(DualConfig(size="base", branches="vit")) == (ViTConfig(size="base"),)
    with pytest.raises(UsageError, match=r"cnn\.kind: found 'vit'; expected efficientnet_lite0, efficientnet, resnet"):
        build_config(DualConfig, {"cnn": {"kind": "vit"}}, where="test.yaml")


def test_relative_folders_of_both_branches_start_at_the_config_file(tmp_path: Path) -> None:
    values = {
        "manifest": "a.csv",
        "backbone": {
            "kind": "dual",
            "cnn": {"kind": "efficientnet", "weights": "./b2"},
            "vit": {"kind": "vit", "weights": "google/vit-base-patch16-224"},
        },
    }
    backbone = train_config(values, folder=tmp_path).backbone
    assert isinstance(backbone, DualConfig)
    assert isinstance(backbone.cnn, EfficientNetConfig)
    assert backbone.vit is not None
    assert backbone.cnn.weights == str(tmp_path / "b2")
    assert backbone.vit.weights == "google/vit-base-patch16-224"
    assert map_weights(SCRATCH_LITE0, str.upper) is SCRATCH_LITE0
