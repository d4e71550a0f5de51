"""Arrays are named by their contents."""

from __future__ import annotations

import hashlib

import numpy as np


def digest(*arrays: np.ndarray) -> str:
    """Names arrays by their contents."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
