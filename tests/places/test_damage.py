"""What is damaged or missing in an object store is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import hpv
from hpv.activations.writing import save_activations
from hpv.places.remote import RemoteStore
from hpv.store.reading import open_store
from remote_data import small


def own_chunk(address: str, name: str = "a/c/1/0") -> tuple[RemoteStore, str, bytes]:
    store = RemoteStore(address)
    found = store.read(name)
    assert found is not None
    return store, name, found


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda found: found[:17] + bytes([found[17] ^ 4]) + found[18:], "checksum"),
        (lambda found: found[:-3], "97 bytes instead of 100"),
        (lambda found: None, "is missing"),
    ],
)
def test_damage_is_named(place: str, damage: Callable[[bytes], bytes | None], words: str) -> None:
    out = f"{place}/out"
    small(out, {"bins": 3}).finish()
    store, name, found = own_chunk(out)
    changed = damage(found)
    if changed is None:
        store.remove([name])
    else:
        store.write(name, changed)
    stored = open_store(out).array("a")
    assert (stored.read(slice(0, 4)) == 3).all()
    with pytest.raises(hpv.DataError, match=rf"array a: chunk \(1, 0\) .*{words}.*Restore"):
        stored.read()


def test_missing_strings_are_named(place: str) -> None:
    save_activations(f"{place}/a", {"x": np.ones((3, 2), "f4")}, ids=["a", "b", "c"])
    store = RemoteStore(f"{place}/a")
    assert hpv.open(f"{place}/a").ids == ["a", "b", "c"]
    store.remove(["ids/c/0"])
    with pytest.raises(hpv.DataError, match=r"array ids: chunk \(0,\) is missing"):
        hpv.open(f"{place}/a").ids  # noqa: B018


def test_an_object_that_does_not_exist(place: str) -> None:
    with pytest.raises(
        hpv.StoreError, match=rf"{place}/a is not a Zarr store: there is no zarr.json.*check the address"
    ):
        hpv.fit(f"{place}/a")
