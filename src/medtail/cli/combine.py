"""`medtail combine views | ensemble | fit | rules | try-rules`: tables of scores become one table of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.errors import MedtailError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medtail.judging.ensemble_record import EnsembleWeights
    from medtail.tables.labels import LabelSpace
    from medtail.tables.post_rules import AnyRule
    from medtail.tables.predictions import Predictions

app = typer.Typer(
    help="Combine scores: views of one study, systems of an ensemble, rules on top. Nothing is trained.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

VIEWS_EXAMPLE = (
    "Example:\n\n  medtail combine views predictions.parquet --manifest manifest.csv --rule frontal --out study.parquet"
)
ENSEMBLE_EXAMPLE = """Examples:

  medtail combine ensemble a.parquet b.parquet c.parquet --how logits --out ensemble.parquet

  medtail combine ensemble a_test.parquet b_test.parquet --weights weights.json --out ensemble.parquet

  medtail combine ensemble head.parquet tail.parquet --how switch --out switched.parquet
"""
FIT_EXAMPLE = (
    "Example:\n\n  medtail combine fit a_tune.parquet b_tune.parquet c_tune.parquet --method class_greedy"
    " --out weights.json"
)
TRY_EXAMPLE = (
    "Example:\n\n  medtail combine try-rules predictions_tune.parquet --rules normal_gate,hierarchy --out rules.json"
)
RULES_EXAMPLE = "Example:\n\n  medtail combine rules predictions_test.parquet --rules rules.json --out ruled.parquet"

RuleChoice = Literal["mean", "max", "frontal"]
HowChoice = Literal["mean", "logits", "rank", "median", "switch"]
SpaceChoice = Literal["mean", "logits", "rank"]
MethodChoice = Literal["mean", "score", "class_score", "class_best", "greedy", "class_greedy"]
MetricChoice = Literal["ap", "auroc"]
GroupChoice = Literal["tail", "medium,tail"]

ScoresArgument = Annotated[Path, typer.Argument(help="Scores, .csv or .parquet.", show_default=False)]
MembersArgument = Annotated[
    list[Path], typer.Argument(metavar="SCORES...", help="Tables of scores of the same images.", show_default=False)
]
OutOption = Annotated[Path, typer.Option("--out", help="The table to write, .parquet or .csv.")]
TruthOption = Annotated[Path | None, typer.Option(help="Manifest with labels and folds, if SCORES has none.")]
SeedOption = Annotated[int, typer.Option(help="Seed of folds and resamples.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command("views", epilog=VIEWS_EXAMPLE)
def views(
    scores: ScoresArgument,
    manifest: Annotated[Path, typer.Option(help="Manifest with study_id and, for frontal, view.")],
    out: OutOption,
    rule: Annotated[RuleChoice, typer.Option(help="What becomes of a study's images.")] = "mean",
    frontal_weight: Annotated[
        float, typer.Option(help="frontal: share of the frontal views; .8 is 8:2.", min=0.0, max=1.0)
    ] = 0.8,
    as_json: JsonOption = False,
) -> None:
    """Give every image the combined score of its study. A study without frontal views keeps what it has."""
    from dataclasses import asdict

    from medtail.runs import new_file
    from medtail.tables.manifest import read_manifest
    from medtail.tables.predictions import read_predictions
    from medtail.tables.views import combine_views

    new_file(out)
    table = read_manifest(manifest)
    combined, census = combine_views(read_predictions(scores), table, rule=rule, frontal_weight=frontal_weight)
    combined.write(out)
    typer.echo(json.dumps(asdict(census), indent=1) if as_json else census.text())
    typer.echo(f"Written: {out}. Next: medtail evaluate {out} --out results", err=True)


@app.command("ensemble", epilog=ENSEMBLE_EXAMPLE)
def ensemble(
    scores: MembersArgument,
    out: OutOption,
    how: Annotated[
        HowChoice | None,
        typer.Option(help="What is averaged; switch takes tail classes from the second. mean if left out."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights that `medtail combine fit` wrote.")] = None,
    rare: Annotated[GroupChoice, typer.Option(help="switch: groups that the second table scores.")] = "tail",
    truth: TruthOption = None,
) -> None:
    """Combine several systems' scores of the same images, in any order of rows."""
    from medtail.judging.ensemble_record import read_ensemble
    from medtail.runs import new_file
    from medtail.tables.combine import combine_predictions

    new_file(out)
    if weights is not None and how is not None:
        raise UsageError("combine ensemble: --weights says how the members are averaged; leave --how out.")
    tables = _read(scores, truth)
    if how == "switch":
        combined, named = _switch(tables, tuple(rare.split(",")))
        typer.echo(f"{len(named)} rare classes from {scores[1].name}: {', '.join(named)}.")
    elif weights is not None:
        found = read_ensemble(weights)
        combined = found.combine(tables)
        typer.echo(f"{len(tables)} members, weights by {found.method}, {len(combined)} images.")
    else:
        combined = combine_predictions(tables, how=how or "mean")
        typer.echo(f"{len(tables)} members, {how or 'mean'}, {len(combined)} images.")
    combined.write(out)
    typer.echo(f"Written: {out}. Next: medtail evaluate {out} --out results", err=True)


