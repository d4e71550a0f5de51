"""Shards: parts of the samples for runs that know nothing of each other, and which of them belong together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpv.activations.layers import Activations
from hpv.base.errors import InputError
from hpv.base.slices import split
from hpv.base.words import quantity
from hpv.places.place import place_of
from hpv.store.reading import Store
from hpv.store.requests import request_difference
from hpv.store.shards import ranges, shard_path
from hpv.walking.plan import Plan


@dataclass(frozen=True)
class Shard:
    """One part of the samples."""

    number: int
    """From 1 on."""
    of: int
    rows: slice
    total: int
    """Samples of all shards."""

    def path(self, out: str | Path) -> str:
        """Where it is written beneath the output of all."""
        return shard_path(out, self.number, self.of)

    def request(self, whole: dict[str, Any]) -> dict[str, Any]:
        """What its store is asked to hold, from what all are asked for."""
        samples = [self.rows.start, self.rows.stop]
        return {**whole, "shard": {"number": self.number, "of": self.of, "samples": samples, "total": self.total}}

    def bytes_read(self, plan: Plan) -> int:
        """Its part of what a plan reads; every shard reads the whole pilot."""
        rows = self.rows.stop - self.rows.start
        return sum(layer.pilot_bytes + rows * layer.nodes * layer.itemsize for layer in plan.layers)


def cut_shard(source: Activations, text: str, overwrite: bool = False) -> Shard:
    """The shard that is asked for as ``I/N``; no two of them share a chunk, where there are enough chunks."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})", text) if isinstance(text, str) else None
    number, of = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= of:
        raise InputError(f"shard={text!r}: give I/N, such as 2/5 for the second of five.")
    if of > source.samples:
        raise InputError(f"shard={text!r}: more shards than samples ({source.samples:,}); use as many or fewer.")
    if overwrite:
        raise InputError(
            "overwrite: no shard may replace what the others are writing; leave it out, or remove the output first."
        )
    step = source.chunk_rows
    while -(-source.samples // step) < of:
        step = -(-step // 2)
    rows = split(slice(0, source.samples), of, step)[number - 1]
    return Shard(number, of, rows, source.samples)


def in_order(stores: Sequence[Store], request: dict[str, Any]) -> list[Store]:
    """The stores of all shards in the order of their samples, each there once; ``InputError`` names what is wrong."""
    of = stores[0].request.get("shard", {}).get("of")
    for store in stores:
        shard = store.request.get("shard")
        if shard is None:
            raise InputError(f"merge: {store.path} is no shard; give the shards of one fit or score.")
        other = request_difference(without_entry(store.request, "shard"), request)
        if shard["of"] != of or store.kind != stores[0].kind:
            other = f"it is shard {shard['number']} of {shard['of']}, {stores[0].path} is one of {of}"
        if other is not None:
            raise InputError(f"merge: {store.path} belongs to something else: {other}; leave it out.")
    refuse_doubles(stores)
    found = {store.request["shard"]["number"]: store for store in stores}
    absent = sorted(set(range(1, of + 1)) - set(found))
    if absent:
        raise InputError(f"merge: shards {ranges(absent)} of {of} are missing; give all of them.")
    ordered = [found[number] for number in sorted(found)]
    _check_samples(ordered)
    return ordered


def refuse_doubles(shards: Iterable[Store]) -> None:
    """Refuse a shard that is given twice."""
    found: dict[str, Store] = {}
    for store in shards:
        name = json.dumps(store.request, sort_keys=True)
        if name in found:
            shard = store.request["shard"]
            raise InputError(f"merge: {found[name].path} and {store.path} are both shard {shard['number']} of "
                             f"{shard['of']}; its samples would count double. Give it once.")  # fmt: skip
        found[name] = store


def _check_samples(stores: Sequence[Store]) -> None:
    """Refuse shards that do not hold every sample exactly once."""
    at = 0
    for store in stores:
        (start, stop), total = store.request["shard"]["samples"], store.request["shard"]["total"]
        if start != at or stop <= start:
            raise InputError(
                f"merge: {store.path} begins at sample {start}, the shards before it end at {at}; the activations were "
                "changed between them. Remove the shards and run them again."
            )
        at = stop
    if at != total:
        raise InputError(
            f"merge: the shards hold {at:,} of {quantity(total, 'sample')}; remove them and run them again."
        )


def refuse_strangers(out: str | Path, stores: Sequence[Store]) -> None:
    """Refuse a folder beside the shards that is named like one and is none of them."""
    expected = {store.path.rpartition("/")[2] for store in stores}
    for name in sorted(place_of(out).names() or ()):
        if name.startswith("shard-") and name not in expected:
            raise InputError(
                f"{out}/{name} is none of the shards 1 to {len(stores)} of {out}; move it away, then merge again."
            )


def without_entry(request: dict[str, Any], name: str) -> dict[str, Any]:
    """A request but for one of its entries."""
    return {key: value for key, value in request.items() if key != name}


def samples_of_all(stores: Sequence[Store]) -> int:
    """Samples of all shards together."""
    return int(stores[-1].request["shard"]["total"])
