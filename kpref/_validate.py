"""Checks of numbers and arrays that come in from outside, each failure as one sentence that says what and where."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from kpref._tensors import from_torch, is_tensor


def integer(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """An integer between two bounds, each of which it may equal.

    Raises TypeError if `value` is not an integer; booleans and floats are none; ValueError if it is out of range.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    bounds = _bounds("of at least", least, "at most", most)
    if number is None:
        raise TypeError(f"{name} must be an integer{bounds}; got {short(value)}")
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name} must be an integer{bounds}; got {short(number)}")
    return number


def real_number(
    name: str,
    value: object,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """A finite real number, between bounds that it may equal (`least`, `most`) or not (`above`, `below`).

    Raises TypeError if `value` is not a real number; booleans and strings are none, arrays without axes are; ValueError
    if it is not finite or out of range.
    """
    scalar = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    bounds = _bounds("of at least", least, "at most", most) + _bounds("above", above, "below", below)
    if isinstance(scalar, bool | np.bool_) or not isinstance(scalar, Real | np.floating | np.integer):
        raise TypeError(f"{name} must be a real number{bounds}; got {short(value)}")
    assert isinstance(scalar, SupportsFloat)
    try:
        number = float(scalar)
    except OverflowError:  # an integer or a fraction beyond all floats
        number = math.inf
    within = math.isfinite(number) and (least is None or number >= least) and (most is None or number <= most)
    if not within or (above is not None and number <= above) or (below is not None and number >= below):
        raise ValueError(f"{name} must be a finite number{bounds}; got {short(scalar)}")
    return number


def precision(dtype: DTypeLike, name: str = "dtype") -> np.dtype[Any]:
    """float64 or float32 as a dtype, or ValueError."""
    try:
        wanted = None if dtype is None else np.dtype(dtype)
    except TypeError:
        wanted = None
    if wanted not in (np.float64, np.float32):
        raise ValueError(f"{name} must be float64 or float32; got {short(dtype) if wanted is None else wanted}")
    return wanted


def function(name: str, value: object, takes: str | None = None) -> None:
    """Raise TypeError if `value` is not a function (of what is said to be taken)."""
    if not callable(value):
        raise TypeError(f"{name} must be a function{f' of {takes}' if takes else ''}; got {short(value)}")


def instance(name: str, value: object, kind: type | UnionType, words: str) -> None:
    """Raise TypeError if a value is not of a kind; `words` say which, and where one comes from."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {words}; got {short(value)}")


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise ValueError if a value is none of the words that are allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {short(value)}")


def near(name: object, known: Collection[str]) -> str:
    """What may have been meant by a name that is not known, inside a sentence; nothing if none is like it."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.75) if isinstance(name, str) else []
    return f" (did you mean {found[0]}?)" if found else ""


def path_like(name: str, value: object) -> Path:
    """A path, or TypeError; ValueError for one that no system has."""
    if not isinstance(value, str | os.PathLike) or not isinstance(text := os.fspath(value), str):
        raise TypeError(f"{name} must be a path; got {short(value)}")
    if "\0" in text:
        raise ValueError(f"{name} must be a path without null characters; got {short(value)}")
    return Path(value)


def flag(name: str, value: object) -> bool:
    """True or False, or TypeError."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {short(value)}")
    return bool(value)


def short(value: object) -> str:
    """A value in an error, on one line and cut after 60 characters; of an array its shape and dtype."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an object of the user's that is not finished or broken, or one that is nested too deep
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _bounds(low_word: str, low: float | None, high_word: str, high: float | None) -> str:
    words = [f"{word} {bound:g}" for word, bound in ((low_word, low), (high_word, high)) if bound is not None]
    return " " + " and ".join(words) if words else ""


def finite_array(
    name: str,
    value: ArrayLike,
    ndim: int | None = None,
    shape: Sequence[int | str | None] | None = None,
    dtype: DTypeLike = np.float64,
    axes: Sequence[str] | None = None,
) -> NDArray[Any]:
    """Convert to a read-only, C-contiguous array of finite numbers, or say which entry is not one.

    `name`: what the error calls the array.
    `value`: booleans, integers or real numbers; complex ones too if `dtype` is complex.
    `ndim`: number of axes expected.
    `shape`: shape expected. A string (or None) stands for an axis of any length and is how the error prints it, as in
    ``("B", "T", 3)``.
    `dtype`: floating type of the result, float64 by default.
    `axes`: names of the axes, one each, to locate a bad entry: ``("trial", "step", "channel")``.
    Nobody can write into what is returned: a copy, unless `value` is already such an array and owns its memory.
    Raises ValueError if `value` is not an array of numbers, has another shape, or holds NaN or infinity.
    """
    wanted = np.dtype(dtype)
    given = numeric_array(name, value, "biufc" if wanted.kind == "c" else "biuf")
    check_shape(name, given, ndim, shape)
    if _is_immutable(given) and given.dtype == wanted:
        array = given
    else:
        with np.errstate(over="ignore"):  # an overflow in the conversion is reported below, with its place
            array = np.array(given, dtype=wanted, order="C")
        array.setflags(write=False)
    finite = np.isfinite(array)
    if not finite.all():
        index = first_index(~finite)
        raise ValueError(
            f"{name} holds {given[index]} at {place(index, axes)}; every entry must be finite in {wanted.name}"
        )
    return array


def within_floats(name: str, value: Any) -> Any:
    """A result as it is, or ValueError if numbers in it overflow, or are none because those before them did."""
    if not np.isfinite(value).all():
        raise ValueError(f"{name} overflows: the inputs, states or weights of the network are too large; scale them")
    return value


def numeric_array(name: str, value: ArrayLike, kinds: str) -> NDArray[Any]:
    """Convert to an array whose dtype kind is one of `kinds` (``"iu"`` for integers), without changing the dtype.

    Raises ValueError if `value` is ragged, or an array of something else.
    """
    if type(value) is np.ndarray and value.dtype.isbuiltin == 1 and value.dtype.kind in kinds:
        return value  # as nearly always: what follows would find nothing, and takes longer than a small product
    words = {"b": "booleans", "i": "integers", "f": "real numbers", "c": "complex numbers", "U": "strings"}
    expected = ", ".join(words[kind] for kind in kinds if kind in words)
    masked = _first_masked(value)
    if masked is not None:
        index = first_index(np.ma.getmaskarray(masked))
        raise ValueError(
            f"{name} must be an array of {expected} without masked entries; entry {place(index)} is masked: fill them "
            "first, as in a.filled(0)"
        )
    value = _without_tensors(name, value)
    try:
        array = np.asarray(value)
    except Exception as error:  # array-likes of other libraries raise whatever they like
        reason = "its rows differ in length or depth" if "inhomogeneous" in str(error) else " ".join(str(error).split())
        raise ValueError(f"{name} must be an array of {expected}; it cannot be converted: {reason}") from error
    if "f" in kinds and array.dtype.name.startswith(("bfloat16", "float8_", "float6_", "float4_")):
        return array.astype(np.float32)  # the types of ml_dtypes, unknown to NumPy: float32 holds each of their numbers
    if array.dtype.kind not in kinds:
        lost = array.dtype.name in ("void8", "void16")
        hint = " (bfloat16 or float8 that lost its type in an npz file? save it as float32 or in safetensors)"
        kind = f" ({short(value)})" if array.ndim == 0 and array.dtype.kind in "OUS" else hint if lost else ""
        raise ValueError(f"{name} must be an array of {expected}; got dtype {array.dtype}{kind}")
    return array


def _without_tensors(name: str, value: Any) -> Any:
    """A tensor of PyTorch, or a sequence of some, as arrays: NumPy knows neither bfloat16 nor other devices."""
    if is_tensor(value) and not value.is_complex():
        return from_torch(name, value)
    if isinstance(value, list | tuple) and any(map(is_tensor, value)):
        return [_without_tensors(name, item) for item in value]
    return value


def _first_masked(value: object) -> np.ma.MaskedArray[Any, Any] | None:
    """A masked array with a masked entry, be it the value itself or inside of lists: NumPy would drop the mask."""
    if isinstance(value, np.ma.MaskedArray):
        return value if np.ma.is_masked(value) else None
    if isinstance(value, list | tuple):
        found = (_first_masked(item) for item in value if isinstance(item, list | tuple | np.ma.MaskedArray))
        return next((item for item in found if item is not None), None)
    return None


def check_shape(
    name: str, array: NDArray[Any], ndim: int | None = None, shape: Sequence[int | str | None] | None = None
) -> None:
    """Compare the shape of an array with what is expected; see `finite_array` for the arguments.

    Raises ValueError if they differ; it prints the shape expected and the shape given.
    """
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes; got shape {array.shape}")
    if shape is None:
        return
    same = array.ndim == len(shape) and all(
        length is None or isinstance(length, str) or length == given
        for length, given in zip(shape, array.shape, strict=True)
    )
    if not same:
        raise ValueError(f"{name} must have shape {format_shape(shape)}; got {array.shape}")


def format_shape(shape: Sequence[int | str | None]) -> str:
    """Print a shape as a tuple, with names (or ``any``) for the axes of any length: ``(B, T, 3)``."""
    lengths = ["any" if length is None else str(length) for length in shape]
    return f"({lengths[0]},)" if len(lengths) == 1 else f"({', '.join(lengths)})"


def first_index(bad: NDArray[np.bool_]) -> tuple[int, ...]:
    """Index, in C order, of the first True of `bad` (which has one)."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))


def place(index: tuple[int, ...], axes: Sequence[str] | None = None) -> str:
    """Put an index into words: ``trial 0, step 3, channel 1`` if the axes have names, else ``index (0, 3, 1)``."""
    if axes is None:
        return f"index {index}"
    return ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=True))


def _is_immutable(array: NDArray[Any]) -> bool:
    """Whether no one else can write into the memory of a C-contiguous array (a read-only view is not enough)."""
    return not array.flags.writeable and array.flags.owndata and array.flags.c_contiguous