@app.command("fit", epilog=FIT_EXAMPLE)
def fit(
    scores: MembersArgument,
    out: Annotated[Path, typer.Option("--out", help="JSON of the weights to write.")],
    method: Annotated[MethodChoice, typer.Option(help="How weights are chosen.")] = "class_greedy",
    how: Annotated[SpaceChoice, typer.Option(help="What is averaged.")] = "mean",
    power: Annotated[float, typer.Option(help="score, class_score: exponent of the AP.", min=0.0)] = 1.0,
    floor: Annotated[float, typer.Option(help="score, class_score: share dealt out equally.", min=0.0, max=1.0)] = 0.2,
    kappa: Annotated[
        float, typer.Option(help="Positive patients at which a class is pulled half-way to the mean.", min=0.0)
    ] = 10.0,
    rounds: Annotated[int, typer.Option(help="greedy: members drawn at most.", min=1)] = 20,
    guard_folds: Annotated[
        int, typer.Option("--guard-folds", help="Patient folds that must show the gain; 0 trusts the fit.", min=0)
    ] = 2,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the patients in the guard.", min=1)] = 500,
    truth: TruthOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose an ensemble's weights on tune scores; the plain mean, unless patients not seen show a gain."""
    from medtail.judging.ensemble_fitting import EnsembleConfig, fit_ensemble
    from medtail.runs import new_file, read_json

    new_file(out)
    config = EnsembleConfig(
        method=method, how=how, power=power, floor=floor, kappa=kappa, rounds=rounds, guard_folds=guard_folds,
        bootstrap=bootstrap, seed=seed,
    )  # fmt: skip
    found = fit_ensemble(_read(scores, truth, fold="tune"), config=config, names=[path.stem for path in scores])
    found.write(out)
    typer.echo(json.dumps(read_json(out), indent=1) if as_json else _fit_text(found, method))
    typer.echo(
        f"Written: {out}. Next: medtail combine ensemble TEST... --weights {out} --out ensemble.parquet", err=True
    )


@app.command("try-rules", epilog=TRY_EXAMPLE)
def try_rules(
    scores: ScoresArgument,
    rules: Annotated[
        str, typer.Option(help="In order, with a comma between: normal_gate, exclusive_normal, hierarchy; or a .yaml.")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSON of the rules kept.")],
    alpha: Annotated[float, typer.Option(help="normal_gate: strength.", min=0.0)] = 0.5,
    metric: Annotated[MetricChoice, typer.Option(help="What must rise, averaged over classes.")] = "ap",
    bootstrap: Annotated[int, typer.Option(help="Resamples of the patients.", min=1)] = 1000,
    truth: TruthOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Try rules on tune scores, one on top of another, and keep those whose gain is beyond noise."""
    from medtail.judging.post_rule_trials import try_rules as judge_rules
    from medtail.runs import new_file

    new_file(out)
    table = _read([scores], truth, fold="tune")[0]
    tried = judge_rules(table, _rules(rules, table.labels, alpha=alpha), metric=metric, bootstrap=bootstrap, seed=seed)
    tried.write(out)
    typer.echo(json.dumps(tried.to_json(), indent=1) if as_json else tried.text())
    typer.echo(f"Written: {out}. Next: medtail combine rules TEST --rules {out} --out ruled.parquet", err=True)


@app.command("rules", epilog=RULES_EXAMPLE)
def rules(
    scores: ScoresArgument,
    rules: Annotated[Path, typer.Option(help="What `medtail combine try-rules` wrote.")],
    out: OutOption,
    truth: TruthOption = None,
) -> None:
    """Apply the rules that were kept."""
    from medtail.judging.post_rule_trials import read_rules
    from medtail.runs import new_file
    from medtail.tables.post_rules import apply_rules

    new_file(out)
    kept = read_rules(rules)
    table = apply_rules(_read([scores], truth)[0], kept)
    table.write(out)
    typer.echo(f"{len(kept)} rules applied{': ' + ', '.join(rule.kind for rule in kept) if kept else ''}.")
    typer.echo(f"Written: {out}. Next: medtail evaluate {out} --out results", err=True)


def _read(paths: Sequence[Path], truth: Path | None, *, fold: str | None = None) -> list[Predictions]:
    from medtail.tables.manifest import read_manifest
    from medtail.tables.predictions import read_predictions

    labels = None if truth is None else read_manifest(truth)
    return [read_predictions(path, truth=labels, fold=None if labels is None else fold) for path in paths]


def _switch(tables: Sequence[Predictions], groups: Sequence[str]) -> tuple[Predictions, list[str]]:
    from medtail.tables.combine import switch_predictions
    from medtail.tables.tail import tail_groups

    if len(tables) != 2:
        raise UsageError(f"--how switch: found {len(tables)} tables; expected two, for head and for rare classes.")
    counts = tables[0].train_counts
    if counts is None:
        raise MedtailError(
            f"{tables[0].name}: carries no train counts, so nobody knows which classes are rare; expected a table that"
            " medtail made, or --truth with a train fold."
        )
    found = tail_groups(counts, labels=tables[0].labels)
    named = [name for name in tables[0].labels.class_names if found.group_of[name] in groups]
    return switch_predictions(tables[0], tables[1], rare_classes=named), named


def _rules(text: str, labels: LabelSpace, *, alpha: float) -> tuple[AnyRule, ...]:
    from medtail.config import build_config, read_yaml
    from medtail.errors import did_you_mean
    from medtail.sources.cxr_lt import hierarchy_among
    from medtail.tables.post_rules import (
        KINDS,
        ExclusiveNormalConfig,
        HierarchyConfig,
        NormalGateConfig,
        RulesConfig,
    )

    if text.endswith((".yaml", ".yml")):
        return build_config(RulesConfig, read_yaml(text), where=text).rules
    made: list[AnyRule] = []
    for word in (part.strip() for part in text.split(",")):
        match word:
            case "normal_gate":
                made.append(NormalGateConfig(alpha=alpha))
            case "exclusive_normal":
                made.append(ExclusiveNormalConfig())
            case "hierarchy":
                known = hierarchy_among(labels.class_names)
                if not known:
                    raise UsageError(
                        "--rules hierarchy: none of CXR-LT's hierarchy is among the classes; name your own in a .yaml:"
                        " rules: [{kind: hierarchy, implies: {Rib Fracture: [Fracture]}}]"
                    )
                made.append(HierarchyConfig(implies=known))
            case _:
                raise UsageError(
                    f"--rules {word!r}: unknown{did_you_mean(word, KINDS) or '; expected ' + ', '.join(KINDS)}"
                )
    return tuple(made)


def _fit_text(found: EnsembleWeights, asked: str) -> str:
    lines = []
    for name, value, row in zip(found.members, found.evidence["member_macro_ap"], found.weights, strict=True):
        spread = f"{row.min():.3f} to {row.max():.3f}" if row.max() - row.min() > 1e-9 else f"{row[0]:.3f}"
        lines.append(f"{name:24s} mean AP on tune {value:.4f}, weight {spread}")
    guard = found.evidence.get("guard")
    if guard is not None:
        ends = "" if guard["low"] is None else f" [{guard['low']:+.4f}, {guard['high']:+.4f}]"
        verdict = "kept" if guard["accepted"] else "not shown to be a gain; the weights written are equal"
        lines.append(f"{asked} against the mean on patients not seen: {guard['change']:+.4f}{ends}: {verdict}.")
    return "\n".join(lines)
