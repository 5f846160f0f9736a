"""Forbids Numba to compile while data flows: an unforeseen type is an error, not a stall."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


class no_compilation:
    """While active, a Numba kernel called with new argument types raises instead of compiling."""

    def __enter__(self) -> None:
        self._kernels = [kernel for kernel in kernels_loaded() if kernel._can_compile]
        for kernel in self._kernels:
            # not disable_compile(): it refuses kernels that were loaded and never compiled
            kernel._can_compile = False

    def __exit__(self, *_: object) -> None:
        for kernel in self._kernels:
            kernel._can_compile = True


def load_compiled(kernel: Any) -> Iterator[None]:
    """Load what Numba's cache has of a kernel for this machine, one signature at a time.

    Nothing is compiled: an entry of another version of the kernel, or for another processor, is
    left alone.
    """
    from numba.core.caching import FunctionCache

    if not isinstance(kernel._cache, FunctionCache):  # made without `cache=True`
        return
    cache: Any = kernel._cache
    machine = kernel.targetctx.codegen()
    for key in list(cache._cache_file._load_index()):
        signature = key[0]
        if key == cache._index_key(signature, machine) and signature not in kernel.overloads:
            kernel.compile(signature)  # finds it in the cache
            yield


def kernels_loaded() -> Iterator[Any]:
    """Every Numba kernel of the modules that node packages have loaded."""
    if "numba" not in sys.modules:
        return
    from numba.core.dispatcher import Dispatcher

    seen: set[int] = set()
    for name, module in sys.modules.copy().items():  # a source's thread may import meanwhile
        if name.startswith(("numba.", "llvmlite.")) or module is None:
            continue
        for value in vars(module).copy().values():
            # not isinstance: modules hold objects that load a library when asked for their class
            if Dispatcher in type(value).__mro__ and id(value) not in seen:
                seen.add(id(value))
                yield value
