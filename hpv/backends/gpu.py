"""What hpv asks of the driver, and of arrays on a GPU; the simulator knows less of both."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np

from hpv.backends.protocol import VISIBLE_GPUS
from hpv.base.errors import DataError, HpvError, InputError
from hpv.base.words import human
from hpv.kernels.cuda.device import SIMULATED, cuda

NO_MEMORY = "out of memory"
_DRIVER_ERRORS = {"CudaDriverError", "CudaSupportError", "CUDAError", "NvvmSupportError"}
"""Names of the classes that Numba and NVIDIA's own packages raise."""
_LEGACY_STREAM = 1
"""CUDA's number of the default stream, which waits for the others."""
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def why_not() -> str:
    """Why there is no device that can be used."""
    error = cuda.cuda_error()
    # The driver found one: then it is the compiler that is not there.
    return "libNVVM of the CUDA toolkit is not there" if error is None else " ".join(str(error).split())


def visible() -> list[str]:
    """Numbers or UUIDs of the devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    told = os.environ.get(VISIBLE_GPUS)
    if told is None:
        return [str(number) for number in range(len(cuda.gpus))]
    names = [name.strip() for name in told.split(",")]
    return names if SIMULATED else names[: len(cuda.gpus)]  # the driver takes them up to the first that is not there


def free_memory() -> int | None:
    """Bytes that are free on the current device; None where that is not known."""
    try:
        free = cuda.current_context().get_memory_info().free
    except NotImplementedError:  # another library's allocator, of which Numba was told
        return None
    return int(free) if math.isfinite(free) else None


@contextmanager
def chosen(number: int) -> Iterator[None]:
    """Makes a device the current one of this thread for a while."""
    if SIMULATED:
        yield
        return
    cuda.current_context()  # One stays with the thread: memory may be given back at any time, and not without.
    with cuda.gpus[number]:
        yield


def number_of(array: Any) -> int:
    """Number of the device that an array is on. Numba takes all that it adopts for the current device's."""
    return 0 if SIMULATED else number_at(array.device_ctypes_pointer.value)


def number_at(address: int | None) -> int:
    """Number of the device that memory is on."""
    current = cuda.current_context().device.id
    if not address:  # an array without items
        return int(current)
    from cuda.bindings import driver

    asked = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    status, found = driver.cuPointerGetAttribute(asked, address)
    return int(found if status == driver.CUresult.CUDA_SUCCESS else current)


def trouble(error: BaseException) -> str | None:
    """What a driver's error says, NO_MEMORY for want of memory; None for any other error."""
    if not {kind.__name__ for kind in type(error).__mro__} & _DRIVER_ERRORS:
        return None
    said = " ".join(str(error).split()) or type(error).__name__
    return NO_MEMORY if "OUT_OF_MEMORY" in said else said


def is_pinned(array: np.ndarray) -> bool:
    """Whether the driver copies from this machine's memory as it is: it was allocated, or registered, for that."""
    if SIMULATED:
        return False
    from cuda.bindings import driver

    asked = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
    status, found = driver.cuPointerGetAttribute(asked, array.ctypes.data)
    return status == driver.CUresult.CUDA_SUCCESS and int(found) == int(driver.CUmemorytype.CU_MEMORYTYPE_HOST)


def plainly(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Errors of the driver in plain words."""

    @functools.wraps(function)
    def call(*given: Parameters.args, **options: Parameters.kwargs) -> Result:
        try:
            return function(*given, **options)
        except HpvError:
            raise
        except Exception as error:
            said = trouble(error)
            if said is None:
                raise
            if said == NO_MEMORY:
                free = free_memory()
                left = "" if free is None else f", {human(free)} are free"
                raise InputError(f"the GPU has no room for the next block or table{left}; end what else uses it, or "
                                 "give less memory or backend='cpu'.") from error  # fmt: skip
            raise DataError(f"the GPU failed: {said}; start anew and run the same command again, it continues. "
                            "nvidia-smi and the system's log tell more.") from error  # fmt: skip

    return call


def wide(key: np.dtype) -> np.dtype:
    """The integer that the kernels compare keys in."""
    return np.dtype(np.int64 if key.itemsize > 4 else np.int32)


def shaped(memory: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Memory of a device, in one row, as another type and shape."""
    return memory.view(dtype).reshape(shape)


def adopted(array: Any) -> Any:
    """Numba's view of an array that is on a device, ordered by the stream that the caller works on."""
    return array if hasattr(array, "copy_to_host") else cuda.as_cuda_array(array, sync=False)


def adopted_source(source: Any) -> Any:
    """The same of what a user gives; waits for the work on it that it tells of."""
    if hasattr(source, "copy_to_host"):
        return _awaited(source)
    interface = getattr(source, "__cuda_array_interface__", None)
    if interface is None:
        return _by_dlpack(source)
    # Numbers of streams such as that of the default one mean those of the current device.
    with chosen(0 if SIMULATED else number_at(interface["data"][0])):
        return _awaited(cuda.as_cuda_array(source))


def _awaited(array: Any) -> Any:
    """The same array, once the work on the stream that it came with is done; copies of it are waited for."""
    if SIMULATED or not array.stream:
        return array
    array.stream.synchronize()
    return array.bind()


def external(stream: int) -> Any:
    """Numba's view of another library's stream."""
    return cuda.external_stream(stream)


def is_external(stream: Any) -> bool:
    """Whether a stream is another library's."""
    return bool(getattr(stream, "external", False))


def handle(stream: Any) -> int:
    """The number that the driver knows a stream by; there may be many views of one."""
    return id(stream) if SIMULATED else int(stream.handle)


def _by_dlpack(source: Any) -> Any:
    from cuda.core.utils import StridedMemoryView

    # The other library finishes its work before the stream that others wait for by default goes on.
    view = StridedMemoryView.from_dlpack(source, stream_ptr=_LEGACY_STREAM)
    if not view.is_device_accessible:
        raise BufferError("it is not on a GPU")
    strides = view._layout.strides_in_bytes  # view.strides counts items
    interface = {
        "shape": tuple(view.shape),
        "typestr": np.dtype(view.dtype).str,
        "data": (int(view.ptr), bool(view.readonly)),
        "strides": None if strides is None else tuple(strides),
        "version": 3,
        "stream": None,
    }
    with chosen(view.device_id):
        return cuda.from_cuda_array_interface(interface, owner=view, sync=False)
