"""Memory and streams of the GPU, through the few functions of NVIDIA's driver that engines need.

The driver's library is on every machine that has a usable GPU, whichever CUDA toolkit is installed or none, and its functions
keep their meaning over releases. Engines work in the device's primary context, as all of CUDA's runtime does.
"""

from __future__ import annotations

import ctypes
import math
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import lru_cache

import numpy as np

from ..errors import EngineError
from ..utils.untyped import Untyped

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

#: Signatures from cuda.h; all return a CUresult. Without them, ctypes would cut addresses to 32 bits.
_FUNCTIONS: dict[str, tuple[type, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: waits for no other stream
#: CUresult codes of memory that ran out, and what to do about it.
_OUT_OF_MEMORY = 2
_SMALLEST = 256  # bytes; an address is needed for an empty tensor, too


class Cuda:
    """The first GPU that this process may use (``CUDA_VISIBLE_DEVICES`` counts)."""

    def __init__(self, library: Untyped) -> None:
        self._call: dict[str, Untyped] = {}
        try:
            for name, arguments in _FUNCTIONS.items():
                function = getattr(library, name)
                function.argtypes, function.restype = arguments, c_int
                self._call[name] = function
        except AttributeError as error:
            raise EngineError(f"the NVIDIA driver is too old: {error}", "Install driver 525 or later") from None
        device, self._context = c_int(), c_void_p()
        self("cuInit", 0)
        self("cuDeviceGet", ctypes.byref(device), 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def __call__(self, name: str, *arguments: object) -> None:
        """Call a function of the driver.

        Raises:
            EngineError: it failed.
        """
        code = self._call[name](*arguments)
        if code:
            what = c_char_p()
            self._call["cuGetErrorString"](code, ctypes.byref(what))
            reason = (what.value or b"unknown error").decode("utf-8", "replace")
            remedy = "Close other programs that use the GPU" if code == _OUT_OF_MEMORY else "Run mimo-run doctor"
            raise EngineError(f"the GPU fails: {reason} ({name}, CUDA error {code})", remedy)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU the one that this thread talks to, and give back the thread's own choice afterwards."""
        self("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))


@lru_cache(maxsize=1)
def driver() -> Cuda:
    """The GPU of this process.

    Raises:
        EngineError: there is no driver, or no GPU.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        what = f"there is no NVIDIA driver here: {LIBRARY} does not load"
        raise EngineError(what, "Install the driver; in a container, start it with its GPUs (docker run --gpus all)") from None
    return Cuda(library)


class Memory:
    """Memory on the GPU for the tensors of one graph, and the stream that copies and computes.

    Every tensor has a buffer that is used again, at the same address until it must grow. One thread at a time, within
    ``Cuda.current``.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._buffers: dict[str, tuple[int, int]] = {}
        #: The array that is in a buffer, if it can no longer change.
        self._constant: dict[str, weakref.ref[np.ndarray]] = {}
        stream = c_void_p()
        cuda("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self.stream: int = stream.value or 0

    def reserve(self, name: str, size: int) -> int:
        """The address of at least ``size`` bytes."""
        address, available = self._buffers.get(name, (0, 0))
        if size <= available and address:
            return address
        # What grows once will grow again, as the cache of a text decoder does.
        size = max(size, 2 * available, _SMALLEST)
        self._free(name)
        free = c_uint64()
        self._cuda("cuMemAlloc_v2", ctypes.byref(free), size)
        self._buffers[name] = free.value, size
        return free.value

    def put(self, name: str, array: np.ndarray, *, changes: bool = False) -> int:
        """Begin to copy a contiguous array to the GPU; its address there.

        An array that owns its data and is not writeable is copied only once: see ``Engine.run``.

        Args:
            changes: the graph will write into it.
        """
        address = self.reserve(name, array.nbytes)
        known = self._constant.pop(name, None)
        constant = not array.flags.writeable and array.base is None
        if not (constant and known is not None and known() is array) and array.nbytes:
            self._cuda("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.stream)
        if constant and not changes:
            self._constant[name] = weakref.ref(array)
        return address

    def get(self, name: str, shape: tuple[int, ...], dtype: str, *, keep: bool = False) -> np.ndarray:
        """Begin to copy from the GPU into a new array, which is complete after :meth:`wait`.

        Args:
            keep: it will come back: the array is read-only, so that :meth:`put` need not copy what is there already.
        """
        array = np.empty(shape, dtype)
        if array.nbytes:
            self._cuda("cuMemcpyDtoHAsync_v2", array.ctypes.data, self._buffers[name][0], array.nbytes, self.stream)
        if keep:
            array.flags.writeable = False
            self._constant[name] = weakref.ref(array)
        return array

    def wait(self) -> None:
        """Until all that was begun is done."""
        self._cuda("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Free everything. The run that broke it has already reported what fails."""
        stream, self.stream = self.stream, 0
        if stream:
            with suppress(EngineError):
                self._cuda("cuStreamSynchronize", stream)
        for name in list(self._buffers):
            with suppress(EngineError):
                self._free(name)
        if stream:
            with suppress(EngineError):
                self._cuda("cuStreamDestroy_v2", stream)

    def _free(self, name: str) -> None:
        address, _ = self._buffers.pop(name, (0, 0))
        self._constant.pop(name, None)
        if address:
            self._cuda("cuMemFree_v2", address)


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    """The size of an array."""
    return math.prod(shape) * np.dtype(dtype).itemsize
