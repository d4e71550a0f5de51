"""Activations as tensors, coded and tallied where they are. What depends on the kind of device stands at the top."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hpv.activations.blocks import Block
from hpv.backends.choosing import get_backend
from hpv.backends.protocol import Backend, coded_samples
from hpv.backends.tables import look_up_of
from hpv.base.cache import Cache
from hpv.base.errors import InputError
from hpv.base.floats import FloatFormat
from hpv.histograms.state import BackgroundState
from hpv.scanning.options import ScanOptions
from hpv.scanning.scanner import NodeTables, Scanner
from hpv.walking.parts import each_part
from hpv.walking.threads import in_steps

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
Tallies = dict[str, torch.Tensor]
"""By tail: (targets, samples, thresholds + 2), int32."""


def backend_of(device: torch.device, name: str) -> Backend:
    """The backend of this name, which works on tensors of a device."""
    if device.type == "cpu":
        return get_backend(name)
    if device.type != "cuda":
        raise InputError(f"the activations are on {device}, where no backend works; move the model to the CPU.")
    if name == "cpu":
        raise InputError(f"backend='cpu': the activations are on {device}; give backend='auto', or move the model.")
    return get_backend(name, on_device=True)


def array_of(tensor: torch.Tensor) -> Any:
    """The same memory as an array that the backend reads and writes."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def block_of(rows: torch.Tensor, float_format: FloatFormat) -> Block:
    """Activations (samples, nodes) as the backend takes them; rows that lie one after the other are not copied."""
    if rows.device.type == "cpu":
        return Block(rows.contiguous().view(_INTEGERS[float_format.key.itemsize]).numpy(), 0)
    from hpv.backends.moving import of_tensor

    return Block(of_tensor(rows.contiguous(), float_format.key), 0)


class DeviceScanner:
    """What answers for activations on one device; tables are made when they are first needed, and kept."""

    def __init__(
        self, background: BackgroundState, options: ScanOptions, device: torch.device, backend: str, threads: int | None
    ) -> None:
        self.scanner = Scanner(background, options, backend_of(device, backend))
        self._device, self._threads = device, threads
        self._tables = Cache(math.inf)
        self._buffers = self.scanner.backend.make_buffers()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Room for an answer."""
        return torch.empty(shape, dtype=dtype, device=self._device)

    def empty_tallies(self, samples: int) -> Tallies:
        """Tallies of nothing."""
        targets = len(self.scanner.references)
        return {
            tail: self.empty((targets, samples, len(thresholds) + 2), torch.int32).zero_()
            for tail, thresholds in self.scanner.thresholds.items()
        }

    def encode(self, layer: str, rows: torch.Tensor, float_format: FloatFormat) -> torch.Tensor:
        """Codes of a layer's activations."""
        tables, block = self._tables_of(layer, float_format), block_of(rows, float_format)
        codes = self.empty(tuple(rows.shape), torch.uint8)
        left = array_of(codes)

        def work(part: slice) -> None:
            self.scanner.backend.encode(tables.coder, block.bits[part], block.first, left[part])

        self._each_part(work, rows.shape, float_format.key.itemsize)
        return codes

    def tally(
        self, layer: str, rows: torch.Tensor, float_format: FloatFormat, tallies: Tallies, keep: bool
    ) -> tuple[torch.Tensor | None, int]:
        """Add a layer's activations to tallies; their codes if they are to be kept, and the number of NaN.

        The pooled counts answer, or those of all classes.
        """
        tables, block = self._tables_of(layer, float_format), block_of(rows, float_format)
        codes = self.empty(tuple(rows.shape), torch.uint8) if keep or tables.tallier is None else None
        left = None if codes is None else array_of(codes)
        arrays = _arrays(tallies)
        reference = np.zeros(len(rows), np.int64)

        def work(part: slice) -> int:
            piece = Block(block.bits[part], block.first)
            kept = None if left is None else left[part]
            return self.scanner.tally_block(
                tables, piece.bits, piece.first, reference[part], _part(arrays, part), kept, self._buffers
            )

        return codes, sum(self._each_part(work, rows.shape, float_format.key.itemsize))

    def tally_codes(
        self, layer: str, codes: torch.Tensor, float_format: FloatFormat, reference: np.ndarray, tallies: Tallies
    ) -> None:
        """Add codes of a layer's activations to tallies; ``reference`` (samples,) says which counts answer."""
        tables, array, arrays = self._tables_of(layer, float_format), array_of(codes), _arrays(tallies)

        def work(part: slice) -> None:
            for piece in in_steps(part, coded_samples(tables.nodes)):
                self.scanner.tally(array[piece], reference[piece], tables, _part(arrays, piece))

        self._each_part(work, codes.shape, 1)

    def look_up(
        self, layer: str, codes: torch.Tensor, reference: np.ndarray, tail: str, dtype: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """pmin and pmax (samples, nodes) of the codes of a layer."""
        tables = look_up_of(self.scanner.background, layer, tail, np.dtype(dtype), self.scanner.backend)
        shape = tuple(codes.shape)
        pmin, pmax = (self.empty(shape, getattr(torch, dtype)) for _ in range(2))
        array, low, high = array_of(codes), array_of(pmin), array_of(pmax)

        def work(part: slice) -> None:
            self.scanner.backend.look_up_ranges(array[part], reference[part], tables, (low[part], high[part]))

        self._each_part(work, codes.shape, 1)
        return pmin, pmax

    def _tables_of(self, layer: str, float_format: FloatFormat) -> NodeTables:
        def make() -> NodeTables:
            nodes = self.scanner.background.layers[layer].nodes
            waits = self.scanner.options.against == "own"  # for the classes, which come after the values
            return self.scanner.tables(layer, slice(0, nodes), float_format, by_codes=waits)

        tables: NodeTables = self._tables.get((layer, float_format.name), make)
        return tables

    def _each_part(self, work: Any, shape: tuple[int, ...], itemsize: int) -> list[Any]:
        """``work`` of ranges of samples: by threads on the CPU; another device has all of them at once."""
        if self._device.type != "cpu":
            return [work(slice(0, shape[0]))]
        return each_part(work, shape[0], shape[1], itemsize, True, self._threads)


def _arrays(tallies: Tallies) -> dict[str, Any]:
    return {tail: array_of(tally) for tail, tally in tallies.items()}


def _part(arrays: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    return {tail: tally[:, rows] for tail, tally in arrays.items()}
