"""Shards of scores are copied into one store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpv.base import keeping
from hpv.base.keeping import Every
from hpv.base.machine import thread_count
from hpv.scoring.stored import create_array
from hpv.store.creating import STRINGS
from hpv.store.output import Output
from hpv.store.reading import Store
from hpv.walking.progress import Progress
from hpv.walking.shards import samples_of_all
from hpv.walking.threads import Queue, run_in_threads

MOST_CHUNKS = 16
"""That a thread copies before it asks for more."""


class ShardCopy:
    """Writes the arrays of all shards one after the other, chunk by chunk, so that memory does not grow with them."""

    def __init__(self, output: Output, stores: Sequence[Store]) -> None:
        self.output = output
        self.stores = stores
        self.starts = [store.request["shard"]["samples"][0] for store in stores] + [samples_of_all(stores)]
        self.threads = thread_count(None)
        self.every = Every()

    def run(self, progress: Progress) -> None:
        """Copy what an earlier run did not."""
        kept = self.output.progress
        names = self.stores[0].names()
        for number, name in enumerate(names):
            done = kept.get("chunks", 0) if number == kept.get("arrays", 0) else 0
            if number >= kept.get("arrays", 0):
                self._copy(number, name, done, progress)

    def _copy(self, number: int, name: str, done: int, progress: Progress) -> None:
        """One array from chunk number ``done`` on."""
        arrays = run_in_threads(lambda store: store.array(name), self.stores, self.threads)
        shape, dtype = (samples_of_all(self.stores), *arrays[0].shape[1:]), arrays[0].dtype
        kind = STRINGS if dtype.kind not in "fiub" else dtype
        chunks = create_array(self.output, name, shape, kind, self.stores[0].attributes["nodes"])
        grid = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
        count = int(np.prod(grid))
        progress.start(f"merge {name}", int(np.prod(shape)) * dtype.itemsize)
        self.output.shape(name)  # made before threads want it

        def copy(queue: Queue) -> None:
            for some in queue:
                for chunk in range(some.start, some.stop):
                    corner = [int(at) * size for at, size in zip(np.unravel_index(chunk, grid), chunks, strict=True)]
                    place = tuple(slice(start, min(start + size, length))
                                  for start, size, length in zip(corner, chunks, shape, strict=True))  # fmt: skip
                    values = self._read(arrays, place, dtype)
                    self.output.write(name, place, values)
                    queue.advance(progress, values.nbytes)

        while done < count:
            queue = Queue(slice(done, count), MOST_CHUNKS, 1, self.threads, keeping.CHECKPOINT_SECONDS)
            run_in_threads(copy, [queue] * self.threads, self.threads)
            done = queue.taken_to
            if queue.cut_short or self.every.due():
                self.output.checkpoint({"arrays": number, "chunks": done})
                self.every.done()
            progress.advance(0)  # it may have been told to end

    def _read(self, arrays: Sequence[Any], place: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
        """A rectangle of all samples, from the shards that hold it."""
        rows, *rest = place
        out = np.empty([side.stop - side.start for side in place], dtype)
        for array, start, stop in zip(arrays, self.starts, self.starts[1:], strict=False):
            low, high = max(rows.start, start), min(rows.stop, stop)
            if low < high:
                inside = out[low - rows.start : high - rows.start]
                array.read((slice(low - start, high - start), *rest), inside)
        return out
