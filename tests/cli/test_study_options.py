"""Where cells run: options that exclude each other."""

from __future__ import annotations

import pytest

from medtail.cli.study_options import cluster_of
from medtail.errors import UsageError


def test_a_cluster_is_what_was_asked_for() -> None:
    assert cluster_of(None, cpus=None, memory_gb=None, workers=3) is None
    found = cluster_of("auto", cpus=2, memory_gb=4.0, workers=1)
    assert found is not None
    assert (found.address, found.cpus, found.memory_gb) == ("auto", 2, 4.0)


def test_options_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="--workers 2: are processes of this machine"):
        cluster_of("auto", cpus=None, memory_gb=None, workers=2)
    with pytest.raises(UsageError, match=r"--cell-cpus 2: .* give --ray, too"):
        cluster_of(None, cpus=2, memory_gb=None, workers=1)
