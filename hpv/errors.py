"""What can go wrong. Every message names what came, what would fit and the next step."""

from __future__ import annotations


class HpvError(Exception):
    """Base of all errors that hpv raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(HpvError, ValueError):
    """Something the caller gave does not fit: an argument, a shape, a dtype, a layer. Nothing was written."""

    exit_code = 2


class StoreError(InputError):
    """A path that is not what it should be: missing, not a store, another format, a newer version, incomplete."""


class OutputExistsError(StoreError):
    """The output holds something else already; it was left as it is."""


class DataError(HpvError, RuntimeError):
    """The data failed while running: a corrupt or missing chunk, no space left. What was done stays done."""

    exit_code = 3


class StoppedError(HpvError, RuntimeError):
    """Stopped early; the same command continues."""

    exit_code = 75


class HpvWarning(UserWarning):
    """Something that the caller should know and that does not stop the work."""
