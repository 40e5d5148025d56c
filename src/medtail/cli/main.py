"""The command line: arguments in, exit code out.

Thin on purpose. Each verb imports what it needs when it is called, so `medtail --help` starts at once and
`medtail evaluate` never loads torch. Results go to stdout, log and progress to stderr. Exit codes: 0 done, 1 the
data or the run failed, 2 the request was wrong.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medtail import __version__
from medtail.cli import (
    bench,
    calibrate,
    combine,
    compare,
    conformal,
    cxr_lt,
    data,
    explain,
    export,
    judge,
    learn,
    medmnist,
    retarget,
    serve,
    study,
    synthesise,
    thyro_lmd,
    tirads,
    verify,
    zeroshot,
)
from medtail.errors import MedtailError, UsageError

app = typer.Typer(
    name="medtail",
    help="Long-tailed, multi-label medical image diagnosis: a labelled table becomes a model and an honest report.",
    epilog="Start with: medtail quickstart --out quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(combine.app, name="combine")
app.add_typer(cxr_lt.app, name="cxr-lt")
app.add_typer(medmnist.app, name="medmnist")
app.add_typer(thyro_lmd.app, name="thyro-lmd")
app.add_typer(study.app, name="study")
app.add_typer(synthesise.app, name="synthesise")
app.add_typer(zeroshot.app, name="zero-shot")
app.command("train", epilog=learn.TRAIN_EXAMPLE)(learn.train)
app.command("predict", epilog=learn.PREDICT_EXAMPLE)(learn.predict)
app.command("evaluate", epilog=judge.EVALUATE_EXAMPLE)(judge.evaluate)
app.command("verify", epilog=verify.VERIFY_EXAMPLE)(verify.verify)
app.command("compare", epilog=compare.COMPARE_EXAMPLE)(compare.compare)
app.command("calibrate", epilog=calibrate.CALIBRATE_EXAMPLE)(calibrate.calibrate)
app.command("retarget", epilog=retarget.RETARGET_EXAMPLE)(retarget.retarget)
app.command("conformal", epilog=conformal.CONFORMAL_EXAMPLE)(conformal.conformal)
app.command("bench", epilog=bench.BENCH_EXAMPLE)(bench.bench)
app.command("export", epilog=export.EXPORT_EXAMPLE)(export.export)
app.command("serve", epilog=serve.SERVE_EXAMPLE)(serve.serve)
app.command("tirads", epilog=tirads.TIRADS_EXAMPLE)(tirads.tirads)
app.command("explain", epilog=explain.EXPLAIN_EXAMPLE)(explain.explain)
app.command("report", epilog=judge.REPORT_EXAMPLE)(judge.report)
app.command("quickstart", epilog=learn.QUICKSTART_EXAMPLE)(learn.quickstart)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"medtail {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Long-tailed, multi-label medical image diagnosis: a labelled table becomes a model and an honest report."""


def run() -> None:
    """Run the command line and exit with 0 (done), 1 (data or run failed) or 2 (wrong use)."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run one command line in this process and return its exit code.

    Args:
        arguments: The words after `medtail`.

    Returns:
        0 done, 1 data or run failed, 2 wrong use, 130 interrupted.
    """
    try:
        app(args=arguments, prog_name="medtail", standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except UsageError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    except MedtailError as error:
        typer.echo(f"error: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing is half-written.", err=True)
        return 130
    return 0
