"""The rungs of the ladder: the field's methods as named changes of one plain training.

A rung is a set of keys laid over the plain method (`plain`): cross-entropy, rows as they come, average and one linear
layer. Whatever else a training says (images, augmentation, backbone, rates, epochs) stays as it is, so that two rungs
differ in their method alone. Each says what it is for and where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from medtail.errors import UsageError, did_you_mean
from medtail.studies.config import Budget
from medtail.tables.labels import LabelSpace
from medtail.training.config import merge

Family = Literal["plain", "loss", "sampling", "head", "mixing", "stages", "experts", "whole"]
Need = Literal["any", "groups", "multilabel"]
LINK = "(link of the task)"
"""Stands for `softmax` where all classes exclude each other, else `sigmoid`: no rung changes the link by the way."""
STAGE_ONE, STAGE_TWO = "(epochs of the first stage)", "(epochs of the second stage)"
SECOND_SHARE = 0.25
"""Of the epochs, for the second stage of those that have two: together they take no more steps than the others."""
REFERENCE = "erm"


@final
@dataclass(frozen=True)
class Rung:
    """A method.

    Attributes:
        family: Which part of a training it changes.
        purpose: What it does about the tail.
        origin: Keys of the bibliography.
        config: Keys of a training, laid over the plain method's.
        needs: Tables it can run on: `groups` (there is an exclusive group beside other classes), `multilabel` (not all
            classes exclude each other).
        unlike: Budgets in which it differs from the plain method because that is what it is.
        is_core: Whether it is climbed unless others are named.
    """

    family: Family
    purpose: str
    origin: str
    config: Mapping[str, Any]
    needs: Need = "any"
    unlike: tuple[Budget, ...] = ()
    is_core: bool = True


def plain(labels: LabelSpace) -> dict[str, Any]:
    """Return the keys of the plain method on a label space: what is undone of any training before a rung is laid on it.

    Example:
        >>> plain(LabelSpace(("Hernia", "Mass")))["loss"]
        {'kind': 'bce'}
    """
    return {
        "loss": {"kind": "cross_entropy", "smoothing": 0.0} if labels.task == "multiclass" else {"kind": "bce"},
        "sampler": {"kind": "uniform"},
        "objective": {"kind": "plain"},
        "head": {"kind": "linear"},
        "tail_mix": None,
        "mix": None,
        "second": None,
        "optimizer": {"patience": None},
    }


RUNGS: Mapping[str, Rung] = {
    "erm": Rung("plain", "Nothing is done about the tail.", "", {}),
    "softmax": Rung(
        "loss",
        "One softmax for each exclusive group instead of a sigmoid a class.",
        "",
        {"loss": {"kind": "cross_entropy"}},
        needs="groups",
    ),
    "focal": Rung(
        "loss", "Cells that are right already count less.", "lin2017", {"loss": {"kind": "focal", "link": LINK}}
    ),
    "class_balanced": Rung(
        "loss",
        "Classes weigh the inverse of their effective number of images.",
        "cui2019",
        {"loss": {"kind": "class_balanced", "link": LINK}},
    ),
    "deferred": Rung(
        "loss",
        "The same weights, only in the last fifth of the training.",
        "cui2019, cao2019",
        {"loss": {"kind": "class_balanced", "link": LINK, "reweight_from": 0.8}},
        is_core=False,
    ),
    "asl": Rung("loss", "Easy negatives lose their weight.", "ridnik2021", {"loss": {"kind": "asl"}}),
    "ral": Rung(
        "loss", "The asymmetric loss, robust to its own settings.", "park2023", {"loss": {"kind": "ral"}}, is_core=False
    ),
    "distribution_balanced": Rung(
        "loss",
        "Re-balances rows with several labels, and tolerates negatives that are said too loudly.",
        "wu2020",
        {"loss": {"kind": "distribution_balanced"}},
        needs="multilabel",
    ),
    "equalization": Rung(
        "loss",
        "Negatives of other classes' rows do not discourage rare classes.",
        "tan2020",
        {"loss": {"kind": "equalization"}},
        needs="multilabel",
        is_core=False,
    ),
    "two_way": Rung(
        "loss",
        "Present above absent, along rows and along labels.",
        "kobayashi2023",
        {"objective": {"kind": "two_way"}},
        needs="multilabel",
    ),
    "zlpr": Rung(
        "loss",
        "Present labels above zero, absent ones below, a row at a time.",
        "su2022",
        {"objective": {"kind": "zlpr"}},
        needs="multilabel",
        is_core=False,
    ),
    "influence_balanced": Rung(
        "loss",
        "Rows that would move the decision border most count less.",
        "park2021",
        {"objective": {"kind": "influence_balanced"}},
        is_core=False,
    ),
    "ldam_drw": Rung(
        "loss",
        "Larger margins for rare classes, weights at the end.",
        "cao2019",
        {"loss": {"kind": "ldam", "link": LINK}},
    ),
    "logit_adjusted": Rung(
        "loss",
        "Logits shifted by the class's log prior.",
        "menon2021",
        {"loss": {"kind": "logit_adjusted", "tau": 1.0, "link": LINK}},
    ),
    "balanced_softmax": Rung(
        "loss",
        "Logit adjustment inside a softmax for each exclusive group.",
        "ren2020, menon2021",
        {"loss": {"kind": "logit_adjusted", "tau": 1.0, "link": "softmax"}},
        needs="groups",
    ),
    "class_aware": Rung(
        "sampling", "Classes are drawn alike, then a row of it.", "kang2020", {"sampler": {"kind": "class_balanced"}}
    ),
    "square_root": Rung(
        "sampling",
        "Classes are drawn by the root of how common they are.",
        "mahajan2018, kang2020",
        {"sampler": {"kind": "square_root"}},
        is_core=False,
    ),
    "progressive": Rung(
        "sampling",
        "From rows as they come to classes alike, over the epochs.",
        "kang2020",
        {"sampler": {"kind": "progressive"}},
        is_core=False,
    ),
    "repeat_factor": Rung(
        "sampling", "Rows with a rare class are repeated.", "gupta2019", {"sampler": {"kind": "repeat_factor"}}
    ),
    "csra": Rung("head", "Each class attends to its own places.", "zhu2021", {"head": {"kind": "csra"}}),
    "ml_decoder": Rung(
        "head", "A query a class reads the map.", "ridnik2023", {"head": {"kind": "ml_decoder"}}, is_core=False
    ),
    "label_graph": Rung(
        "head",
        "Classes that occur together share their weights.",
        "chen2019b",
        {"head": {"kind": "label_graph"}},
        needs="multilabel",
        is_core=False,
    ),
    "class_attention": Rung(
        "head",
        "A vector a class, conditioned on the image (SynTUS-Net's B1 by itself).",
        "zhang2026",
        {"head": {"kind": "class_attention"}},
        is_core=False,
    ),
    "mixup": Rung(
        "mixing",
        "Images are blended in pairs.",
        "zhang2018",
        {"mix": {"kind": "mixup"}},
        unlike=("augmentation",),
        is_core=False,
    ),
    "cutmix": Rung(
        "mixing",
        "A box of another image in each.",
        "yun2019",
        {"mix": {"kind": "cutmix"}},
        unlike=("augmentation",),
        is_core=False,
    ),
    "remix": Rung(
        "mixing",
        "Mixup whose labels lean to the rare side.",
        "chou2020",
        {"mix": {"kind": "remix"}},
        unlike=("augmentation",),
        is_core=False,
    ),
    "balanced_mixup": Rung(
        "mixing",
        "Each image with a little of one drawn class by class.",
        "galdran2021",
        {"mix": {"kind": "balanced_mixup"}, "sampler": {"kind": "two_branches"}},
        unlike=("augmentation",),
        is_core=False,
    ),
    "deferred_sampling": Rung(
        "stages",
        "Rows as they come, then classes alike in the last fifth.",
        "cao2019",
        {"sampler": {"kind": "deferred"}},
        is_core=False,
    ),
    "crt": Rung(
        "stages",
        "A new last layer learns from classes alike, on features learnt from rows as they come.",
        "kang2020",
        {"second": {"kind": "retrain", "learn": "classifier", "epochs": STAGE_TWO}, "optimizer": {"epochs": STAGE_ONE}},
    ),
    "lws": Rung(
        "stages",
        "One factor a class is learnt from classes alike.",
        "kang2020",
        {"second": {"kind": "retrain", "learn": "scales", "epochs": STAGE_TWO}, "optimizer": {"epochs": STAGE_ONE}},
        is_core=False,
    ),
    "tau_norm": Rung(
        "stages",
        "The classes' weights are made more alike in length after the training.",
        "kang2020",
        {"second": {"kind": "tau_norm"}},
        is_core=False,
    ),
    "post_hoc_logit_adjustment": Rung(
        "stages",
        "The classes' log priors are taken off the scores after the training, as strongly as tune says.",
        "menon2021",
        {"second": {"kind": "logit_adjustment"}},
        is_core=False,
    ),
    "bbn": Rung(
        "experts",
        "Two last layers: rows as they come at first, rare classes more and more.",
        "zhou2020b",
        {
            "head": {"kind": "experts", "count": 2},
            "objective": {"kind": "branches", "schedule": "parabolic"},
            "sampler": {"kind": "two_branches", "second": "reversed"},
        },
        is_core=False,
    ),
    "ltml": Rung(
        "experts",
        "Two last layers, one for each of two samplers, that are to agree.",
        "guo2021",
        {
            "head": {"kind": "experts", "count": 2},
            "objective": {"kind": "branches", "schedule": "equal", "consistency": 0.1},
            "sampler": {"kind": "two_branches", "second": "balanced"},
        },
        needs="multilabel",
    ),
    "sade": Rung(
        "experts",
        "Three last layers, each for another distribution of classes; their mean.",
        "zhang2022",
        {
            "head": {"kind": "experts", "count": 3, "prior_bias": False},
            "objective": {"kind": "skill_diverse", "link": LINK},
        },
    ),
    "syntus": Rung(
        "whole",
        "SynTUS-Net: raked second stream, class attention, regularised prediction.",
        "zhang2026",
        {
            "sampler": {"kind": "two_streams"},
            "tail_mix": {"probability": 0.3},
            "objective": {"kind": "syntus"},
            "head": {"kind": "syntus"},
        },
        needs="multilabel",
    ),
}


def obstacle(rung: Rung, labels: LabelSpace) -> str:
    """Say why a rung cannot be climbed on a label space; "" if it can.

    Example:
        >>> obstacle(RUNGS["softmax"], LabelSpace(("Hernia",)))
        'needs an exclusive group beside other classes'
    """
    if rung.needs == "groups" and (not labels.groups or labels.task == "multiclass"):
        return "needs an exclusive group beside other classes"
    if rung.needs == "multilabel" and labels.task == "multiclass":
        return "needs classes that can occur together"
    return ""


def choose_rungs(
    names: Sequence[str] | None, labels: LabelSpace, *, where: str, others: Sequence[str] = ()
) -> list[str]:
    """Return the rungs to climb, in the ladder's order.

    Args:
        names: Those asked for; None takes the core ones that fit, `all` every one that fits.
        labels: What is learnt.
        where: For messages.
        others: Names that are known beside the table's.

    Returns:
        Names of rungs, the plain method first.

    Raises:
        UsageError: An unknown name, or a rung that does not fit; all are named.

    Example:
        >>> choose_rungs(["focal"], LabelSpace(("Hernia",)), where="ladder.yaml")
        ['erm', 'focal']
    """
    if names is None:
        return [name for name, rung in RUNGS.items() if rung.is_core and not obstacle(rung, labels)]
    if tuple(names) == ("all",):
        return [name for name, rung in RUNGS.items() if not obstacle(rung, labels)]
    problems = []
    for name in names:
        if name in RUNGS:
            reason = obstacle(RUNGS[name], labels)
            if reason:
                problems.append(f"{where}, rung {name!r}: {reason}; leave it out here.")
        elif name not in others:
            known = [*RUNGS, *others]
            problems.append(f"{where}: no rung {name!r}{did_you_mean(name, known) or '; known: ' + ', '.join(known)}")
    if problems:
        raise UsageError("\n".join(problems))
    return [name for name in RUNGS if name in names or name == REFERENCE]


def rung_keys(name: str, labels: LabelSpace, *, epochs: int = 20) -> dict[str, Any]:
    """Return a rung's keys on a label space, to be laid over the plain method's.

    Args:
        name: The rung.
        labels: What is learnt.
        epochs: Of the plain method; rungs of two stages share them out.

    Raises:
        UsageError: There are too few epochs for two stages.

    Example:
        >>> rung_keys("focal", LabelSpace(("Hernia",)))
        {'loss': {'kind': 'focal', 'link': 'sigmoid'}}
        >>> rung_keys("crt", LabelSpace(("Hernia",)))["optimizer"]
        {'epochs': 15}
    """
    later = max(1, round(SECOND_SHARE * epochs))
    stands = {
        LINK: "softmax" if labels.task == "multiclass" else "sigmoid",
        STAGE_ONE: epochs - later,
        STAGE_TWO: later,
    }
    if "second" in RUNGS[name].config and epochs < 2:
        raise UsageError(f"rung {name!r}: has two stages, and optimizer.epochs is {epochs}; expected at least 2.")

    def filled(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: filled(value) if isinstance(value, Mapping) else stands.get(value, value) if isinstance(value, str)
            else value
            for key, value in values.items()
        }  # fmt: skip

    return filled(RUNGS[name].config)


def plain_base(base: Mapping[str, Any], labels: LabelSpace) -> dict[str, Any]:
    """Lay the plain method over the keys of a training, whatever method that was of.

    Example:
        >>> plain_base({"loss": {"kind": "asl"}, "seed": 3}, LabelSpace(("Hernia",)))["loss"]
        {'kind': 'bce'}
    """
    return merge(base, plain(labels))
