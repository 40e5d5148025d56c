"""The closed family of losses: the union of their configs, and the one place that builds them.

A new loss adds its config to `LossConfig` and a case to `build_loss`; the laws in `tests/laws` then ask for its
formula.
"""

from __future__ import annotations

from typing import Annotated, assert_never

from pydantic import Field

from medtail.config import build_config, config_to_dict
from medtail.losses.contract import Loss, LossContext
from medtail.losses.db_light import DbLight, DbLightConfig
from medtail.losses.distribution_balanced import DistributionBalanced, DistributionBalancedConfig
from medtail.losses.equalization import Equalization, EqualizationConfig
from medtail.losses.margin import Ldam, LdamConfig, LogitAdjusted, LogitAdjustedConfig
from medtail.losses.multiclass import ClassBalancedConfig, CrossEntropy, CrossEntropyConfig, FocalConfig
from medtail.losses.multilabel import AslConfig, AsymmetricLoss, BceConfig
from medtail.losses.robust import RalConfig, RobustAsymmetric
from medtail.losses.weights import block_weights, held_prior

__all__ = [
    "AslConfig",
    "BceConfig",
    "ClassBalancedConfig",
    "CrossEntropyConfig",
    "DbLightConfig",
    "DistributionBalancedConfig",
    "EqualizationConfig",
    "FocalConfig",
    "LdamConfig",
    "LogitAdjustedConfig",
    "LossConfig",
    "RalConfig",
    "build_loss",
    "takes_soft_targets",
]

LossConfig = Annotated[
    BceConfig
    | CrossEntropyConfig
    | FocalConfig
    | ClassBalancedConfig
    | LogitAdjustedConfig
    | LdamConfig
    | AslConfig
    | DistributionBalancedConfig
    | RalConfig
    | EqualizationConfig
    | DbLightConfig,
    Field(discriminator="kind"),
]  # fmt: skip


def takes_soft_targets(config: LossConfig) -> bool:
    """Say whether a loss makes of a target between 0 and 1 the mixture of its two sides: y ℓ(1) + (1 − y) ℓ(0).

    The others move margins or weights by the target and are made for 0 and 1.

    Example:
        >>> takes_soft_targets(BceConfig()), takes_soft_targets(LdamConfig())
        (True, False)
    """
    return not isinstance(config, LdamConfig | DistributionBalancedConfig | EqualizationConfig | DbLightConfig)


def build_loss(config: LossConfig, context: LossContext) -> Loss:
    """Build a loss from its config and the train fold's counts.

    Args:
        config: A member of `LossConfig`; a union member is picked in YAML by `kind`.
        context: Counts and exclusive groups of the train fold.

    Returns:
        The loss; average it with `masked_mean`. It is a module without parameters, so `.to(device)` moves it.

    Raises:
        UsageError: A value of the config is out of its range.

    Example:
        >>> context = LossContext(positives=(90, 10), assessed=(100, 100), groups=((0, 1),), num_images=100)
        >>> build_loss(LdamConfig(max_margin=0.3), context).link
        'softmax'
    """
    # a config written in Python has not been through the YAML border: same checks, same messages
    config = build_config(type(config), config_to_dict(config), where="loss")
    match config:
        case BceConfig():
            return CrossEntropy(context=context, link="sigmoid")
        case CrossEntropyConfig():
            prior = held_prior(context) if config.toward == "prior" else None
            return CrossEntropy(context=context, link="softmax", smoothing=config.smoothing, prior=prior)
        case FocalConfig():
            return CrossEntropy(context=context, link=config.link, gamma=config.gamma, alpha=config.alpha)
        case ClassBalancedConfig():
            weights = block_weights(context, link=config.link, beta=config.beta)
            return CrossEntropy(
                context=context,
                link=config.link,
                gamma=config.gamma,
                weights=weights,
                reweight_from=config.reweight_from,
            )
        case LogitAdjustedConfig():
            return LogitAdjusted(config, context=context)
        case LdamConfig():
            return Ldam(config, context=context)
        case AslConfig():
            return AsymmetricLoss(config, context=context)
        case DistributionBalancedConfig():
            return DistributionBalanced(config, context=context)
        case RalConfig():
            return RobustAsymmetric(config, context=context)
        case EqualizationConfig():
            return Equalization(config, context=context)
        case DbLightConfig():
            return DbLight(config, context=context)
        case _:
            assert_never(config)
