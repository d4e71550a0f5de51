"""Layer names as parts of paths."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9._-]")
_ESCAPED = re.compile(r"%([0-9A-F]{2})")


def escape(layer: str) -> str:
    """The name as one path part: bytes of its UTF-8 outside ``A-Z a-z 0-9 . _ -`` become ``%XX``.

    So do a leading dot or underscore, which Zarr keeps for itself; the empty name becomes ``%``.

    >>> escape("block.0/relu#2")
    'block.0%2Frelu%232'
    """
    parts = [
        chr(byte) if _PLAIN.match(chr(byte)) and not (place == 0 and byte in b"._") else f"%{byte:02X}"
        for place, byte in enumerate(layer.encode())
    ]
    return "".join(parts) or "%"


def unescape(name: str) -> str:
    """The layer of a path part that ``escape`` made.

    >>> unescape("block.0%2Frelu%232")
    'block.0/relu#2'
    """
    if name == "%":
        return ""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name).encode("latin-1").decode()
