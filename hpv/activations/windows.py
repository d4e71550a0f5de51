"""Layers whose chunks are too tall for the blocks of threads: some samples at a time are held, for all threads."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from hpv.activations.layers import Layer, Wrapping
from hpv.base.slices import cut_at_multiples

HELD = 2
"""Windows that several threads are in: the last blocks of one are read when others have begun with the next."""


def windowed(layer: Layer, rows: int, readers: int, threads: int) -> Layer:
    """The layer read in windows of so many samples (0: as it is), by up to so many readers at once."""
    return WindowLayer(layer, rows, readers, windows_held(rows, layer.shape[0], threads)) if rows else layer


def windows_held(rows: int, samples: int, threads: int) -> int:
    """How many windows are in memory at once."""
    return 1 if threads == 1 or rows >= samples else HELD


class WindowLayer(Wrapping):
    """Another layer, of which every chunk is read once for all the blocks that a window has room for.

    The threads that want a window fill it together, each another chunk.
    """

    def __init__(self, whole: Layer, rows: int, readers: int, held: int) -> None:
        super().__init__(whole)
        self._rows, self._held = rows, held
        self._before = whole.offset % (whole.chunks[0] if whole.chunks else 1)
        """Windows begin where chunks do, which may be before the first sample."""
        self._readers = threading.Semaphore(readers)
        self._windows: OrderedDict[tuple[int, int, int], _Window] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, samples: slice, nodes: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        """See `Layer`; quick where neighbouring blocks of the same nodes are read one soon after the other."""
        rows = range(*samples.indices(self.shape[0]))
        columns = range(*nodes.indices(self.shape[1]))
        if out is None or out.shape != (len(rows), len(columns)):
            out = np.empty((len(rows), len(columns)), self.float_format.storage)
        start = rows.start
        while start < rows.stop:
            first, values = self._window((start + self._before) // self._rows, slice(columns.start, columns.stop))
            stop = min(rows.stop, first + len(values))
            out[start - rows.start : stop - rows.start] = values[start - first : stop - first]
            start = stop
        return out

    def _window(self, number: int, nodes: slice) -> tuple[int, np.ndarray]:
        """The first sample of a window, and its values."""
        key = (number, nodes.start, nodes.stop)
        first = number * self._rows - self._before
        rows = slice(max(first, 0), min(first + self._rows, self.shape[0]))
        with self._lock:
            window = self._windows.get(key)
            if window is None:
                while len(self._windows) >= self._held:
                    self._windows.popitem(last=False)
                window = self._windows[key] = _Window(self.inside, rows, nodes)
        return rows.start, window.filled(self._readers)


class _Window:
    """Some samples of some nodes, filled by all threads that want them."""

    def __init__(self, layer: Layer, rows: slice, nodes: slice) -> None:
        self._layer, self._rows, self._nodes = layer, rows, nodes
        height, width = layer.chunks or layer.shape
        heights = cut_at_multiples(rows, height, layer.offset)
        self._waiting = [(some, part) for some in heights for part in cut_at_multiples(nodes, width)][::-1]
        self._left = len(self._waiting)
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._values = np.empty((rows.stop - rows.start, nodes.stop - nodes.start), layer.float_format.storage)

    def filled(self, readers: threading.Semaphore) -> np.ndarray:
        """The values; reads what no other thread has begun with, and waits for the rest."""
        while (part := self._next()) is not None:
            error: BaseException | None = None
            try:
                with readers:
                    self._read(*part)
            except BaseException as raised:
                error = raised
            with self._changed:
                self._left -= 1
                self._error = self._error or error
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: self._left == 0 or self._error is not None)
            if self._error is not None:
                raise self._error
        return self._values

    def _next(self) -> tuple[slice, slice] | None:
        with self._changed:
            return self._waiting.pop() if self._waiting and self._error is None else None

    def _read(self, rows: slice, nodes: slice) -> None:
        place = self._values[
            rows.start - self._rows.start : rows.stop - self._rows.start,
            nodes.start - self._nodes.start : nodes.stop - self._nodes.start,
        ]
        found = self._layer.read(rows, nodes, place)
        if found is not place:
            place[...] = found
