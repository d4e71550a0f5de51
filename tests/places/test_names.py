"""Names as parts of paths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpv.places.names import escape, unescape


@given(st.text(max_size=30))
def test_escaped_names_are_path_parts(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        name = "surrogates"
    part = escape(name)
    assert unescape(part) == name
    assert part
    assert part[0] not in "._"
    assert set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-%")


def test_escaped_names_differ() -> None:
    names = ["", ".", "..", "_a", "%", "a/b", "a.b", "a%2Fb", "a#2", "zarr.json", "c"]
    assert len({escape(name) for name in names}) == len(names)
    assert escape("features.0.relu-1_x") == "features.0.relu-1_x"
