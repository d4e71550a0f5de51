"""How counts, bytes and lists of names are written, and names that were nearly meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Names = str | Sequence[str]
"""One name, or several."""
KIB, MIB, GIB = 2**10, 2**20, 2**30


def human(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def quantity(number: int, what: str) -> str:
    """A number of things as people write it: 1 class, 2,000 classes."""
    if number != 1:
        what += "es" if what.endswith(("s", "x", "ch")) else "s"
    return f"{number:,} {what}"


def as_tuple(given: str | Sequence[str]) -> tuple[str, ...]:
    """One name is a list of one."""
    return (given,) if isinstance(given, str) else tuple(given)


def nearly_meant(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of the names that may have been meant, the nearest first; most often none."""
    import difflib

    return difflib.get_close_matches(name, list(names), 3)
