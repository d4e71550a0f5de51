"""A layer is read in blocks of samples and nodes wherever it lies; activations are layers with the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpv.base.floats import FloatFormat
from hpv.base.slices import Index, indexed
from hpv.base.words import quantity

BARE = "activations"
"""The layer name of an array that comes without one."""


class Layer:
    """The activations of one layer, (samples, nodes), wherever they lie; one class for every kind of array.

    It behaves as an array does: ``np.asarray(layer)`` reads all of it, ``layer[rows, nodes]`` a part, and it has
    ``shape``, ``dtype``, ``ndim`` and ``len``. Numpy has no bfloat16: such values come as float32, which holds each of
    them.

    >>> import numpy as np
    >>> from hpv.activations.opening import open_activations
    >>> layer = open_activations(np.arange(6.0).reshape(3, 2)).layers["activations"]
    >>> layer.shape, layer.dtype, len(layer)
    ((3, 2), dtype('float64'), 3)
    >>> layer[1:, 0]
    array([2., 4.])
    """

    name: str
    """Name of the layer."""
    origin: str
    """What messages call it."""
    float_format: FloatFormat
    """Float format of its values."""
    in_memory = False
    """``read`` gives views and needs no buffer."""
    on_device = False
    """On a GPU: ``bits_on_device`` gives views there, ``read`` copies."""
    is_portable = False
    """A pickle of it is small, and reads the same values in another process that sees the same files."""

    # --- as an array ---

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and nodes; dimensions after the first are laid out in a row (C order)."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Samples and nodes are two dimensions."""
        return 2

    @property
    def dtype(self) -> np.dtype:
        """Type of its values as numpy has them."""
        return self.float_format.numbers(np.empty(0, self.float_format.storage)).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Any:
        return indexed(lambda part: self.float_format.numbers(self.read(part[0], part[1])), self.shape, index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self[:]
        return np.array(values, dtype, copy=copy) if dtype is not None or copy else values

    def __repr__(self) -> str:
        samples, nodes = self.shape
        return f"<hpv.Layer {self.name}: {quantity(samples, 'sample')} x {quantity(nodes, 'node')} {self.float_format}>"

    # --- as blocks ---

    def read(self, samples: slice, nodes: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        """A block (samples, nodes) in ``float_format.storage``, each row's values side by side.

        ``out`` is a buffer of that shape that may be used; the result is what is returned. Threads may read at once.
        """
        raise NotImplementedError

    @property
    def chunks(self) -> tuple[int, int] | None:
        """Samples and nodes of the pieces that are read at once; None where any block is as good."""
        return None

    @property
    def offset(self) -> int:
        """Where the first sample lies in the array that the chunks are those of."""
        return 0

    @property
    def reads_whole(self) -> bool:
        """Whether reading a part of a chunk costs as much as reading all of it."""
        return False

    def scratch(self, rows: int) -> int:
        """Bytes that a thread needs to read a block of so many samples, beside the block."""
        return 0

    @property
    def missing_chunks(self) -> int:
        """Chunks of a foreign Zarr array that have no file and are read as its fill value."""
        return 0

    @property
    def identity(self) -> dict[str, Any]:
        """Names the data in the request of an output."""
        raise NotImplementedError

    def part(self, rows: slice) -> Layer:
        """Consecutive samples of it."""
        return PartLayer(self, rows)

    # --- on a GPU ---

    @property
    def device(self) -> str | None:
        """Where the values are, as torch says it; None for this machine's memory and disks."""
        return None

    def bits_on_device(self, rows: slice) -> Any:
        """Some samples as signed integers (samples, nodes) where they are, on a GPU: what its backend reads."""
        raise NotImplementedError

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        """An array for results beside the values."""
        return np.empty(shape, dtype)


class Wrapping(Layer):
    """A layer that passes everything on to the one inside."""

    def __init__(self, inside: Layer) -> None:
        self.inside = inside
        self.name, self.origin, self.float_format = inside.name, inside.origin, inside.float_format
        self.in_memory, self.is_portable, self.on_device = inside.in_memory, inside.is_portable, inside.on_device

    @property
    def shape(self) -> tuple[int, int]:
        return self.inside.shape

    def read(self, samples: slice, nodes: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        return self.inside.read(samples, nodes, out)

    @property
    def chunks(self) -> tuple[int, int] | None:
        return self.inside.chunks

    @property
    def offset(self) -> int:
        return self.inside.offset

    @property
    def reads_whole(self) -> bool:
        return self.inside.reads_whole

    def scratch(self, rows: int) -> int:
        return self.inside.scratch(rows)

    @property
    def missing_chunks(self) -> int:
        return self.inside.missing_chunks

    @property
    def identity(self) -> dict[str, Any]:
        return self.inside.identity

    @property
    def device(self) -> str | None:
        return self.inside.device

    def bits_on_device(self, rows: slice) -> Any:
        return self.inside.bits_on_device(rows)

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        return self.inside.empty(shape, dtype)


class PartLayer(Wrapping):
    """Consecutive samples of another layer."""

    def __init__(self, whole: Layer, rows: slice) -> None:
        super().__init__(whole)
        self._start, self._samples = rows.start, rows.stop - rows.start

    @property
    def shape(self) -> tuple[int, int]:
        return self._samples, self.inside.shape[1]

    @property
    def offset(self) -> int:
        """Also of a part of a part."""
        return self.inside.offset + self._start

    @property
    def identity(self) -> dict[str, Any]:
        """With the first sample, and the one after the last."""
        return {**self.inside.identity, "part": [self._start, self._start + self._samples]}

    def read(self, samples: slice, nodes: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        rows = range(*samples.indices(self._samples))
        return self.inside.read(self._in_whole(slice(rows.start, rows.stop)), nodes, out)

    def bits_on_device(self, rows: slice) -> Any:
        return self.inside.bits_on_device(self._in_whole(rows))

    def _in_whole(self, rows: slice) -> slice:
        return slice(self._start + rows.start, self._start + rows.stop)


@dataclass(frozen=True)
class Activations:
    """Layers with the same samples: what `hpv.open` gives of an activation store, and what calls take as activations.

    ``layers`` maps names to `hpv.Layer`. ``labels`` and ``ids`` are an integer and a string per sample, or None.

    >>> import numpy as np, hpv, tempfile
    >>> from hpv.activations.writing import save_activations
    >>> layers = {"conv": np.zeros((4, 6)), "head": np.ones((4, 2))}
    >>> activations = hpv.open(save_activations(tempfile.mkdtemp() + "/a.zarr", layers, labels=np.arange(4)))
    >>> activations
    <hpv.Activations of 4 samples, labels; conv: 6 nodes float64, head: 2 nodes float64>
    >>> activations.layers["head"][1:3, 0]
    array([1., 1.])
    """

    layers: dict[str, Layer]
    label_array: Any
    """One integer per sample, in an array or a stored one, or None."""
    id_array: Any
    """One string per sample, in a list or a stored array, or None."""
    attributes: dict[str, Any]
    """What an activation store says of its origin: ``model``, ``weights`` and so on."""
    is_mapping: bool
    """Several named layers were given, so answers per layer are mappings too."""

    def __repr__(self) -> str:
        given = [name for name, values in (("labels", self.label_array), ("ids", self.id_array)) if values is not None]
        layers = (
            f"{name}: {quantity(layer.shape[1], 'node')} {layer.float_format}" for name, layer in self.layers.items()
        )
        return f"<hpv.Activations of {', '.join([quantity(self.samples, 'sample'), *given])}; {', '.join(layers)}>"

    @property
    def labels(self) -> np.ndarray | None:
        """One int64 per sample, where the source has them."""
        return None if self.label_array is None else np.asarray(self.label_array).astype(np.int64, copy=False)

    @property
    def ids(self) -> list[str] | None:
        """One string per sample, where the source has them."""
        return None if self.id_array is None else [str(name) for name in self.id_array[:]]

    @property
    def samples(self) -> int:
        """Rows of every layer."""
        return next(iter(self.layers.values())).shape[0]

    @property
    def values(self) -> int:
        """Number of values of all layers together."""
        return sum(layer.shape[0] * layer.shape[1] for layer in self.layers.values())

    @property
    def on_device(self) -> bool:
        """Whether they are on a GPU."""
        return any(layer.on_device for layer in self.layers.values())

    @property
    def is_portable(self) -> bool:
        """Whether other processes can read it from a small description."""
        return all(layer.is_portable for layer in self.layers.values())

    @property
    def chunk_rows(self) -> int:
        """Samples of the tallest chunk of a layer: ranges of samples that start at its multiples share no chunk."""
        return max(1 if layer.chunks is None else layer.chunks[0] for layer in self.layers.values())

    def part(self, rows: slice) -> Activations:
        """Consecutive samples of all layers."""
        return Activations(
            {name: layer.part(rows) for name, layer in self.layers.items()},
            None if self.label_array is None else self.label_array[rows],
            None if self.id_array is None else self.id_array[rows],
            self.attributes,
            self.is_mapping,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Names the data in the request of an output: paths where there are any, shapes, dtypes."""
        return {"layers": {name: layer.identity for name, layer in self.layers.items()}}
