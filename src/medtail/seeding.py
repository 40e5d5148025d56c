"""Named, independent random streams from one seed.

Each purpose ("splits", "sampler/epoch 3", "bootstrap/block 7") has a stream of its own, so that adding a
draw in one place never shifts the numbers of another. No global generator is read or set here.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(seed: int, *purpose: object) -> int:
    """Derive a 63-bit seed from the run's seed and a purpose.

    Args:
        seed: The run's seed, any integer.
        purpose: Words and numbers naming the use; their text is hashed.

    Returns:
        An integer in [0, 2**63), suitable for NumPy and torch generators.

    Example:
        >>> stream_seed(0, "splits") == stream_seed(0, "splits")
        True
        >>> stream_seed(0, "splits") == stream_seed(0, "sampler", 1)
        False
    """
    text = "\x1f".join([str(int(seed)), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *purpose: object) -> np.random.Generator:
    """Return an independent NumPy generator for one purpose.

    Example:
        >>> first, again = stream(7, "draw", 0), stream(7, "draw", 0)
        >>> bool(first.integers(1000) == again.integers(1000))
        True
    """
    return np.random.default_rng(stream_seed(seed, *purpose))
