"""The one place that builds objectives."""

from __future__ import annotations

import pytest

from medtail.errors import UsageError
from medtail.losses.build import BceConfig, LdamConfig
from medtail.losses.contract import LossContext
from medtail.losses.objective import PlainObjective
from medtail.losses.objectives import PlainObjectiveConfig, build_objective

CONTEXT = LossContext(positives=(6, 2, 4), assessed=(12, 12, 10), groups=((0, 1),), num_images=12)


def test_plain_objective_takes_the_link_of_the_trainings_loss() -> None:
    for loss, link in ((BceConfig(), "sigmoid"), (LdamConfig(), "softmax")):
        built = build_objective(PlainObjectiveConfig(), loss=loss, context=CONTEXT)
        assert isinstance(built, PlainObjective)
        assert built.link == link


def test_bad_value_of_the_loss_is_refused_on_building() -> None:
    with pytest.raises(UsageError, match="max_margin"):
        build_objective(PlainObjectiveConfig(), loss=LdamConfig(max_margin=-1.0), context=CONTEXT)
