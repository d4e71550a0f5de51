"""Tensors of torch, and arrays of other libraries on a GPU."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from hpv.activations.array_backed import ArrayBacked, contiguous, hash_of
from hpv.activations.arrays import ArrayLayer
from hpv.activations.layers import Layer
from hpv.base.errors import InputError
from hpv.base.floats import FloatFormat, format_of

_DLPACK_CPU = 1


def layer_of(name: str, source: Any, origin: str) -> Layer | None:
    """A tensor of torch, or an array of any library that says where its memory is; None for anything else."""
    if type(source).__module__.partition(".")[0] == "torch" or hasattr(source, "is_cuda"):
        return _of_tensor(name, source, origin)
    if hasattr(source, "__cuda_array_interface__") or hasattr(source, "__dlpack_device__"):
        return _of_others(name, source, origin)
    return None


def _of_tensor(name: str, source: Any, origin: str) -> Layer:
    float_format = format_of(source.dtype, origin)
    if str(source.layout) != "torch.strided":
        raise InputError(f"{origin}: a tensor of layout {source.layout}; give a dense one (tensor.to_dense()).")
    tensor = source.detach()
    if tensor.device.type == "cpu":
        return ArrayLayer(name, origin, numpy_of(tensor), float_format)
    return TensorLayer(name, origin, tensor, float_format)


def _of_others(name: str, source: Any, origin: str) -> Layer:
    """What has ``__cuda_array_interface__`` or DLPack."""
    if not hasattr(source, "__cuda_array_interface__") and source.__dlpack_device__()[0] == _DLPACK_CPU:
        array = np.from_dlpack(source)
        return ArrayLayer(name, origin, array, format_of(array.dtype, origin))
    from hpv.backends.cuda import check
    from hpv.backends.moving import adopt

    check()
    array = adopt(source, origin)
    return DeviceLayer(name, origin, array, format_of(array.dtype, origin))


class TensorLayer(ArrayBacked):
    """A torch tensor on another device; what is not done there is copied to this one block by block."""

    def __init__(self, name: str, origin: str, array: Any, float_format: FloatFormat) -> None:
        super().__init__(name, origin, array, float_format)
        self.on_device = array.is_cuda
        if self.on_device:  # Other threads read it too, and torch has streams for each thread.
            sys.modules["torch"].cuda.current_stream(array.device).synchronize()

    @property
    def device(self) -> str | None:
        return str(self._array.device)

    @property
    def identity(self) -> dict[str, Any]:
        """With a hash of the values."""
        return {**super().identity, "values": hash_of(self)}

    def bits_on_device(self, rows: slice) -> Any:
        """See `Layer`; copied on the GPU where values do not lie side by side."""
        from hpv.backends.moving import of_tensor

        return of_tensor(self._array[rows].flatten(1).contiguous(), self.float_format.key)

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        """A tensor beside the values."""
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, np.dtype(dtype).name), device=self._array.device)

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        block = numpy_of(self._array[selection].cpu())
        return block if block.ndim > 2 else contiguous(block, self.float_format, out)


class DeviceLayer(ArrayBacked):
    """Another library's array on a GPU: what has ``__cuda_array_interface__``, or came by DLPack."""

    on_device = True

    def __init__(self, name: str, origin: str, array: Any, float_format: FloatFormat) -> None:
        """``array``: of numba."""
        super().__init__(name, origin, array, float_format)
        if not array.is_c_contiguous():
            raise InputError(f"{origin}: an array on a GPU whose values do not lie side by side (C order); give a "
                             "contiguous copy.")  # fmt: skip

    @property
    def device(self) -> str | None:
        from hpv.backends.moving import device_of

        return device_of(self._array)

    @property
    def identity(self) -> dict[str, Any]:
        """With a hash of the values."""
        return {**super().identity, "values": hash_of(self)}

    def bits_on_device(self, rows: slice) -> Any:
        from hpv.backends.moving import of_array

        return of_array(self._array[rows.start : rows.stop], self.shape[1], self.float_format.key)

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        """An array of numba beside the values; others read it by ``__cuda_array_interface__``."""
        from hpv.backends.moving import empty

        return empty(shape, dtype, self._array)

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        rows, columns = selection
        block = self._array[rows.start : rows.stop].copy_to_host()[:, columns]
        return block if block.ndim > 2 else contiguous(block, self.float_format, out)


def numpy_of(tensor: Any) -> np.ndarray:
    """A tensor of this device without copying; numpy has no bfloat16."""
    torch = sys.modules["torch"]
    array: np.ndarray = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array.view(np.uint16) if tensor.dtype == torch.bfloat16 else array
