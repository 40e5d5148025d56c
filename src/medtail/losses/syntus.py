"""The objective of SynTUS-Net: balanced classification a stream, agreement of two layers, the lexicon, smoothing.

    L = L_cls + 0.3 L_lex + λ(t) L_con

`L_cls` is the distribution-balanced loss (C1) with the counts of the stream that drew the row, on the logits of the
layer that learns from that stream; where the head also mixed the batch, the mean of both routes. `L_con` (C2) and
`L_lex` (C3) are in `consistency` and `lexical`. C4 moves the labels of the hardest rows a little towards the prior.
Each of the four has a switch; with all of them off this is masked binary cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError, Problems
from medtail.losses.consistency import consistency
from medtail.losses.contract import DrawnCounts, GroupLayout, Link, Loss, LossContext, masked_sum
from medtail.losses.distribution_balanced import DistributionBalanced, DistributionBalancedConfig
from medtail.losses.lexical import lexical_penalty
from medtail.losses.multiclass import CrossEntropy
from medtail.losses.objective import Objective, ObjectiveValue, Step
from medtail.sources.thyro_lmd import FOCI, NO_FOCI

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Epochs = Annotated[int, Field(ge=0)]


@final
@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """C2: agreement of the two last layers. The head must have them.

    Attributes:
        weight: λ once it has risen, >= 0.
        rise_epochs: Epochs over which it rises from 0.
        confidence: A cell counts where either layer is surer than this, 0.5 to below 1.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    weight: Weight = 0.5
    rise_epochs: Epochs = 10
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.7


@final
@dataclass(frozen=True, kw_only=True)
class LexicalConfig:
    """C3: what the lexicon rules out.

    Attributes:
        weight: >= 0.
        none_of: A label → those it excludes; labels that the table lacks are passed over.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    weight: Weight = 0.3
    none_of: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {NO_FOCI: FOCI[1:]})


@final
@dataclass(frozen=True, kw_only=True)
class SmoothingConfig:
    """C4: labels of the hardest rows, moved towards how frequent they are.

    Attributes:
        epsilon: How far, in [0, 1].
        hardest: Share of rows that are smoothed, in [0, 1].
        from_epoch: First epoch, from 0.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    epsilon: Share = 0.05
    hardest: Share = 0.1
    from_epoch: Epochs = 5


