"""The closed family of objectives: the union of their configs, and the one place that builds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, assert_never, final

from pydantic import Field

from medtail.config import CLOSED, build_config, config_to_dict
from medtail.losses.build import LossConfig, build_loss
from medtail.losses.contract import LossContext
from medtail.losses.contrastive import Contrast, ContrastConfig
from medtail.losses.experts import Branches, BranchesConfig, SkillDiverse, SkillDiverseConfig
from medtail.losses.influence import InfluenceBalanced, InfluenceBalancedConfig
from medtail.losses.objective import Objective, PlainObjective
from medtail.losses.partial import PartialLabels, PartialLabelsConfig
from medtail.losses.setwise import TwoWay, TwoWayConfig, Zlpr, ZlprConfig
from medtail.losses.sop import Sop, SopConfig
from medtail.losses.syntus import SyntusObjective, SyntusObjectiveConfig
from medtail.losses.tasks import TasksObjective, TasksObjectiveConfig

__all__ = [
    "BranchesConfig",
    "ContrastConfig",
    "InfluenceBalancedConfig",
    "ObjectiveConfig",
    "PartialLabelsConfig",
    "PlainObjectiveConfig",
    "SkillDiverseConfig",
    "SopConfig",
    "SyntusObjectiveConfig",
    "TasksObjectiveConfig",
    "TwoWayConfig",
    "ZlprConfig",
    "build_objective",
    "uses_loss",
]


@final
@dataclass(frozen=True, kw_only=True)
class PlainObjectiveConfig:
    """The training's `loss`, and nothing more."""

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["plain"] = "plain"


ObjectiveConfig = Annotated[
    PlainObjectiveConfig
    | TasksObjectiveConfig
    | SyntusObjectiveConfig
    | TwoWayConfig
    | ZlprConfig
    | PartialLabelsConfig
    | InfluenceBalancedConfig
    | BranchesConfig
    | SkillDiverseConfig
    | SopConfig
    | ContrastConfig,
    Field(discriminator="kind"),
]


def uses_loss(config: ObjectiveConfig) -> bool:
    """Say whether an objective uses the training's `loss`.

    Example:
        >>> uses_loss(PlainObjectiveConfig()), uses_loss(ZlprConfig())
        (True, False)
    """
    users = PlainObjectiveConfig | PartialLabelsConfig | InfluenceBalancedConfig | BranchesConfig | ContrastConfig
    return isinstance(config, users)


def build_objective(config: ObjectiveConfig, *, loss: LossConfig, context: LossContext) -> Objective:
    """Build the objective a config names.

    Args:
        config: Which objective.
        loss: The training's loss; see `uses_loss`.
        context: Counts and exclusive groups of the train fold.

    Returns:
        The objective; a module, so `.to(device)` moves it.

    Raises:
        UsageError: A value is out of its range.

    Example:
        >>> from medtail.losses.build import BceConfig
        >>> context = LossContext(positives=(5,), assessed=(10,), groups=(), num_images=10)
        >>> build_objective(PlainObjectiveConfig(), loss=BceConfig(), context=context).link
        'sigmoid'
    """
    # a config written in Python has not been through the YAML border: same checks, same messages
    config = build_config(type(config), config_to_dict(config), where="objective")
    match config:
        case PlainObjectiveConfig():
            return PlainObjective(build_loss(loss, context))
        case TasksObjectiveConfig():
            return TasksObjective(config, context=context)
        case SyntusObjectiveConfig():
            return SyntusObjective(config, context=context)
        case TwoWayConfig():
            return TwoWay(config)
        case ZlprConfig():
            return Zlpr()
        case PartialLabelsConfig():
            return PartialLabels(config, loss=build_loss(loss, context))
        case InfluenceBalancedConfig():
            return InfluenceBalanced(config, loss=build_loss(loss, context))
        case BranchesConfig():
            return Branches(config, loss=build_loss(loss, context))
        case SkillDiverseConfig():
            return SkillDiverse(config, context=context)
        case SopConfig():
            return Sop(config, context=context)
        case ContrastConfig():
            return Contrast(config, loss=build_loss(loss, context))
        case _:
            assert_never(config)
