"""Print the lowest version of every library that pyproject.toml admits, as pip constraints.

    python tools/lower_bounds.py > lowest.txt
    python -m pip install --constraint lowest.txt --editable '.[dev]'

`name>=1.2` becomes `name==1.2`, of the dependencies and of every extra (or of the extras named). An environment made
so shows whether the bounds are true: `make lowest` makes one and runs the default tests in it. What the libraries
themselves need is left to pip.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest(requirements: Iterable[str]) -> dict[str, str]:
    """Return the lowest version each requirement admits, by name.

    Where a library is named twice, the higher of its lower bounds counts: both must hold.

    Args:
        requirements: Texts as in pyproject.toml, each with `>=` or `==`.

    Raises:
        ValueError: A requirement states no lowest version, so nothing can be promised about it.

    Example:
        >>> lowest(["numpy>=2.1", "httpx[http2]>=0.27,<1", "pinned==0.1.0"])
        {'httpx': '0.27', 'numpy': '2.1', 'pinned': '0.1.0'}
    """
    found: dict[str, str] = {}
    for text in requirements:
        requirement = Requirement(text)
        bounds = [item.version for item in requirement.specifier if item.operator in (">=", "==", "~=")]
        if not bounds:
            raise ValueError(f"{text!r}: states no lowest version; write name>=VERSION.")
        known = [found[requirement.name]] if requirement.name in found else []
        found[requirement.name] = max([*bounds, *known], key=Version)
    return dict(sorted(found.items()))


def requirements_of(project: Path, extras: Sequence[str] | None = None) -> list[str]:
    """Return what a pyproject.toml requires: its dependencies and those of its extras (all of them if None).

    Raises:
        ValueError: There is no such extra.
    """
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    optional = table["optional-dependencies"]
    unknown = sorted(set(extras or ()) - set(optional))
    if unknown:
        raise ValueError(f"no extra {', '.join(unknown)} in {project.name}; it has {', '.join(optional)}.")
    chosen = optional if extras is None else extras
    return [*table["dependencies"], *(text for name in chosen for text in optional[name])]


def main() -> None:
    """Print the constraints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("extras", nargs="*", help="only these extras (all if none is named)")
    options = parser.parse_args()
    try:
        pins = lowest(requirements_of(PROJECT, options.extras or None))
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in pins.items())


if __name__ == "__main__":
    main()
