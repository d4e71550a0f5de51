"""One class per sample, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpv.base.errors import InputError
from hpv.base.words import quantity


def check_labels(labels: Any, samples: int) -> np.ndarray:
    """One class per sample, int64: a whole number from 0 on."""
    array = np.asarray(labels)
    if array.shape != (samples,):
        raise InputError(f"labels: shape {array.shape} for {quantity(samples, 'sample')}; give one integer per sample.")
    if array.dtype.kind not in "iu":
        raise InputError(f"labels: dtype {array.dtype}; give integers.")
    if samples and not (0 <= int(array.min()) and int(array.max()) < 2**31):
        raise InputError(f"labels: from {array.min()} to {array.max()}; give numbers from 0 to 2**31 - 1.")
    return array.astype(np.int64)
