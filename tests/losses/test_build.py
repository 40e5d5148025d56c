from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from medtail.config import CLOSED, build_config
from medtail.errors import MedtailError, UsageError
from medtail.losses.build import (
    AslConfig,
    BceConfig,
    ClassBalancedConfig,
    CrossEntropyConfig,
    FocalConfig,
    LdamConfig,
    LossConfig,
    build_loss,
)
from medtail.losses.contract import Link, LossContext

CONTEXT = LossContext((5, 3), (10, 10), ((0, 1),), 10)
Holder = dataclasses.make_dataclass(
    "Holder", [("loss", LossConfig)], frozen=True, kw_only=True, namespace={"__pydantic_config__": CLOSED}
)


@pytest.mark.parametrize(
    ("config", "link"),
    [
        (BceConfig(), "sigmoid"),
        (AslConfig(), "sigmoid"),
        (CrossEntropyConfig(), "softmax"),
        (FocalConfig(), "softmax"),
        (FocalConfig(link="sigmoid"), "sigmoid"),
    ],
)
def test_the_model_reads_the_link_off_the_loss(config: LossConfig, link: Link) -> None:
    assert build_loss(config, CONTEXT).link == link


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FocalConfig(gamma=-1.0), r"loss, gamma: found -1.0; expected .*0$"),
        (ClassBalancedConfig(beta=1.0), r"loss, beta: found 1.0; expected .*1$"),
        (LdamConfig(scale=0.0), r"loss, scale: found 0.0; expected a value greater than 0"),
        (FocalConfig(link="tanh"), r"loss, link: found 'tanh'; expected 'softmax' or 'sigmoid'"),  # type: ignore[arg-type]
    ],
)
def test_a_config_written_in_python_is_checked_too(config: LossConfig, message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        build_loss(config, CONTEXT)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"kind": "focal", "gama": 1.5}, r"rare.yaml, loss.gama: unknown key; did you mean 'gamma'\?"),
        (
            {"kind": "asl", "clip": 1.0, "gamma_negative": "x"},
            r"(?s)loss.gamma_negative: found 'x'.*loss.clip: found 1",
        ),
        ({"kind": "focall"}, r"rare.yaml, loss.kind: found 'focall'; expected .*did you mean 'focal'"),
    ],
)
def test_mistakes_in_yaml_are_named_with_their_place(written: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_config(Holder, {"loss": written}, where="rare.yaml")


def test_kind_picks_the_member() -> None:
    built = build_config(Holder, {"loss": {"kind": "ldam", "reweight_from": None}}, where="x.yaml")
    assert built.loss == LdamConfig(reweight_from=None)
