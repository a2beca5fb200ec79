"""How functions are compiled, and when what is cached on disk may be used again.

Numba judges a cached function by the file that it stands in. A sweep here contains the code of functions from other
files; after a change of one of those (an upgrade), the machine code of the old version would be used without a word.
So the version that every cached function carries has a digest of all sources of compiled code: it is read before
anything that an old version may have written in terms of classes that are gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from numba import config, njit, types
from numba.extending import intrinsic

from kpref.compiled import notice  # noqa: F401 - it listens from now on

__all__ = ["inlined", "kernel", "merged", "wide_vectors"]

if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError(
        "kpref computes with compiled code only, which the environment variable NUMBA_DISABLE_JIT has switched off: "
        "start Python without it"
    )

_SOURCES = ("compiled/*.py", "kernels/*.py", "models/tiles.py", "models/*units.py")


def kernel(function: Callable[..., Any]) -> Any:
    """Compile lazily, without the GIL; cached on disk where there is a folder to write to."""
    try:
        dispatcher = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder for the cache
        return njit(nogil=True)(function)
    cache_file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if not all(hasattr(cache_file, name) for name in _OF_A_CACHE):  # a Numba that keeps it elsewhere
        return njit(nogil=True)(function)  # rather slow than stale
    cache_file._version = (cache_file._version, _digest())
    cache_file.load, cache_file.save = partial(_load, cache_file), partial(_save, cache_file)
    return dispatcher


#: What Numba's files of compiled code are read and written by.
_OF_A_CACHE = ("load", "_version", "_source_stamp", "_load_index", "_save_index", "_save_data", "_data_name")


def _save(cache_file: Any, key: Any, data: Any) -> None:
    """Keep compiled code in a file whose name follows from what it was compiled for, and with it what that is.

    Numba counts files up. Two processes that compile for different types at once take the same number, and the index of
    one then names the code of the other, which a third would run on numbers of the wrong type.
    """
    overloads = cache_file._load_index()
    name = cache_file._data_name(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big"))
    if overloads.get(key) != name:
        overloads[key] = name
        cache_file._save_index(overloads)
    cache_file._save_data(name, (_made_for(cache_file, key), data))


def _load(cache_file: Any, key: Any) -> Any:
    """What `_save` has kept; None, so that it is compiled, where there is none, or that of other types or sources."""
    made_for, data = type(cache_file).load(cache_file, key) or (None, None)
    return data if made_for == _made_for(cache_file, key) else None


def _made_for(cache_file: Any, key: Any) -> tuple[Any, ...]:
    return key, cache_file._version, cache_file._source_stamp


def inlined(function: Callable[..., Any]) -> Any:
    """Compile as part of whatever calls it: scalar arithmetic, which there becomes vector instructions.

    Division gives infinity or NaN, as in NumPy: a test for zero, with an error, would keep loops from being vectorised.
    """
    return njit(nogil=True, forceinline=True, error_model="numpy")(function)


def merged(function: Callable[..., Any]) -> Any:
    """Compile with the one function that calls it. Else the compiler would go through it twice, alone and there."""
    return njit(inline="always")(function)


@intrinsic  # type: ignore[misc]
def wide_vectors(typingctx: Any) -> Any:
    """Of the function that calls it: its loops take vectors of 64 bytes where the processor has them.

    By default LLVM takes half of that on most such processors, for the sake of their clock; but BLAS, which these loops
    run in turn with, takes all, and what has many operations for each number gains a third.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite's own `add` knows no attributes that have a value; LLVM ignores those that it does not know.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@cache
def _digest() -> str:
    """SHA-256 of the sources of compiled code, in the order of their names."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(path for pattern in _SOURCES for path in package.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
