"""The items of two reporting guidelines, in our own short words: TRIPOD+AI (2024) and CLAIM (2024 update).

Only numbers and topics, so that a model card can say which items a run can answer and which only its authors can. It
is a summary and replaces neither form; the wording of the guidelines is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

State = Literal["filled", "partly", "gap"]
STATES: tuple[State, ...] = ("filled", "partly", "gap")


@final
@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Attributes:
        number: As in the guideline, such as `12c`.
        asks: What it asks for, in our words.
        topic: What of a run answers it (see `checklist_answers`); "" where no run can.
    """

    number: str
    asks: str
    topic: str = ""


@final
@dataclass(frozen=True)
class Answer:
    """What a run says to a topic.

    Attributes:
        state: `filled`; `partly`, the text then says what is missing; or `gap`.
        text: The answer, or what the authors must add.
    """

    state: State
    text: str


@final
@dataclass(frozen=True)
class Checklist:
    """A reporting guideline.

    Attributes:
        name: Its short name.
        key: In `references.bib`.
        items: In its order.
    """

    name: str
    key: str
    items: tuple[Item, ...]

    def answered(self, answers: Mapping[str, Answer]) -> tuple[tuple[Item, Answer], ...]:
        """Put an answer beside every item; a gap where no run can know or this one does not.

        Args:
            answers: Topic → answer.
        """
        return tuple((item, answers.get(item.topic, GAP)) for item in self.items)


GAP = Answer("gap", "Not known to the run; to be written by its authors.")

TRIPOD_AI = Checklist(
    "TRIPOD+AI 2024",
    "collins2024",
    (
        Item("1", "Title: development or evaluation of a model, population, outcome", "kind"),
        Item("2", "Abstract by its own checklist"),
        Item("3a", "Clinical context, why the model, what exists already"),
        Item("3b", "Population and purpose in the care pathway, intended users", "purpose"),
        Item("3c", "Known health inequalities between groups"),
        Item("4", "Objectives: development, evaluation or both"),
        Item("5a", "Sources of the data, why these, how representative", "data"),
        Item("5b", "Dates of the data"),
        Item("6a", "Setting; number and place of the centres", "sites"),
        Item("6b", "Who was eligible"),
        Item("6c", "Treatments received, and how they were handled"),
        Item("7", "Preparation and quality checks of the data", "preparation"),
        Item("8a", "The outcome: definition, how and when assessed", "outcome"),
        Item("8b", "Who assessed the outcome, where it takes judgement"),
        Item("8c", "Blinding of the assessment"),
        Item("9a", "Choice of the predictors", "predictors"),
        Item("9b", "Definition and measurement of the predictors", "preparation"),
        Item("9c", "Who measured them, where it takes judgement"),
        Item("10", "How the study's size was arrived at", "size"),
        Item("11", "Missing data", "missing"),
        Item("12a", "How data were used and divided", "partition"),
        Item("12b", "How predictors entered the analysis", "preparation"),
        Item("12c", "Type of model, all steps of building it, internal validation", "training"),
        Item("12d", "Differences between clusters (centres, countries)", "clusters"),
        Item("12e", "Measures and plots of performance", "metrics"),
        Item("12f", "Updating of the model after evaluation", "calibration"),
        Item("12g", "For evaluation: how predictions were calculated", "output"),
        Item("13", "Class imbalance: methods, why, later recalibration", "imbalance"),
        Item("14", "Fairness: approaches and why", "subgroups"),
        Item("15", "Output of the model, thresholds and why", "output"),
        Item("16", "Differences between development and evaluation data", "difference"),
        Item("17", "Ethical approval and consent"),
        Item("18a", "Funding"),
        Item("18b", "Conflicts of interest"),
        Item("18c", "Protocol"),
        Item("18d", "Registration"),
        Item("18e", "Availability of the data"),
        Item("18f", "Availability of the code", "code"),
        Item("19", "Involvement of patients and the public"),
        Item("20a", "Flow of participants", "flow"),
        Item("20b", "Characteristics of participants", "characteristics"),
        Item("20c", "Development and evaluation data compared", "characteristics"),
        Item("21", "Participants and events in each analysis", "counts"),
        Item("22", "The full model, so that others can predict with it", "specification"),
        Item("23a", "Performance with intervals, subgroups too", "performance"),
        Item("23b", "Heterogeneity between clusters", "clusters"),
        Item("24", "Results of updating", "calibration"),
        Item("25", "Interpretation, fairness included"),
        Item("26", "Limitations", "limits"),
        Item("27a", "What to do with poor or missing input", "input"),
        Item("27b", "What users must do, what they must know", "usage"),
        Item("27c", "Next steps"),
    ),
)

CLAIM_2024 = Checklist(
    "CLAIM 2024",
    "tejani2024",
    (
        Item("1", "Named as a study of AI, with the kind of technology", "kind"),
        Item("2", "Summary of design, methods, results, conclusions"),
        Item("3", "Background, intended use and role of the AI", "purpose"),
        Item("4", "Aims, objectives, hypotheses"),
        Item("5", "Prospective or retrospective"),
        Item("6", "Goal of the study"),
        Item("7", "Sources of the data", "data"),
        Item("8", "Inclusion and exclusion criteria"),
        Item("9", "Preprocessing", "preparation"),
        Item("10", "Choice of subsets of the data", "subset"),
        Item("11", "De-identification"),
        Item("12", "Missing data", "missing"),
        Item("13", "How the images were acquired", "acquisition"),
        Item("14", "Definition of the reference standard", "outcome"),
        Item("15", "Why this reference standard"),
        Item("16", "Who made its annotations"),
        Item("17", "How the test set was annotated"),
        Item("18", "Variability within and between annotators"),
        Item("19", "How data were assigned to partitions", "partition"),
        Item("20", "At which level partitions are disjoint", "disjoint"),
        Item("21", "Intended size of the test set", "size"),
        Item("22", "The model in detail", "model"),
        Item("23", "Software, libraries, versions", "software"),
        Item("24", "Initialisation of the weights", "initialisation"),
        Item("25", "Training in detail", "training"),
        Item("26", "How the final model was chosen", "selection"),
        Item("27", "Ensembling", "ensemble"),
        Item("28", "Metrics", "metrics"),
        Item("29", "Statistics of significance and uncertainty", "uncertainty"),
        Item("30", "Robustness or sensitivity", "robustness"),
        Item("31", "Explainability", "explanation"),
        Item("32", "Evaluation on internal data", "internal"),
        Item("33", "Evaluation on external data", "external"),
        Item("34", "Registration of a clinical trial"),
        Item("35", "Patients or examinations included and excluded", "flow"),
        Item("36", "Characteristics of the cases in each partition", "characteristics"),
        Item("37", "Performance with its uncertainty", "performance"),
        Item("38", "Diagnostic performance and its precision", "diagnostic"),
        Item("39", "Analysis of failures", "failures"),
        Item("40", "Limitations", "limits"),
        Item("41", "Implications for practice, intended use", "purpose"),
        Item("42", "Protocol or further technical details", "specification"),
        Item("43", "Availability of software, model and data", "code"),
        Item("44", "Funding and its role"),
    ),
)
CHECKLISTS = (TRIPOD_AI, CLAIM_2024)
