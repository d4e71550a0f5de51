"""Values of 240 samples and their classes, for tests that look at messages more than at numbers."""

from __future__ import annotations

import numpy as np

VALUES = np.random.default_rng(0).normal(size=(240, 6)).astype(np.float32)
CLASSES = np.repeat([0, 1], 120)
