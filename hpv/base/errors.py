"""What can go wrong. Every message names what came, what would fit and the next step."""

from __future__ import annotations

import os
import sys
import warnings

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


class HpvError(Exception):
    """Base of all errors that hpv raises on purpose."""


class InputError(HpvError, ValueError):
    """Something the caller gave does not fit: an argument, a shape, a dtype, a layer. Nothing was written."""


class StoreError(InputError):
    """A path that is not what it should be: missing, not a store, another format, a newer version, incomplete."""


class OutputExistsError(StoreError):
    """The output holds something else already; it was left as it is."""


class DataError(HpvError, RuntimeError):
    """The data failed while running: a corrupt or missing chunk, no space left. What was done stays done."""


class StoppedError(HpvError, RuntimeError):
    """Stopped early; the same command continues."""


class HpvWarning(UserWarning):
    """Something that the caller should know and that does not stop the work."""


def warn(text: str) -> None:
    """Warn with `HpvWarning`; the line that Python shows is the one that called hpv, wherever in hpv this is called."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, HpvWarning, stacklevel=level)
