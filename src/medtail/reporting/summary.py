"""The summary in plain words: what can and what cannot be concluded, derived from the numbers by fixed rules.

The rules, in the order they are tried for a class:

1. `no positives`: no positive image among the judged ones. Nothing can be said; it was left out, not counted as 0.
2. `no negatives`: every judged image is positive. Ranking is undefined.
3. `not judged`: no AP was computed.
4. `too few`: under 5 positive or under 5 negative patients. Whatever the interval says, it rests on the luck of a
   handful of people.
5. `no interval`: a value without an interval. It describes these images only.
6. `better`: the lower ends of AUROC > 0.5 *and* of AP > AP by chance.
7. `worse`: the upper end of AUROC < 0.5.
8. `inconclusive`: anything else.

Rules 6 and 7 count as "can be concluded", the others as "cannot". Caveats are added where they apply: fewer than
20 positive (or negative) patients, an interval undefined in over 5 % of the resamples, a class hardly or never
seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from medtail.reporting.facts import UNKNOWN, ClassFacts, GroupFacts, number

Verdict = Literal[
    "no positives", "no negatives", "not judged", "too few", "no interval", "better", "worse", "inconclusive"
]
CONCLUSIVE: tuple[Verdict, ...] = ("better", "worse")
FEW_PATIENTS = 20
"""Below this many patients on one side, simulated intervals were too short (spec: coverage .90 at 5, .93 at 20)."""
FEWEST_PATIENTS = 5
"""Below this many on one side nothing is concluded: one patient more or less turns the verdict."""
STABLE_SHARE = 0.95
MISTAKE = "worse than chance; look for a labelling or scoring mistake"
FEW_TRAIN_IMAGES = 10


@final
@dataclass(frozen=True)
class Statement:
    """What is said about one class.

    Attributes:
        class_name: The class.
        verdict: Which rule applied.
        text: The sentence, to follow the class's name.
        caveats: Sentences that limit it.
    """

    class_name: str
    verdict: Verdict
    text: str
    caveats: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Summary:
    """The report's first page.

    Attributes:
        overview: Sentences about the whole.
        can: Statements on the rare classes about which something can be concluded.
        cannot: Statements on the rare classes about which nothing can, and on every class without positives.
        others: Sentences on the classes that are not rare.
    """

    overview: tuple[str, ...]
    can: tuple[Statement, ...]
    cannot: tuple[Statement, ...]
    others: tuple[str, ...]


def verdict(facts: ClassFacts) -> Verdict:
    """Apply the module's rules to one class."""
    if facts.n_pos == 0:
        return "no positives"
    if facts.n_neg == 0:
        return "no negatives"
    if not facts.ap.is_defined:
        return "not judged"
    if min(facts.n_pos_patients, facts.n_neg_patients) < FEWEST_PATIENTS:
        return "too few"
    if not (facts.ap.has_interval and facts.auroc.has_interval):
        return "no interval"
    if facts.auroc.low > 0.5 and facts.ap.low > facts.ap_chance:
        return "better"
    if facts.auroc.high < 0.5:
        return "worse"
    return "inconclusive"


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun.

    Example:
        >>> count(1, "patient"), count(1200, "image"), count(2, "class", "classes")
        ('1 patient', '1,200 images', '2 classes')
    """
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def state(facts: ClassFacts, *, fold: str, has_patients: bool) -> Statement:
    """Say what one class's numbers allow to be said.

    Args:
        facts: The class.
        fold: Name of the judged fold; "" if unknown.
        has_patients: Whether patients are known; if not, images are counted in their place.
    """
    found = verdict(facts)
    where = f"the {fold} fold" if fold else "the judged images"
    unit = "patient" if has_patients else "image"
    positives = facts.n_pos_patients if has_patients else facts.n_pos
    trained = "" if facts.train_images == UNKNOWN else f" ({count(facts.train_images, 'train image')})"
    measured = (
        f"AP {facts.ap.text()} against {number(facts.ap_chance)} by chance, AUROC {facts.auroc.text()}, "
        f"from {count(positives, f'positive {unit}')}."
    )
    match found:
        case "no positives":
            text = (
                f"no positive {unit} in {where}: nothing can be said. It was left out of the means, not counted as 0."
            )
        case "no negatives":
            text = f"every judged image in {where} is positive: ranking is not defined."
        case "not judged":
            text = f"{count(positives, f'positive {unit}')} in {where}, but no average precision was computed."
        case "too few":
            few = f"{count(positives, f'positive {unit}')} and {count(facts.n_neg_patients, f'negative {unit}')}"
            text = f"only {few}: too few to conclude anything, whatever the interval says. {measured}"
        case "no interval":
            text = f"no interval was computed, so the value describes these images only. {measured}"
        case "better":
            text = f"ranks better than chance. {measured}"
        case "worse":
            text = f"ranks {MISTAKE}. {measured}"
        case "inconclusive":
            text = f"inconclusive: the interval does not exclude ranking by chance. {measured}"
    if found in (*CONCLUSIVE, "inconclusive", "no interval", "too few"):
        text += _at_threshold(facts)
    return Statement(facts.name, found, f"{trained}: {text}", caveats(facts, has_patients=has_patients))


def _at_threshold(facts: ClassFacts) -> str:
    place = "At its threshold" if facts.by_threshold else "By the highest score of its group"
    start = f" {place} it finds {facts.found:,} of {count(facts.n_pos, 'positive image')}"
    if facts.alarms == 0:
        return f"{start} and raises no alarm at all."
    return (
        f"{start}; {facts.found:,} of its {count(facts.alarms, 'alarm')} {'is' if facts.alarms == 1 else 'are'} right."
    )


def caveats(facts: ClassFacts, *, has_patients: bool) -> tuple[str, ...]:
    """Return the sentences that limit a statement, the most serious first."""
    said = []
    unit = "patients" if has_patients else "images"
    positives = facts.n_pos_patients if has_patients else facts.n_pos
    if facts.train_images == 0:
        said.append("Never seen in training: nothing about it can have been learnt from these images.")
    elif 0 < facts.train_images < FEW_TRAIN_IMAGES:
        said.append(f"Only {count(facts.train_images, 'positive image')} in training.")
    if verdict(facts) not in ("no positives", "no negatives", "too few"):
        sides = (("positive", positives), ("negative", facts.n_neg_patients))
        few = [side for side, amount in sides if amount < FEW_PATIENTS]
        if few:
            said.append(f"Fewer than {FEW_PATIENTS} {' and '.join(few)} {unit}: the interval is likely too short.")
    if positives and facts.defined_share < STABLE_SHARE:
        missing = 100 * (1 - facts.defined_share)
        said.append(f"Undefined in {missing:.0f} % of the resamples: the interval is unstable.")
    return tuple(said)


def summarise(
    classes: Sequence[ClassFacts],
    groups: Sequence[GroupFacts],
    *,
    rare: Sequence[ClassFacts],
    rare_word: str,
    fold: str,
    has_patients: bool,
    cautioned: bool = False,
) -> Summary:
    """Write the summary of a judgement.

    Args:
        classes: All classes.
        groups: Head, medium, tail and all, those that exist.
        rare: The classes looked at closely, rarest first.
        rare_word: What they are, such as `tail`.
        fold: The judged fold, "" if unknown.
        has_patients: Whether patients are known.
        cautioned: Whether the evaluation's own warnings, on folds and patients too, stand beside the summary.
    """
    statements = [state(facts, fold=fold, has_patients=has_patients) for facts in rare]
    names = {facts.name for facts in rare}
    absent_elsewhere = [
        state(facts, fold=fold, has_patients=has_patients)
        for facts in classes
        if facts.name not in names and verdict(facts) in ("no positives", "no negatives")
    ]
    can = tuple(s for s in statements if s.verdict in CONCLUSIVE)
    cannot = (*(s for s in statements if s.verdict not in CONCLUSIVE), *absent_elsewhere)
    return Summary(
        overview=(*_overview(statements, groups, rare_word), *_reservations(classes, fold, has_patients, cautioned)),
        can=can,
        cannot=cannot,
        others=_others([facts for facts in classes if facts.name not in names]),
    )


def _overview(statements: Sequence[Statement], groups: Sequence[GroupFacts], rare_word: str) -> list[str]:
    found = [s.verdict for s in statements]
    if not found:
        return []
    total = count(len(found), f"{rare_word} class", f"{rare_word} classes")
    parts = []
    for words, kinds in (
        ("better than chance", ("better",)),
        ("worse than chance", ("worse",)),
        ("inconclusive", ("inconclusive", "no interval")),
        ("with too few patients to tell", ("too few",)),
        ("not measurable here", ("no positives", "no negatives", "not judged")),
    ):
        amount = sum(kind in kinds for kind in found)
        if amount:
            parts.append(f"{amount} {words}")
    sentences = [f"Of the {total}: {', '.join(parts)}."]
    if rare_word != "tail":
        sentences.append(
            "No class falls in the tail group by the rule used, so this page looks at the rarest third of the classes."
        )
    by_name = {group.name: group for group in groups}
    if "head" in by_name and "tail" in by_name:
        compared = []
        for name in ("head", "tail"):
            group = by_name[name]
            auroc, ap = group.metrics["auroc"], group.metrics["ap"]
            if auroc.is_defined:
                averaged = f"{len(group.averaged)} of {count(len(group.members), 'class', 'classes')}"
                compared.append(f"{name} AUROC {auroc.text()}, AP {ap.text()} (mean of {averaged})")
        if len(compared) == 2:
            sentences.append(
                f"{compared[0]}; {compared[1]}. AP of a rare class is lower even for an equally good ranking, because "
                "chance is lower: compare AUROC across groups, and AP with its own chance line.".replace(
                    "head", "Head", 1
                )
            )
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]


def _reservations(classes: Sequence[ClassFacts], fold: str, has_patients: bool, cautioned: bool) -> list[str]:
    said = []
    if not cautioned:
        if fold == "train":
            said.append("These are the images the model was trained on: nothing here says how it does on new patients.")
        elif fold in ("tune", "reward"):
            said.append(
                f"The {fold} fold took part in choosing the model or its thresholds: these numbers are optimistic."
            )
        elif not fold:
            said.append("The judged fold is not named: make sure the model never saw these images or their patients.")
        if not has_patients:
            said.append("Patients are not known: the intervals are too short if patients have several images.")
    judged = sum(verdict(facts) in (*CONCLUSIVE, "inconclusive") for facts in classes)
    if judged >= 5:
        lucky = count(max(1, round(0.025 * judged)), "class", "classes")
        said.append(
            f"Intervals hold for one class at a time: among {judged} classes without any skill, about {lucky} would "
            "still look better than chance by luck."
        )
    return said


def _others(classes: Sequence[ClassFacts]) -> tuple[str, ...]:
    said = []
    for kind, one, several in (
        ("better", "ranks better than chance", "rank better than chance"),
        ("inconclusive", "is inconclusive", "are inconclusive"),
        ("too few", "has too few patients to tell", "have too few patients to tell"),
        ("worse", f"ranks {MISTAKE}", f"rank {MISTAKE}"),
        ("no interval", "has no interval", "have no interval"),
    ):
        names = [facts.name for facts in classes if verdict(facts) == kind]
        if names:
            of = f"Of the other {count(len(classes), 'class', 'classes')}, {len(names)}"
            said.append(f"{of} {one if len(names) == 1 else several}: {', '.join(names)}.")
    return tuple(said)
