"""One output is made of its parts, whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpv.api.background import Background
from hpv.api.scores import Scores
from hpv.base.errors import InputError, StoreError
from hpv.fitting.merging import add_stores, merge_key, merge_to_store
from hpv.fitting.stored import load_background, write_background
from hpv.histograms.merging import check_mergeable
from hpv.places.place import place_of
from hpv.scoring.merging import ShardCopy
from hpv.store.exchanging import complete_exchange
from hpv.store.headers import BACKGROUND, SCORES, read_header
from hpv.store.output import Output
from hpv.store.reading import Store, open_store
from hpv.store.shards import shard_path, shard_state, shards_of
from hpv.walking.progress import Progress, Quiet
from hpv.walking.shards import in_order, refuse_doubles, refuse_strangers, samples_of_all, without_entry


def merge_shards(out: str | Path, progress: Progress | None = None) -> tuple[Background | Scores, bool]:
    """Make one output of its shards and remove them; what it holds, and whether it was merged already.

    The output equals that of one run over all samples. ``StoreError`` names shards that are missing or unfinished,
    ``InputError`` those that belong elsewhere. A run that was killed is continued by the same call.
    """
    try:
        read_header(place_of(out))
    except StoreError:
        raise InputError(f"{out} is not a store of hpv: give what hpv fit or score --shard wrote to.") from None
    complete_exchange(out)
    header = read_header(place_of(out))
    of = None if header is None else shards_of(header)
    if header is None or of is None:
        store = open_store(out)
        if store.kind not in (BACKGROUND, SCORES) or "shard" in store.request:
            raise InputError(f"{out} is no output of shards: give what hpv fit or hpv score --shard wrote to with -o.")
        return _open(store), True
    state = shard_state(out, of)
    if state.missing or state.unfinished:
        raise StoreError(f"{out} is incomplete: {state} {out}.")
    stores = [open_store(shard_path(out, number, of)) for number in range(1, of + 1)]
    refuse_strangers(out, stores)
    return _merge(stores, without_entry(header["request"], "shards"), out, True, progress)


def merge_parts(
    paths: Sequence[str | Path], out: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> tuple[Background | Scores, bool]:
    """Make one output of backgrounds, or of all shards of a score; they stay where they are."""
    stores = [open_store(path) for path in paths]
    if stores[0].kind != SCORES:
        refuse_doubles(store for store in stores if "shard" in store.request)
        merged, already = merge_to_store(paths, out, overwrite=overwrite, progress=progress)
        return Background.of(merged), already
    return _merge(stores, without_entry(stores[0].request, "shard"), out, overwrite, progress)


def _merge(
    stores: Sequence[Store],
    request: dict[str, Any],
    out: str | Path,
    overwrite: bool,
    progress: Progress | None,
) -> tuple[Background | Scores, bool]:
    """Write what the shards hold; a kill leaves the shards as they are, or a complete output."""
    stores, progress = in_order(stores, request), progress or Quiet()
    kind = stores[0].kind
    if kind == BACKGROUND:
        check_mergeable({store.path: merge_key(store) for store in stores})
    # The shards lie in the place of the output, which the new store takes when it is complete.
    with Output.begin(out, kind, request, overwrite=overwrite) as output:
        already = output.already_complete
        if not already and kind == BACKGROUND:
            write_background(output, add_stores(output, stores, progress))
        elif not already:
            ShardCopy(output, stores).run(progress)
            missing = sum(int(store.attributes["missing"]) for store in stores)
            output.finish({**stores[0].attributes, "samples": samples_of_all(stores), "missing": missing})
    return _open(open_store(out, kind)), already


def _open(store: Store) -> Background | Scores:
    return Background.of(load_background(store)) if store.kind == BACKGROUND else Scores(store)
