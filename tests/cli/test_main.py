"""The command line's own manners: help, version, exit codes, and what it does not load."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from medtail import __version__
from medtail.cli.main import call
from medtail.stopping import Stopped

VERBS = (
    ["data", "import"],
    ["data", "check"],
    ["data", "split"],
    ["data", "layouts"],
    ["train"],
    ["predict"],
    ["evaluate"],
    ["calibrate"],
    ["compare"],
    ["conformal"],
    ["retarget"],
    ["verify"],
    ["report"],
    ["cxr-lt", "score"],
    ["cxr-lt", "validate"],
    ["cxr-lt", "pack"],
    ["cxr-lt", "template"],
    ["cxr-lt", "compare"],
    ["cxr-lt", "classes"],
    ["medmnist", "score"],
    ["medmnist", "sets"],
    ["thyro-lmd", "score"],
    ["thyro-lmd", "template"],
    ["thyro-lmd", "split"],
    ["zero-shot", "prompts"],
    ["zero-shot", "embed"],
    ["zero-shot", "predict"],
    ["zero-shot", "ask"],
    ["zero-shot", "nearest"],
    ["zero-shot", "judge"],
    ["zero-shot", "wording"],
    ["quickstart"],
)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_with_an_example(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage:" in said
    assert "Example" in said
    assert f"medtail {' '.join(verb)}" in " ".join(said.split())


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == 0
    assert capsys.readouterr().out == f"medtail {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from medtail.cli.main import call; call(['--help']);"
        "heavy = {'torch', 'lightning', 'pandas', 'numpy', 'pydantic', 'numba'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_an_unknown_verb_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["trane"]) == 2
    assert "trane" in capsys.readouterr().err


def test_resume_goes_on_in_its_own_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["train", "config.yaml", "--resume", "run", "--out", "other"]) == 2
    assert "--resume goes on in the run's own folder" in capsys.readouterr().err


def test_resume_of_a_folder_without_a_run_says_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("nothing")
    assert call(["train", "--resume", str(folder)]) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_train_needs_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["train"]) == 2
    assert "expected a config" in capsys.readouterr().err


@pytest.mark.parametrize("fractions", ["0.5,0.5", "a,b,c", "0.5,0.6,0.2"])
def test_fractions_that_are_no_three_shares_are_refused(
    fractions: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("fractions")
    (folder / "m.csv").write_text("image_id,path,patient_id,x\na,a.png,p,1\nb,b.png,q,0\n")
    arguments = ["data", "split", str(folder / "m.csv"), "--fractions", fractions, "--no-duplicates"]
    assert call([*arguments, "--out", str(folder / "s.csv")]) == 2
    assert f"--fractions {fractions!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("interrupt", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing is half-written."),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM; nothing is half-written."),
    ],
)
def test_an_interrupt_has_its_exit_code_and_says_how_to_go_on(
    interrupt: KeyboardInterrupt,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*arguments: object, **settings: object) -> None:
        raise interrupt

    monkeypatch.setattr("medtail.tables.manifest.read_manifest", stop)
    assert call(["data", "check", "table.csv"]) == code
    assert capsys.readouterr().err == f"{said}\n"
    interrupt.add_note("Go on with it.")
    assert call(["data", "check", "table.csv"]) == code
    assert capsys.readouterr().err == f"{said} Go on with it.\n"
    monkeypatch.setattr("medtail.studies.ablation.show_study", stop)
    assert call(["study", "show", "folder"]) == code
    assert capsys.readouterr().err == f"{said} Go on with the same command.\n"
