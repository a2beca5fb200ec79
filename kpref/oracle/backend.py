"""Somebody else's operators, called with care: whatever they do ends in an array or in a fault, not in a traceback.

A backend is any object with some of the attributes named in `OPERATORS`, and `states`. Each operator is a callable on
tensors, or an object with ``@`` on flat vectors (a SciPy LinearOperator); tensors may be of any array type that NumPy
can read. With B trials, T steps, H units, M trainable parameters and the weights Mu of the measure,

    states           (B, T, H), an array or a function of no arguments: the trajectory z[1..T], the point of
                     linearisation; without it the reference's own is taken
    P, P_T           (B, T, H) -> (B, T, H)      the propagator and its transpose
    P_inverse        (B, T, H) -> (B, T, H)      q[n] = y[n] - A[n] y[n-1]
    J                (M,) -> (B, T, H)           per-step parameter Jacobian
    J_T              (B, T, H) -> (M,)           its transpose
    K                (B, T, H) -> (B, T, H)      J J^T Mu
    NTK              (B, T, H) -> (B, T, H)      P J J^T P^T Mu
    gradient         (B, T, H) -> (M,)           J^T P^T Mu Err
    P_inverse_T      (B, T, H) -> (B, T, H)      q[n] = g[n] - A[n+1]^T g[n+1]
    D                (M,) -> (B, T, H)           P J, the derivative of the trajectory by the parameters
    D_T              (B, T, H) -> (M,)           J^T P^T
    D_z0             (B, H) -> (B, T, H)         the derivative of the trajectory by the initial states
    D_z0_T           (B, T, H) -> (B, H)         its transpose, A[0]^T (P^T g)[0]
    K_T, NTK_T       (B, T, H) -> (B, T, H)      Mu J J^T, Mu P J J^T P^T
    gradient_T       (M,) -> (B, T, H)           Mu P J
    metrics          optional: a mapping of names in `kpref.oracle.metrics.METRICS` to numbers, matrices (H, H), or
                     functions of no arguments that return them; a pair is a value and its standard error
    arithmetic       optional: "float64", "float32", "tf32", "bfloat16" or "float16", or a `kpref.oracle.Arithmetic`;
                     else the name of `dtype`
    loss_scale       optional: a power of two that the loss is multiplied by for `gradient`, as by PyTorch's GradScaler
    unscaled         optional: False where `gradient` answers are still multiplied by it (`kpref.oracle.loss_scale`)
    not_offered      optional: a mapping of operators that it cannot have to the reason, for the report

An attribute that is missing or None is not offered. Where one of an operator and its transpose, X and X_T, is missing
and the other is a LinearOperator that knows its transpose (`rmatvec`), that is taken; where both are there, it is
judged as another way to the one.

What is offered is judged, or the report says that it is not: an attribute that is nearly one of these names (``ntk``,
``PT``, ``grad``), or that theory knows and the oracle does not (``loss``), is named, and the backend does not pass
(`kpref.oracle.names`).
"""

from __future__ import annotations

import math
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic, get_arithmetic
from kpref.oracle.names import OPERATORS, TRANSPOSES, unjudged

__all__ = ["OPERATORS", "TRANSPOSES", "Backend", "BackendFault", "LocalBackend"]

#: Far beyond what the probes can lead to, so that an answer of this size is as wrong as an infinite one; and small
#: enough that the squares of errors do not overflow where they are judged.
_WILD = 1e120

#: The largest loss scale.
_MOST_SCALED = 2.0**64

