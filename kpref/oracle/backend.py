"""Somebody else's operators, called with care: whatever they do ends in an array or in a fault, not in a traceback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.oracle.arithmetic import Arithmetic, get_arithmetic

__all__ = ["OPERATORS", "Backend", "BackendFault"]

Array = npt.NDArray[Any]

#: What a backend may offer, and the spaces that each maps between.
OPERATORS: dict[str, tuple[str, str]] = {
    "P": ("trajectory", "trajectory"),
    "P_T": ("trajectory", "trajectory"),
    "P_inverse": ("trajectory", "trajectory"),
    "J": ("parameters", "trajectory"),
    "J_T": ("trajectory", "parameters"),
    "K": ("trajectory", "trajectory"),
    "NTK": ("trajectory", "trajectory"),
    "gradient": ("trajectory", "parameters"),
}

_ARITHMETIC_OF = {"float64": "float64", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


class BackendFault(Exception):
    """A backend did not give a usable answer.

    Attributes
    ----------
    kind : {"raised", "timeout", "shape", "dtype", "complex", "not finite", "overwritten"}
    operator : str
    """

    def __init__(self, kind: str, operator: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.operator = kind, operator


@dataclass
class Backend:
    """A backend as `kpref.oracle.verify` sees it.

    Parameters
    ----------
    raw : object
        Has some of the attributes named in `OPERATORS`, and `states`: callables on tensors, or objects with ``@`` on
        flat vectors (SciPy LinearOperators), of any array type that NumPy can read. Optional: `arithmetic` or
        `dtype`.
    shape : tuple of int
        (B, T, H).
    n_parameters : int
    arithmetic : str or Arithmetic, optional
        Overrides what the backend says.
    timeout : float
        Seconds for one call.
    """

    raw: Any
    shape: tuple[int, int, int]
    n_parameters: int
    arithmetic: Arithmetic
    timeout: float = 60.0

    @classmethod
    def of(
        cls,
        raw: Any,
        shape: tuple[int, int, int],
        n_parameters: int,
        arithmetic: str | Arithmetic | None = None,
        timeout: float = 60.0,
    ) -> Backend:
        """Wrap a backend, its arithmetic taken from the argument, its `arithmetic` or its `dtype`.

        Raises
        ------
        ValueError
            If the arithmetic is unknown.
        """
        declared = arithmetic or getattr(raw, "arithmetic", None)
        if declared is None:
            name = str(getattr(raw, "dtype", "float64")).rsplit(".", 1)[-1]
            declared = _ARITHMETIC_OF.get(name)
            if declared is None:
                raise ValueError(f"the backend's dtype {name!r} is no arithmetic; give one of the oracle's by name")
        return cls(raw, shape, n_parameters, get_arithmetic(declared), timeout)

    def offers(self, operator: str) -> bool:
        """Whether the backend has this operator."""
        return getattr(self.raw, operator, None) is not None

    def states(self) -> Array:
        """The backend's trajectory, shape (B, T, H)."""
        value = self.raw.states
        return self._checked("states", self._call("states", value if callable(value) else lambda: value), self.shape)

    def __call__(self, operator: str, tensor: Array) -> Array:
        """Apply an operator to a tensor of its input shape; the answer is a float64 copy.

        Raises
        ------
        BackendFault
            If there is no usable answer.
        """
        target = getattr(self.raw, operator)
        shape = self.shape_of(OPERATORS[operator][1])
        given = tensor.copy()
        if hasattr(target, "matvec") or (hasattr(target, "shape") and not callable(target)):
            answer = self._call(operator, lambda: target @ given.reshape(-1))
        else:
            answer = self._call(operator, lambda: target(given))
        if not np.array_equal(given, tensor):
            raise BackendFault("overwritten", operator, f"{operator} wrote into the tensor that it was given")
        return self._checked(operator, answer, shape)

    def shape_of(self, space: str) -> tuple[int, ...]:
        """Shape of a tensor of a space."""
        return self.shape if space == "trajectory" else (self.n_parameters,)

    def check_independence(self, operator: str, first: Array, second: Array) -> None:
        """Raise if a second call changes the answer of the first: a view of a buffer that is used again."""
        target = getattr(self.raw, operator)
        if hasattr(target, "matvec") or not callable(target):
            return
        answer = self._call(operator, lambda: target(first.copy()))
        before = np.array(answer, copy=True)
        self._call(operator, lambda: target(second.copy()))
        if not np.array_equal(before, np.asarray(answer), equal_nan=True):
            raise BackendFault(
                "overwritten", operator, f"a later call of {operator} changes the answer of an earlier one"
            )

    def _call(self, operator: str, function: Callable[[], Any]) -> Any:
        outcome: dict[str, Any] = {}

        def target() -> None:
            try:
                outcome["answer"] = function()
            except BaseException as error:  # whatever it raises is a verdict on it
                outcome["error"] = error

        thread = threading.Thread(target=target, daemon=True, name=f"kpref-verify-{operator}")
        thread.start()
        thread.join(self.timeout)
        if thread.is_alive():
            raise BackendFault("timeout", operator, f"{operator} did not answer within {self.timeout:g} seconds")
        if "error" in outcome:
            error = outcome["error"]
            if isinstance(error, KeyboardInterrupt):
                raise error
            raise BackendFault("raised", operator, f"{operator} raised {type(error).__name__}: {error}")
        return outcome["answer"]

    def _checked(self, operator: str, answer: Any, shape: tuple[int, ...]) -> Array:
        array = _to_numpy(operator, answer)
        if array.dtype.kind == "c":
            raise BackendFault("complex", operator, f"{operator} returned complex numbers; the operators are real")
        if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
            raise BackendFault(
                "dtype", operator, f"{operator} returned an array of {array.dtype}; numbers were expected"
            )
        if array.shape != shape:
            if array.size != int(np.prod(shape)) or array.ndim > 2 or max(array.shape, default=0) != array.size:
                raise BackendFault("shape", operator, f"{operator} returned shape {array.shape}; {shape} was expected")
            array = array.reshape(shape)  # a flat vector or a column
        result = np.array(array, dtype=np.float64)
        if not np.isfinite(result).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(result))[0])
            raise BackendFault("not finite", operator, f"{operator} returned {result[index]} at {index}")
        return result


def _to_numpy(operator: str, answer: Any) -> Array:
    for step in ("detach", "cpu"):  # PyTorch refuses to convert a tensor that requires a gradient or lives elsewhere
        if hasattr(answer, step):
            answer = getattr(answer, step)()
    if str(getattr(answer, "dtype", "")) == "torch.bfloat16":
        answer = answer.float()
    try:
        return np.asarray(answer)
    except Exception as error:
        raise BackendFault("dtype", operator, f"{operator} returned what NumPy cannot read: {error}") from error
