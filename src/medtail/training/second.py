"""What a training does after it is done: a second stage on the same features.

Features are best learnt from images as they come, decisions from classes all alike. So the first stage is an ordinary
training, and the second changes only what decides: a new last layer (cRT), one factor a class (LWS), or nothing that is
trained at all (τ-normalisation, logit adjustment). `stages` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import Field

from medtail.config import CLOSED
from medtail.errors import Problems
from medtail.losses.build import LossConfig
from medtail.losses.objectives import (
    ObjectiveConfig,
    PartialLabelsConfig,
    PlainObjectiveConfig,
    SopConfig,
    TwoWayConfig,
    ZlprConfig,
)
from medtail.models.checkpoint import load_model, read_card
from medtail.models.diagnoser import Diagnoser
from medtail.models.study_fusion import FusionConfig
from medtail.sampling.build import (
    ClassBalancedSamplerConfig,
    PolicySamplerConfig,
    SamplerConfig,
    TwoBranchesSamplerConfig,
    TwoStreamSamplerConfig,
    UniformSamplerConfig,
)

Learn = Literal["classifier", "scales", "all"]
STUDY_OBJECTIVES = PlainObjectiveConfig | TwoWayConfig | ZlprConfig | PartialLabelsConfig | SopConfig


@final
@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """A second training that starts from the first one's weights. Images are not mixed in it.

    Attributes:
        learn: `classifier` begins a new head on the frozen backbone; `scales` keeps the linear head and learns a factor
            on each class's logit; `all` goes on with the whole network.
        epochs: Passes over what the sampler draws.
        learning_rate: Peak rate; None as in the first stage.
        sampler: Which images an epoch shows.
        loss: What is minimised; None as in the first stage.

    References:
        kang2020 (cRT, LWS); cao2019 (`all` with another loss or sampler: deferred re-balancing).
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["retrain"] = "retrain"
    learn: Learn = "classifier"
    epochs: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    sampler: SamplerConfig = field(default_factory=ClassBalancedSamplerConfig)
    loss: LossConfig | None = None


@final
@dataclass(frozen=True, kw_only=True)
class TauNormConfig:
    """Make the classes' weights more alike in length: w ← w (m / ‖w‖)^τ, m the geometric mean length.

    Nothing is trained; τ is the one of 0, 0.1, …, `highest` with the best macro F1 on tune, each group decided by its
    largest score and free classes at 0.5. For a free class it moves the score but not the order of the images: AP and
    AUROC stay, and so do decisions at thresholds chosen on tune.

    Attributes:
        highest: Largest τ tried, > 0.

    References:
        kang2020.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["tau_norm"] = "tau_norm"
    highest: Annotated[float, Field(gt=0.0, le=3.0)] = 1.0


@final
@dataclass(frozen=True, kw_only=True)
class LogitAdjustmentConfig:
    """Take what the classes' frequencies say off the scores, after the training: logit ← logit - τ log prior.

    Nothing is trained and the network stays as it is; τ is the one of 0, 0.25, …, 2 with the best macro F1 on tune,
    each group decided by its largest score and free classes at 0.5. It is stored with the model as `medtail calibrate
    --method logit_adjustment` would, and applied to everything the model predicts. A group of a softmax is ranked anew;
    of a free class neither the order of the images nor a threshold chosen on tune feels it.

    References:
        menon2021, eq. 9.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["logit_adjustment"] = "logit_adjustment"


@final
@dataclass(frozen=True, kw_only=True)
class StudyFusionConfig:
    """Read all images of a study together: a transformer over the feature maps of the frozen first stage.

    Rows become studies (`study_id`), a study's labels are what any of its images shows, and every image is given the
    score of its study. The epoch that is kept is the best by tune mAP of these scores. Further settings are those of
    the training: objective, weight decay, warm-up, average, clipping.

    Attributes:
        init: Folder of a finished run on the same manifest, whose backbone is used; None trains the first stage here.
        fusion: The network.
        features: `stored` makes each image's map once and keeps them on disk while it trains (4 · D · h · w bytes an
            image); `live` makes them anew in each epoch, with the training's augmentation.
        epochs: Passes over the studies.
        batch_size: Studies a step.
        learning_rate: Peak rate.
        sampler: Which studies an epoch shows.
        loss: What is minimised; None as in the first stage.
        keep: The `best` epoch by tune mAP, or the `last`.

    References:
        kim2023.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["study_fusion"] = "study_fusion"
    init: str | None = None
    fusion: FusionConfig = field(default_factory=FusionConfig)
    features: Literal["stored", "live"] = "stored"
    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 3e-4
    sampler: SamplerConfig = field(default_factory=UniformSamplerConfig)
    loss: LossConfig | None = None
    keep: Literal["best", "last"] = "best"

    def check(self, objective: ObjectiveConfig, *, members: int) -> None:
        """Check that the stage can follow a training.

        Raises:
            MedtailError: It cannot; every reason is named.
        """
        problems = Problems("second 'study_fusion'")
        if members > 1:
            problems.add(
                f"members: found {members}; expected 1. Train each with a seed of its own and average their scores:"
                " `medtail combine ensemble`."
            )
        if not isinstance(objective, STUDY_OBJECTIVES):
            problems.add(
                f"objective: found {objective.kind!r}, which asks more of a step than a study tells; expected"
                " 'plain', 'two_way', 'zlpr', 'partial_labels' or 'sop'."
            )
        if isinstance(self.sampler, TwoStreamSamplerConfig | TwoBranchesSamplerConfig | PolicySamplerConfig):
            problems.add(f"sampler: found {self.sampler.kind!r}; expected one with one stream, such as 'uniform'.")
        problems.raise_if_any()


SecondConfig = Annotated[
    RetrainConfig | TauNormConfig | LogitAdjustmentConfig | StudyFusionConfig, Field(discriminator="kind")
]


@final
@dataclass(frozen=True)
class Start:
    """Where a second stage begins.

    Attributes:
        model: The first stage's model folder.
        learn: What is to learn.
    """

    model: Path
    learn: Learn

    @property
    def architecture(self) -> Mapping[str, Any] | None:
        """The backbone's shape where the config alone does not say it."""
        return read_card(self.model).architecture

    def begin(self, into: Diagnoser) -> None:
        """Copy what the second stage keeps of the first one's weights, and freeze what is not to learn in the head.

        The backbone, where it is frozen, is frozen by the training module, epoch by epoch.

        Raises:
            MedtailError: The model folder is damaged.
        """
        source, _ = load_model(self.model)
        kept = {
            name: tensor
            for name, tensor in source.state_dict().items()
            if self.learn != "classifier" or not name.startswith("head.")
        }
        into.load_state_dict({**into.state_dict(), **kept})
        if self.learn == "scales":
            for name, parameter in into.head.named_parameters():
                parameter.requires_grad_(name == "scales")