_ARITHMETIC_OF = {"float64": "float64", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


class BackendFault(Exception):
    """A backend did not give a usable answer.

    Attributes
    ----------
    kind : {"raised", "timeout", "crashed", "no answer", "unknown problem", "shape", "dtype", "complex", "not finite", \
            "overwritten"}
        The first five mean that there is nothing to judge, the others that the answer is wrong; "not finite" are
        NaN, infinity, and numbers as good as infinite.
    operator : str
    """

    def __init__(self, kind: str, operator: str, message: str) -> None:
        super().__init__(kind, operator, message)  # all of them: an exception is pickled by its arguments
        self.kind, self.operator = kind, operator

    def __str__(self) -> str:
        return str(self.args[2])

    @property
    def could_not_run(self) -> bool:
        """Whether there is nothing to judge."""
        return self.kind in ("raised", "timeout", "crashed", "no answer", "unknown problem")


class Backend(ABC):
    """A backend as `kpref.oracle.verify` sees it.

    Attributes
    ----------
    shape : tuple of int
        (B, T, H).
    n_parameters : int
    arithmetic : Arithmetic
    operators : mapping
        What it may offer, as `OPERATORS`.
    not_offered : mapping of str to str
        Why operators are not offered, where the backend says so.
    loss_scale : float
        What the loss is multiplied by for the gradient: `kpref.oracle.loss_scale`.
    unscaled : bool
        Whether the answers of `gradient` are divided by it.
    """

    operators: Mapping[str, tuple[str, str]] = OPERATORS
    shape: tuple[int, int, int]
    n_parameters: int
    arithmetic: Arithmetic
    not_offered: Mapping[str, str] = {}
    loss_scale: float = 1.0
    unscaled: bool = True

    @staticmethod
    def of(
        raw: Any,
        shape: tuple[int, int, int],
        n_parameters: int,
        arithmetic: str | Arithmetic | Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Backend:
        """Wrap somebody's object; a `Backend` is returned as it is.

        Parameters
        ----------
        raw : object
        shape : tuple of int
            (B, T, H).
        n_parameters : int
        arithmetic : str or Arithmetic, optional
            By default what the object's `arithmetic` or `dtype` says, and float64 if it has neither.
        timeout : float, optional
            Seconds that a call may take, see `LocalBackend`; by default there is no limit.

        Raises
        ------
        ValueError
            If the arithmetic is unknown, a loss scale is no power of two, or a `Backend` is one of another problem.
        """
        if not isinstance(raw, Backend):
            return LocalBackend.around(raw, shape, n_parameters, arithmetic, timeout)
        if (raw.shape, raw.n_parameters) != (shape, n_parameters):
            raise ValueError(
                f"the backend is one of a problem with states {raw.shape} and {raw.n_parameters} parameters; "
                f"the flow has {shape} and {n_parameters}"
            )
        if arithmetic is not None:
            raw.arithmetic = get_arithmetic(arithmetic)
        return raw

    @abstractmethod
    def offers(self, operator: str) -> bool:
        """Whether the backend has this operator, `states`, or one of `TRANSPOSES`."""

    @abstractmethod
    def states(self) -> Array:
        """The backend's trajectory, shape (B, T, H).

        Raises
        ------
        BackendFault
            If there is no usable answer.
        """

    @abstractmethod
    def __call__(self, operator: str, tensor: Array) -> Array:
        """Apply an operator to a tensor of its input shape; the answer is a float64 copy.

        Raises
        ------
        BackendFault
            If there is no usable answer.
        """

    def unjudged(self) -> dict[str, str]:
        """What else is offered and nobody judges, each with a sentence on it."""
        return {}

    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics that the backend offers.

        Raises
        ------
        BackendFault
            If they cannot be read.
        """
        return ()

    def metric(self, name: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """A metric, as float64 of this shape, and its standard error, zero if it is not an estimate.

        Raises
        ------
        BackendFault
            If there is no usable answer.
        """
        raise BackendFault("no answer", "metrics", f"the backend has no metric {name!r}")

    def answers(self, operator: str, first: Array, second: Array) -> tuple[Array, Array]:
        """Answers to two tensors, of which the first is read once more after the second has come.

        Raises
        ------
        BackendFault
            If there is no usable answer, or the second call changes the answer of the first: a view of memory that is
            used again. Where answers arrive as copies none can.
        """
        return self(operator, first), self(operator, second)

    def shape_of(self, space: str) -> tuple[int, ...]:
        """Shape of a tensor of a space."""
        shapes = {"trajectory": self.shape, "parameters": (self.n_parameters,), "starts": self.shape[::2]}
        return shapes[space]


class LocalBackend(Backend):
    """An object of this process, whose calls are made in the caller's own thread; see `Backend.of`.

    So what the caller has set for its thread holds in them: precision and modes of JAX and PyTorch, `numpy.errstate`,
    context variables. Nobody can end such a call: one that took longer than `timeout` seconds is a fault once it
    returns, as it is at once in a process of its own (`kpref.oracle.isolation.IsolatedBackend`).
    """

    def __init__(
        self,
        raw: Any,
        shape: tuple[int, int, int],
        n_parameters: int,
        arithmetic: Arithmetic,
        timeout: float | None,
    ) -> None:
        self.raw, self.shape, self.n_parameters = raw, shape, n_parameters
        self.arithmetic, self.timeout = arithmetic, timeout
        self._targets: dict[str, Any] = {}
        self.not_offered = _reasons(raw)
        self.loss_scale, self.unscaled = _loss_scale(raw)

    @classmethod
    def around(
        cls,
        raw: Any,
        shape: tuple[int, ...],
        n_parameters: int,
        arithmetic: str | Arithmetic | Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Wrap somebody's object, as `Backend.of`; TypeError if it is a `Backend` already, of a process of its own."""
        if isinstance(raw, Backend):
            raise TypeError(
                f"backends in continuous time are judged in this process: give the object itself, not a "
                f"{type(raw).__name__} around it"
            )
        trials, steps, units = shape
        return cls(raw, (trials, steps, units), n_parameters, _declared(raw, arithmetic), timeout)

    def offers(self, operator: str) -> bool:
        """Whether the backend has this operator; one that fails when it is looked at is there, and is called later."""
        try:
            return self._target(operator) is not None
        except BackendFault:
            return True

    def states(self) -> Array:
        """See `Backend.states`."""
        value = self._target("states")
        return _checked("states", self._call("states", value if callable(value) else lambda: value), self.shape)

    def __call__(self, operator: str, tensor: Array) -> Array:
        """See `Backend.__call__`."""
        return self._checked(operator, self._untouched(operator, tensor))

    def answers(self, operator: str, first: Array, second: Array) -> tuple[Array, Array]:
        """See `Backend.answers`."""
        answer = self._untouched(operator, first)
        before = np.array(_to_numpy(operator, answer), copy=True)
        checked = self._checked(operator, before)
        other = self(operator, second)
        if not np.array_equal(before, _to_numpy(operator, answer)):
            raise BackendFault(
                "overwritten", operator, f"a later call of {operator} changes the answer of an earlier one"
            )
        return checked, other

    def unjudged(self) -> dict[str, str]:
        """See `Backend.unjudged`."""
        return unjudged(self.raw, self.shape)

    def metric_names(self) -> tuple[str, ...]:
        """See `Backend.metric_names`."""
        metrics = self._target("metrics")
        if metrics is None:
            return ()
        if not isinstance(metrics, Mapping):
            raise BackendFault(
                "dtype", "metrics", f"metrics is of type {type(metrics).__name__}; a mapping was expected"
            )
        return tuple(str(name) for name in metrics)

    def metric(self, name: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """See `Backend.metric`."""
        value = self._call("metrics", lambda: self._target("metrics")[name])
        answer = self._call(f"metrics[{name!r}]", value) if callable(value) else value
        pair = answer if isinstance(answer, tuple) else (answer, np.zeros(shape))
        if len(pair) != 2:
            raise BackendFault(
                "shape", "metrics", f"metrics[{name!r}] returned {len(pair)} values; one, or one and its standard error"
            )
        checked = [_checked(f"metrics[{name!r}]", part, shape) for part in pair]
        if (checked[1] < 0).any():
            raise BackendFault("not finite", "metrics", f"metrics[{name!r}] has a negative standard error")
        return checked[0], checked[1]

    def _checked(self, operator: str, answer: Any) -> Array:
        return _checked(operator, answer, self.shape_of(self.operators[TRANSPOSES.get(operator, operator)][1]))

    def _untouched(self, operator: str, tensor: Array) -> Any:
        """The answer as it comes, to a tensor that is not written into."""
        given = tensor.copy()
        answer = self._apply(operator, given)
        if not np.array_equal(given, tensor):
            raise BackendFault("overwritten", operator, f"{operator} wrote into the tensor that it was given")
        return answer

    def _apply(self, operator: str, given: Array) -> Any:
        target = self._target(operator)
        if _is_matrix(target):
            return self._call(operator, lambda: target @ given.reshape(-1))
        if not callable(target):
            raise BackendFault(
                "dtype", operator, f"{operator} is of type {type(target).__name__}; a function of a tensor was expected"
            )
        return self._call(operator, lambda: target(given))

    def _target(self, operator: str) -> Any:
        """The attribute of the backend, looked up once and with the same care as a call: it may be a property."""
        if operator not in self._targets:
            self._targets[operator] = self._call(operator, lambda: self._find(operator))
        return self._targets[operator]

    def _find(self, operator: str) -> Any:
        name, dot, _ = operator.partition(".")
        target = getattr(self.raw, name, None)
        if dot:
            return self._transpose(name, target)
        if target is None and operator in OPERATORS:
            return next((self._target(way) for way, to in TRANSPOSES.items() if to == operator), None)
        return target

    def _transpose(self, name: str, target: Any) -> Any:
        """The transpose of a LinearOperator that knows it."""
        if not hasattr(target, "rmatvec"):
            return None
        try:
            target.rmatvec(np.zeros(math.prod(self.shape_of(OPERATORS[name][1]))))
        except NotImplementedError:  # what SciPy raises for a LinearOperator without a transpose
            return None
        return target.T

    def _call(self, operator: str, function: Callable[[], Any]) -> Any:
        start = time.monotonic()
        answer = _guarded(operator, function)
        if self.timeout is not None and time.monotonic() - start > self.timeout:
            raise timeout_fault(operator, self.timeout)
        return answer


def timeout_fault(operator: str, timeout: float) -> BackendFault:
    """The fault of a call that took too long."""
    return BackendFault("timeout", operator, f"{operator} did not answer within {timeout:g} seconds")


def raised_fault(operator: str, error: BaseException) -> BackendFault:
    """The fault of a call that raised, with the place in the code that was called."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    text = " ".join(str(error).split())
    return BackendFault("raised", operator, f"{operator} raised {type(error).__name__}: {text}{where}")


def _guarded(operator: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (KeyboardInterrupt, BackendFault):
        raise
    except BaseException as error:  # whatever it raises is a verdict on it, SystemExit included
        raise raised_fault(operator, error) from error


def _declared(raw: Any, arithmetic: str | Arithmetic | Mapping[str, Any] | None) -> Arithmetic:
    try:
        declared = arithmetic or getattr(raw, "arithmetic", None)
        dtype = getattr(raw, "dtype", "float64")
    except Exception as error:  # properties of somebody else's class
        raise ValueError(f"the backend's arithmetic or dtype cannot be read: {error}") from error
    if declared is None:
        name = getattr(dtype, "__name__", None) or str(dtype).rsplit(".", 1)[-1]
        if name not in _ARITHMETIC_OF:
            raise ValueError(f"the backend's dtype {name!r} is no arithmetic; give one of the oracle's by name")
        declared = _ARITHMETIC_OF[name]
    return get_arithmetic(declared)


def _loss_scale(raw: Any) -> tuple[float, bool]:
    """What a backend says of the scale of its loss, and whether its answers are divided by it."""
    try:
        scale, unscaled = getattr(raw, "loss_scale", None), bool(getattr(raw, "unscaled", True))
        scale = 1.0 if scale is None else float(scale)
    except Exception as error:  # properties of somebody else's class
        raise ValueError(f"the backend's loss_scale or unscaled cannot be read: {error}") from error
    if not 1.0 <= scale <= _MOST_SCALED or math.frexp(scale)[0] != 0.5:
        raise ValueError(
            f"loss_scale must be a power of two from 1 to 2**64, by which nothing is rounded; got {scale:g}: choose "
            "the nearest for the test"
        )
    return scale, unscaled


def _reasons(raw: Any) -> dict[str, str]:
    """What a backend says of operators that it cannot have; nothing in another form than `not_offered` should be."""
    try:
        return {str(name): str(reason) for name, reason in (getattr(raw, "not_offered", None) or {}).items()}
    except Exception:  # only words for the report: no verdict depends on them
        return {}


def _is_matrix(target: Any) -> bool:
    """A LinearOperator, a matrix of NumPy or SciPy: what multiplies flat vectors."""
    return hasattr(target, "matvec") or (hasattr(target, "shape") and not callable(target))


def _checked(operator: str, answer: Any, shape: tuple[int, ...]) -> Array:
    """The answer as a float64 array of this shape; a flat vector or a column is taken for a tensor."""
    array = _to_numpy(operator, answer)
    if array.dtype.kind == "c":
        raise BackendFault("complex", operator, f"{operator} returned complex numbers; the operators are real")
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise BackendFault("dtype", operator, f"{operator} returned an array of {array.dtype}; numbers were expected")
    if array.shape != shape:
        if array.shape not in ((math.prod(shape),), (math.prod(shape), 1)):
            raise BackendFault("shape", operator, f"{operator} returned shape {array.shape}; {shape} was expected")
        array = array.reshape(shape)
    result = np.array(array, dtype=np.float64)
    wild = ~(np.abs(result) < _WILD)  # which NaN is too
    if wild.any():
        index = tuple(int(i) for i in np.argwhere(wild)[0])
        raise BackendFault("not finite", operator, f"{operator} returned {result[index]} at {index}")
    return result


def _to_numpy(operator: str, answer: Any) -> Array:
    try:
        for step in ("detach", "cpu"):  # PyTorch does not convert tensors that require a gradient or live elsewhere
            if hasattr(answer, step):
                answer = getattr(answer, step)()
        if str(getattr(answer, "dtype", "")) == "torch.bfloat16":
            answer = answer.float()
        return np.asarray(answer)
    except Exception as error:
        raise BackendFault("dtype", operator, f"{operator} returned what NumPy cannot read: {error}") from error
