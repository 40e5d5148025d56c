"""What a recipe is: a starting point for a config, with its origin and, where it follows somebody, what it omits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

BOTH = ("multiclass", "multilabel")


@final
@dataclass(frozen=True)
class Recipe:
    """A starting point for a config.

    Attributes:
        purpose: When to choose it.
        tasks: Task kinds it runs on.
        origin: Where its choices come from; keys of the bibliography.
        config: Keys of a training config.
        sizes: Size → keys laid over `config`, chosen by `recipe: NAME/SIZE`; empty where there is one size alone.
        usual: The size that `recipe: NAME` means, where there are several.
        leaves_out: What the original does and this does not, and what is ours because it was not published.
    """

    purpose: str
    tasks: tuple[str, ...]
    origin: str
    config: Mapping[str, Any]
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    usual: str = "small"
    leaves_out: str = ""