@final
@dataclass(frozen=True, kw_only=True)
class SyntusObjectiveConfig:
    """SynTUS-Net's objective; None switches a part off.

    Attributes:
        balanced: C1, the distribution-balanced loss; None is binary cross-entropy.
        consistency: C2.
        lexical: C3.
        smoothing: C4; it needs a sampler that keeps an account of how hard rows have been.
        sham: A control that must not help: `dealt_layers` has each row teach a layer at random, so that the layer of
            the second stream learns from rows as they come as often as from raked ones.

    References:
        zhang2026, whose module this is a reading of.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["syntus"] = "syntus"
    balanced: DistributionBalancedConfig | None = field(default_factory=DistributionBalancedConfig)
    consistency: ConsistencyConfig | None = field(default_factory=ConsistencyConfig)
    lexical: LexicalConfig | None = field(default_factory=LexicalConfig)
    smoothing: SmoothingConfig | None = field(default_factory=SmoothingConfig)
    sham: Literal["dealt_layers"] | None = None

    def __post_init__(self) -> None:
        if self.sham is not None and self.consistency is None:
            raise MedtailError(
                f"sham: {self.sham!r} deals rows out over two layers, which `consistency: null` leaves out."
            )

    def check(self, *, two_layers: bool, two_streams: bool) -> None:
        """Check that head and sampler give what is asked for.

        Raises:
            MedtailError: They do not; everything missing is named.
        """
        problems = Problems("objective")
        if self.consistency is not None and not two_layers:
            problems.add(
                "consistency: compares two last layers; expected a head with `kind: syntus, two_layers: true`, or"
                " `consistency: null`."
            )
        if self.smoothing is not None and not two_streams:
            problems.add(
                "smoothing: needs an account of how hard rows have been; expected the sampler 'two_streams', or"
                " `smoothing: null`."
            )
        problems.raise_if_any()


def smoothed_targets(targets: Tensor, *, prior: Tensor, is_chosen: Tensor, epsilon: float) -> Tensor:
    """Move the labels of chosen rows towards the prior, y ← (1 − ε) y + ε p; empty cells stay empty.

    Args:
        targets: Float [B, C], NaN = not assessed.
        prior: Float [B, C] or [C]: what each row's labels are drawn to.
        is_chosen: bool [B].
        epsilon: In [0, 1].

    Example:
        >>> smoothed_targets(torch.tensor([[1.0], [1.0]]), prior=torch.tensor([0.1]),
        ...                  is_chosen=torch.tensor([True, False]), epsilon=0.5)
        tensor([[0.5500],
                [1.0000]])
    """
    return torch.where(is_chosen[:, None], (1 - epsilon) * targets + epsilon * prior, targets)


@final
class SyntusObjective(Objective):
    """L_cls + 0.3 L_lex + λ L_con; see the module.

    Its parts, for the log: `cls`; `lex`, if on; `con` and `con_cells`, the share of cells in which a layer was sure, if
    on; `smoothed`, the share of the batch's rows, if on.

    Args:
        config: What is switched on.
        context: Counts, groups and names of the train fold.

    Example:
        >>> context = LossContext(positives=(5, 2), assessed=(10, 8), groups=(), num_images=10)
        >>> config = SyntusObjectiveConfig(balanced=None, consistency=None, lexical=None, smoothing=None)
        >>> objective = SyntusObjective(config, context=context)
        >>> round(objective(Step.of(torch.zeros(4, 2), torch.ones(4, 2))).total.item(), 4)
        0.6931
    """

    _prior: Tensor

    def __init__(self, config: SyntusObjectiveConfig, *, context: LossContext) -> None:
        super().__init__()
        self.link: Link = "sigmoid"
        self.config = config
        self.layout = GroupLayout(context.groups, num_classes=context.num_classes)
        self.losses = nn.ModuleList(_cell_loss(config, context) for _ in range(2))
        self.exclusions = _exclusions(config.lexical, context)
        self.register_buffer("_prior", torch.as_tensor(context.prevalence, dtype=torch.float32), persistent=False)
        self.part_names = (
            "cls",
            *(("lex",) if config.lexical is not None else ()),
            *(("con", "con_cells") if config.consistency is not None else ()),
            *(("smoothed",) if config.smoothing is not None else ()),
        )
        self._drawn: Sequence[DrawnCounts] = ()

    def forward(self, step: Step) -> ObjectiveValue:
        """Compute the value of a step."""
        config = self.config
        self._take_counts(step.drawn)
        parts: dict[str, Tensor] = {}
        targets = step.targets
        if config.smoothing is not None:
            targets, parts["smoothed"] = self._smooth(step, config.smoothing)
        routes = ("", "mixed_") if {"mixed", "mixed_u"} & set(step.further) else ("",)
        streams = step.streams
        teaches = streams[torch.randperm(len(streams)).to(streams.device)] if config.sham else streams
        total = torch.stack(
            [self._classify(_own_logits(step, route, teaches), targets, streams) for route in routes]
        ).mean()
        parts["cls"] = total.detach()
        if config.lexical is not None:
            lexical = lexical_penalty(step.logits, targets, layout=self.layout, exclusions=self.exclusions)
            parts["lex"] = lexical.detach()
            total = total + config.lexical.weight * lexical
        if config.consistency is not None:
            config.check(two_layers="u" in step.further, two_streams=True)
            is_assessed = ~torch.isnan(step.targets)
            agreement, cells = consistency(
                step.further["u"], step.further["r"], is_counted=is_assessed, confidence=config.consistency.confidence
            )
            parts["con"], parts["con_cells"] = agreement.detach(), cells / is_assessed.sum().clamp_min(1)
            rise = min(1.0, step.epoch / config.consistency.rise_epochs) if config.consistency.rise_epochs else 1.0
            total = total + rise * config.consistency.weight * agreement
        return ObjectiveValue(total=total, parts={name: parts[name] for name in self.part_names})

    def _take_counts(self, drawn: Sequence[DrawnCounts]) -> None:
        """Let each stream's loss know what its stream shows; an epoch's counts are one object, taken once."""
        if drawn is self._drawn or not drawn:
            return
        self._drawn = drawn
        for number, loss in enumerate(self.losses):
            if isinstance(loss, DistributionBalanced):
                loss.set_counts(drawn[min(number, len(drawn) - 1)])

    def _smooth(self, step: Step, config: SmoothingConfig) -> tuple[Tensor, Tensor]:
        if step.epoch < config.from_epoch:
            return step.targets, step.logits.new_zeros(())
        is_chosen = step.hardness > 1.0 - config.hardest  # NaN is not
        prior = self._prior.to(step.targets.dtype).expand_as(step.targets)
        if self.layout.num_groups:
            # inside a group the prior is scaled to the row's own sum, so that valid rows stay valid
            known = step.targets.nan_to_num(0.0)
            sums, prior_sums = self.layout.sums(known), self.layout.sums(prior)
            factors = sums / prior_sums.where(prior_sums > 0, 1)
            prior = prior * self.layout.spread(factors, torch.ones_like(prior))
        moved = smoothed_targets(step.targets, prior=prior, is_chosen=is_chosen, epsilon=config.epsilon)
        return moved, is_chosen.float().mean()

    def _classify(self, logits: Tensor, targets: Tensor, streams: Tensor) -> Tensor:
        """Average L_cls over the assessed cells, each row by the loss of the stream that drew it."""
        found = []
        for number, loss in enumerate(self.losses):
            assert isinstance(loss, Loss)
            rows = streams == 0 if number == 0 else streams != 0
            found.append(masked_sum(loss, logits[rows], targets[rows]))
        total, cells = (torch.stack(values).sum() for values in zip(*found, strict=True))
        return torch.where(cells > 0, total / torch.where(cells > 0, cells, 1), 0 * total)


def _cell_loss(config: SyntusObjectiveConfig, context: LossContext) -> Loss:
    if config.balanced is None:
        return CrossEntropy(context=context, link="sigmoid")
    return DistributionBalanced(config.balanced, context=context)


def _exclusions(config: LexicalConfig | None, context: LossContext) -> tuple[tuple[int, tuple[int, ...]], ...]:
    if config is None or context.labels is None:
        return ()
    names = context.labels.class_names
    found = []
    for name, others in config.none_of.items():
        columns = tuple(names.index(other) for other in others if other in names)
        if name in names and columns:
            found.append((names.index(name), columns))
    return tuple(found)


def _own_logits(step: Step, route: str, teaches: Tensor) -> Tensor:
    """Return each row's logits by the layer that learns from its stream; the only layer's where there is one."""
    if f"{route}u" not in step.further:
        return step.further["mixed"] if route else step.logits
    return torch.where((teaches == 0)[:, None], step.further[f"{route}u"], step.further[f"{route}r"])
