"""The table of every class: how often it was seen, how well it is ranked, decided and calibrated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medtail.reporting.facts import ClassFacts, Estimate, number
from medtail.reporting.tables import Cell, Column, Table, amount_cell, group_cell, text_cell, value_cell

COLUMNS = (
    Column("class", "Name of the class", True),
    Column("group", "Head, medium or tail, by train images", True),
    Column("images", "Positive real images of the train fold"),
    Column("patients", "Patients with a positive train image"),
    Column("images", "Positive judged images"),
    Column("patients", "Patients with a positive judged image"),
    Column("prevalence", "Positive share of the assessed judged images"),
    Column("AP", "Average precision with its 95 % interval"),
    Column("chance", "Expected average precision of a random order"),
    Column("AUROC", "Area under the ROC curve with its 95 % interval"),
    Column("F1", "F1 of the decisions"),
    Column("recall", "Share of the positive images that are called (sensitivity)"),
    Column("precision", "Share of the calls that are right (positive predictive value)"),
    Column("specificity", "Share of the negative images that are not called"),
    Column("threshold", "Score at or above which the class is called"),
    Column("ECE", "Expected calibration error"),
)


def class_table(classes: Sequence[ClassFacts]) -> Table:
    """Return the table, a row a class in the order given."""
    return Table("Table of classes", COLUMNS, tuple(_row(facts) for facts in classes))


def _row(facts: ClassFacts) -> tuple[Cell, ...]:
    why = "not defined: no positives" if facts.n_pos == 0 else "not defined"

    def value(found: Estimate, *, digits: int = 2, with_interval: bool = False) -> Cell:
        return value_cell(found, digits=digits, with_interval=with_interval, why=why)

    decided = facts.threshold if facts.by_threshold else float("nan")
    threshold = Cell(
        number(decided),
        "" if np.isnan(decided) else repr(decided),
        hint="" if facts.by_threshold else "the highest score of its exclusive group is called",
    )
    silent = "not defined: nothing is called" if facts.n_pos and not facts.precision.is_defined else why
    prevalence = (
        Cell("–", "") if np.isnan(facts.prevalence) else Cell(f"{100 * facts.prevalence:.1f} %", repr(facts.prevalence))
    )
    return (
        text_cell(facts.name),
        group_cell(facts.tail_group),
        amount_cell(facts.train_images),
        amount_cell(facts.train_patients),
        amount_cell(facts.n_pos),
        amount_cell(facts.n_pos_patients),
        prevalence,
        value(facts.ap, with_interval=True),
        value(Estimate(facts.ap_chance)),
        value(facts.auroc, with_interval=True),
        value(facts.f1),
        value(facts.recall),
        value_cell(facts.precision, why=silent),
        value(facts.specificity),
        threshold,
        value(facts.ece, digits=3),
    )
