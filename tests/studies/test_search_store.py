"""The journal of a search: what is drawn depends on nothing but the trials before, and half a line is no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtail.config import dump_yaml
from medtail.errors import MedtailError
from medtail.studies import search_store
from medtail.studies.search_config import Search, load_search
from medtail.studies.search_store import JOURNAL, TrialStore, mend, optuna_package

SPACE = {
    "loss.kind": {"kind": "choice", "values": ["bce", "focal"]},
    "loss.gamma": {"kind": "float", "low": 1.0, "high": 3.0, "when": {"loss.kind": ["focal"]}},
    "mix": {"kind": "choice", "values": [None, {"kind": "mixup", "alpha": 0.4}]},
    "optimizer.epochs": {"kind": "int", "low": 2, "high": 40, "log": True},
}


def search_in(folder: Path, **changes: Any) -> Search:
    folder.mkdir(exist_ok=True)
    values = {"train": {"manifest": "a.csv"}, "space": SPACE, "trials": 9, "sampler": {"kind": "tpe", "startup": 3}}
    (folder / "s.yaml").write_text(dump_yaml(values | changes), encoding="utf-8")
    return load_search(folder / "s.yaml")


def values_of(folder: Path, *, again: bool, **changes: Any) -> list[dict[str, Any]]:
    """Ask for nine trials, from one store or from a new one each time."""
    search = search_in(folder, **changes)
    store, found = TrialStore(folder, search), []
    for slot in range(9):
        if again:
            store = TrialStore(folder, search)
        found.append(store.ask(slot))
        assert store.ask(slot) == found[-1], "a trial that was begun keeps its values"
        store.tell(slot, "complete", found[-1]["optimizer.epochs"] / 40)
    return found


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_what_is_drawn_does_not_depend_on_the_process(tmp_path: Path, kind: str) -> None:
    whole = values_of(tmp_path / "a", again=False, sampler={"kind": kind})
    assert values_of(tmp_path / "b", again=True, sampler={"kind": kind}) == whole
    assert values_of(tmp_path / "c", again=False, sampler={"kind": kind, "seed": 1}) != whole
    assert whole[0] == {"loss.kind": "bce", "mix": None, "optimizer.epochs": 20}, "the training as it stands"
    assert all(("loss.gamma" in one) == (one["loss.kind"] == "focal") for one in whole)
    assert {"kind": "mixup", "alpha": 0.4} in [one["mix"] for one in whole]
    assert len({one["optimizer.epochs"] for one in whole}) > 4


def test_a_failed_trial_is_begun_again_with_its_values(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    store = TrialStore(tmp_path, search)
    store.ask(0)
    first = store.ask(1)
    store.tell(1, "failed")
    assert store.ending(1) == "failed"
    assert TrialStore(tmp_path, search).ask(1) == first
    assert store.ending(1) is None
    store.tell(1, "complete", 0.5)
    store.tell(1, "failed")  # it has ended
    assert store.ending(1) == "complete"


def test_half_a_line_is_cut_off_and_a_damaged_journal_named(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    store = TrialStore(tmp_path, search)
    first = store.ask(0)
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    for torn in (b"{", b'{"op_code":4,' + b"x" * 9000):
        path.write_bytes(whole + torn)
        mend(path)
        assert path.read_bytes() == whole
    path.write_bytes(whole + b"{")
    assert TrialStore(tmp_path, search).ask(0) == first
    path.write_bytes(b"no json\n" + path.read_bytes())
    with pytest.raises(MedtailError, match=r"trials.journal: is damaged .*begin the search anew"):
        TrialStore(tmp_path, search).ask(1)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(search_store.importlib, "import_module", absent)
    with pytest.raises(MedtailError, match=r"pip install 'medtail\[search\]'"):
        optuna_package()
