"""The command line: arguments in, exit code out.

Thin on purpose. Each verb imports what it needs when it is called, so `medtail --help` starts at once and
`medtail evaluate` never loads torch. Results go to stdout, log and progress to stderr. Exit codes: 0 done, 1 the
data or the run failed, 2 the request was wrong, 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
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
from medtail.runs import explain_os_error
from medtail.stopping import Stopped, by_signals, exit_code

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

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
    """Run the command line and exit with 0 (done), 1 (data or run failed) or 2 (wrong use); 128 + n on signal n."""
    with by_signals():
        code = call(sys.argv[1:])
    sys.exit(code)


def call(arguments: list[str]) -> int:
    """Run one command line in this process and return its exit code.

    Args:
        arguments: The words after `medtail`.

    Returns:
        0 done, 1 data or run failed, 2 wrong use; 130 interrupted, 143 told to stop by SIGTERM, 138 by SIGUSR1.
    """
    try:
        app(args=arguments, prog_name="medtail", standalone_mode=True)
    except SystemExit as stop:
        interrupt = _interrupt_behind(stop)
        if interrupt is not None:
            return _say_stopped(interrupt, arguments)
        return stop.code if isinstance(stop.code, int) else 1
    except UsageError as error:
        _say_error(error)
        return 2
    except MedtailError as error:
        _say_error(error)
        return 1
    except KeyboardInterrupt as interrupt:
        return _say_stopped(interrupt, arguments)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        _say_error(explain_os_error(Path(str(error.filename or "a file")), error))
        return 1
    return 0


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interrupt that typer has made an exit of."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, KeyboardInterrupt):
        behind = behind.__cause__ or behind.__context__
    return behind


def _say_error(error: MedtailError) -> None:
    typer.echo(" ".join((f"error: {error}", *getattr(error, "__notes__", ()))), err=True)


def _say_stopped(interrupt: KeyboardInterrupt, arguments: list[str]) -> int:
    how = f"stopped by {interrupt}" if isinstance(interrupt, Stopped) else "interrupted"
    advice = getattr(interrupt, "__notes__", [])
    if arguments[:1] == ["study"]:  # not with the one training it was at
        advice = ["Go on with the same command."]
    typer.echo(" ".join((f"{how}; nothing is half-written.", *advice)), err=True)
    return exit_code(interrupt)
