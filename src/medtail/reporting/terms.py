"""What the words of the report mean, for the small print: only those a page uses."""

from __future__ import annotations

from collections.abc import Collection

TERMS: dict[str, tuple[tuple[str, str], ...]] = {
    "always": (
        (
            "AP, AUROC",
            "Average precision is the mean precision at the positives, from the highest score down; its chance line is "
            "near the prevalence. AUROC is how often a positive image outscores a negative one; chance is 0.5.",
        ),
        (
            "interval",
            "What the number might have been with other patients of the same kind; see above how it was made.",
        ),
    ),
    "tail as one": (
        (
            "any tail finding",
            "Is there some tail class in the image at all? Scores of the tail classes are joined as 1 less the product "
            "of 1 less each, as if they were independent. Defined where each class alone has too few positives.",
        ),
    ),
    "groups alike": (
        (
            "mean AP of the groups",
            "The mean of the groups' own means: twenty head classes do not outvote five in the tail.",
        ),
    ),
    "critical": (("missed (FNR)", "Share of the positive images that are not called: 1 less recall."),),
    "calibration": (
        ("calibrated", "Of the images with score 0.3, three in ten have the finding."),
        (
            "ECE",
            "Expected calibration error: mean distance of score and observed share over bins. It is never below 0 and "
            "grows with fewer images; “beyond noise” takes that part out.",
        ),
        ("observed / expected", "Positives there are, over positives the scores promise (their sum)."),
    ),
    "decisions": (
        (
            "net benefit",
            "Share of images rightly called, less the share wrongly called times t / (1 − t) at threshold t. At "
            "t = 5 % one finding is worth 19 needless work-ups.",
        ),
        ("gain", "Net benefit less that of the better default: acting on every image, or on none."),
    ),
    "subgroups": (
        ("gap", "A subgroup's value less that of all others whose value is known, from the same resamples."),
        (
            "corrected (Holm)",
            "With many gaps asked, some look real by luck; the correction keeps the risk of one at 5 %.",
        ),
    ),
    "conformal": (
        ("set", "For an image, the classes that cannot be ruled out: those whose score reaches their limit."),
        ("coverage", "Share of a finding's images whose set holds it."),
    ),
    "abstention": (("refused", "The least sure fifth of the decisions, left to a person. Ties are refused in part."),),
    "prevalence": (
        ("PPV, NPV", "Share of the called that have the finding, and of the uncalled that do not."),
        ("to look at", "Called images a person looks at for each finding among them: 1 / PPV."),
    ),
}


def terms(shown: Collection[str]) -> list[tuple[str, str]]:
    """Return words and meanings for the parts of the page that are shown, in the order of the page.

    Example:
        >>> [word for word, _ in terms(["subgroups"])]
        ['AP, AUROC', 'interval', 'gap', 'corrected (Holm)']
    """
    return [pair for part, pairs in TERMS.items() if part == "always" or part in shown for pair in pairs]
