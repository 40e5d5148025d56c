"""What every page is made with: packaged templates, the version, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def packaged(name: str) -> str:
    """Return the text of a packaged template, style or script."""
    return files("medtail.reporting").joinpath("templates", name).read_text(encoding="utf-8")


def page_template(name: str) -> Template:
    """Return a packaged template that escapes what it is given and refuses what it was not."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True)
    return environment.from_string(packaged(name))


def version_of_medtail() -> str:
    """Return the installed version."""
    return version("medtail")


def security_policy(style: str, script: str) -> str:
    """Return a content security policy that allows this style, this script and embedded pictures, nothing else."""

    def hashed(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {hashed(style)}; script-src {hashed(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
