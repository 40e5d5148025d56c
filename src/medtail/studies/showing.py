"""How far a folder's trainings are, told from its files alone, while others are at work in it.

For searches, generation studies and challenge systems, whose plans are not lists of arms (`ablation.show_study` tells
those). Reads records and claims; opens no scores, writes nothing, needs neither torch nor Optuna.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import final

from medtail.errors import UsageError
from medtail.runs import read_json
from medtail.studies.cells import STATES, State
from medtail.studies.claims import read_claim

SEARCH = "search.plan.json"


@final
@dataclass(frozen=True)
class Shown:
    """How far a folder is.

    Attributes:
        states: Cell or trial → its state.
        failed: The failed ones → why.
        running: The running ones → who is at work.
        tables: What has been found so far, as text; "" where nothing is written yet.
    """

    states: dict[str, State]
    failed: dict[str, str]
    running: dict[str, str]
    tables: str

    def text(self) -> str:
        """Return it for a terminal."""
        counts = Counter(self.states.values())
        lines = [", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "nothing has begun."]
        lines += [f"running: {name} ({who})" for name, who in self.running.items()]
        lines += [f"failed: {name}: {why}" for name, why in self.failed.items()]
        return "\n".join([*lines, *(["", self.tables] if self.tables else [])])


def is_list_of_arms(root: Path) -> bool:
    """Return whether a folder holds a study whose plan is a list of arms, or nothing that could be told here."""
    return not (root / SEARCH).exists() and not (
        (root / "plan.json").exists() and "arms" not in read_json(root / "plan.json")
    )


def show_folder(root: Path) -> Shown:
    """Return how far the trials of a search, or the trainings of another kind of study, are.

    Trainings of the latter that nobody has begun are not counted: only the verb that trains them knows of them.

    Args:
        root: The folder.

    Raises:
        UsageError: It holds no study.
        MedtailError: A record is damaged.
    """
    root = root.absolute()
    if not (root / "plan.json").exists():
        raise UsageError(f"{root}: holds no study (no plan.json); give the folder that `medtail study` wrote to.")
    if (root / SEARCH).exists():
        names = [f"trial_{number:04d}" for number in range(int(read_json(root / SEARCH)["trials"]))]
        records = [root / "trials" / name / "trial.json" for name in names]
        table = root / "search.md"
    else:
        names = _begun(root)
        records = [root / "cells" / name / "cell.json" for name in names]
        table = next((root / f"{kind}.md" for kind in ("genaug", "systems") if (root / f"{kind}.md").exists()), root)
    states: dict[str, State] = {}
    failed, running = {}, {}
    for name, record in zip(names, records, strict=True):
        claim = read_claim(root / "claims" / f"{name}.claim")
        failure = root / "claims" / f"{name}.failed"
        if record.exists():
            states[name] = "finished"
        elif claim is not None and not claim.is_dead():
            states[name], running[name] = "running", claim.text()
        elif failure.exists():
            states[name], failed[name] = "failed", str(read_json(failure).get("message", "")).split("\n")[0]
        else:
            states[name] = "begun" if (root / "cells" / name).exists() else "waiting"
    return Shown(states, failed, running, table.read_text(encoding="utf-8") if table.is_file() else "")


def _begun(root: Path) -> list[str]:
    """Return the names of the cells that have a folder, a claim or a failure."""
    found = {path.relative_to(root / "cells").as_posix() for path in (root / "cells").glob("*/seed_*/fold_*")}
    for kind in (".claim", ".failed"):
        for path in (root / "claims").glob(f"*/seed_*/fold_*{kind}"):
            found.add(path.relative_to(root / "claims").as_posix().removesuffix(kind))
    return sorted(found)
