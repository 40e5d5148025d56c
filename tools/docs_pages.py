"""The pages of the site that are made, not written: start page, commands, public names, log, changelog.

A hook of MkDocs (see mkdocs.yml). The start page is the README, so that the two cannot part; the commands are what
`--help` prints; the public names are those of `medtail.__init__`, each from its own docstring. Nothing is fetched.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import medtail
from medtail.cli.main import app, call

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "tables": "Tables",
    "sources": "Sources",
    "pixels": "Pixels",
    "training": "Training and prediction",
    "judging": "Judging",
    "lexicons": "Lexicons",
    "challenges": "Challenges",
    "reporting": "Reporting",
    "studies": "Studies",
    "synthesis": "Generation",
    "zeroshot": "Zero-shot",
    "explain": "Explaining",
    "exchange": "Export",
    "quickstart": "Quickstart",
    "errors": "Errors",
}
"""Package → heading. A public name of a package that is not here stops the build."""


MADE = ("index.md", "commands.md", "python.md", "log.md", "changelog.md")
WIDTH = "78"
"""Characters that a page is wide."""
OUTSIDE = re.compile(r'<script src="https?://[^"]*"></script>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    pages = {
        "index.md": start_page((ROOT / "README.md").read_text(encoding="utf-8")),
        "commands.md": commands_page(),
        "python.md": names_page(medtail._HOME),
        "log.md": (ROOT / "LOG.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to files of the repository's root lead to their pages."""
    return markdown.replace("](../LOG.md)", "](log.md)").replace("](../CHANGELOG.md)", "](changelog.md)")


def on_post_page(output: str, **_: Any) -> str:
    """Take out the one script the theme would fetch from elsewhere (it serves searching without a web server)."""
    return OUTSIDE.sub("", output)


def on_post_template(output: str, **_: Any) -> str:
    """Do the same for pages that no text stands behind."""
    return OUTSIDE.sub("", output)


def start_page(readme: str) -> str:
    """Return the README with links as they are inside the site; what is no page of it stays as words."""
    inside = re.sub(r"\]\(docs/", "](", readme)
    inside = inside.replace("](LOG.md)", "](log.md)").replace("](CHANGELOG.md)", "](changelog.md)")
    return re.sub(r"\[([^\]]+)\]\(([^)#]+)(#[^)]*)?\)", _kept, inside)


def _kept(link: re.Match[str]) -> str:
    words, target = link[1], link[2]
    is_page = target.startswith("https://") or target in MADE or (ROOT / "docs" / target).is_file()
    return link[0] if is_page else words


def commands_page() -> str:
    """Return what every command's `--help` prints."""
    made = ["# Commands", "", "Exit codes: 0 done, 1 the data or the run failed, 2 the request was wrong.", ""]
    for words in _verbs(typer.main.get_command(app)):
        made += [f"## medtail {' '.join(words)}", "", "```text", _help(words), "```", ""]
    return "\n".join(made)


def _verbs(command: Any, words: tuple[str, ...] = ()) -> Iterator[list[str]]:
    for name, verb in command.commands.items():
        if hasattr(verb, "commands"):
            yield from _verbs(verb, (*words, name))
        else:
            yield [*words, name]


def _help(words: list[str]) -> str:
    said = io.StringIO()
    before = {key: os.environ.get(key) for key in ("COLUMNS", "TERM", "NO_COLOR")}
    os.environ.update(COLUMNS=WIDTH, TERM="dumb", NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(said):
            code = call([*words, "--help"])
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
    if code != 0:
        raise RuntimeError(f"medtail {' '.join(words)} --help: exit code {code}; expected 0.")
    return "\n".join(line.rstrip() for line in said.getvalue().strip("\n").splitlines())


def names_page(homes: dict[str, str]) -> str:
    """Return the public names by package, each a reference that mkdocstrings fills in.

    Args:
        homes: Public name → module below `medtail`.
    """
    unknown = sorted({home.partition(".")[0] for home in homes.values()} - set(PARTS))
    if unknown:
        raise RuntimeError(f"{Path(__file__).name}, PARTS: no heading for {', '.join(unknown)}; add one.")
    made = ["# Python", "", "Every name here is `medtail.NAME`; it is loaded when first used.", ""]
    for part, title in PARTS.items():
        names = sorted(name for name, home in homes.items() if home.partition(".")[0] == part)
        if names:
            made += [f"## {title}", ""]
            made += [line for name in names for line in (f"::: medtail.{homes[name]}.{name}", "")]
    return "\n".join(made)
