"""A correct backend in any arithmetic, emulated: every elementary operation rounded, products as accelerators do them.

`Rounded` is an array whose operations round their results to the storage of an arithmetic; matrix products round their
operands first and accumulate in the precision of sums. The plain NumPy code of kpref's models and of its reference
products then runs in that arithmetic unchanged. Only for tests: it is slow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kpref.models import GRU, RNN
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.metrics import METRICS
from kpref.site_view import (
    ParameterLayout,
    SiteCoefficients,
    SiteForm,
    gru_currents,
    network_current,
    site_coefficients,
    site_jacobian,
    site_jacobian_transpose,
)
from kpref.space import TrajectorySpace

__all__ = ["EmulatedBackend", "Formulas", "Product", "Rounded", "Summation", "stored_coefficients"]

Array = npt.NDArray[Any]

#: In which order inner products are summed: as NumPy does, backwards, in blocks of eight terms one
#: after another, or by halves.
Summation = Literal["plain", "reversed", "blocks", "pairwise"]

#: How derivatives of nonlinearities are computed: accurate in saturation, or from the stored value as ``1 - t**2``.
Formulas = Literal["accurate", "stored"]

#: How one step is computed: by gates, from dense Jacobians that are stored, or fused, rounded only at its end.
Product = Literal["gates", "dense", "fused"]


#: Entries of D, and of P, up to which metrics are offered.
_STORED_ENTRIES = 1 << 18, 1 << 22


class Rounded(np.ndarray):
    """An array that rounds the result of each operation.

    Build one with `Rounded.of`.
    """

    arithmetic: Arithmetic
    summation: Summation

    @classmethod
    def of(cls, values: npt.ArrayLike, arithmetic: Arithmetic, summation: Summation = "plain") -> Rounded:
        """Values rounded to storage."""
        array = np.array(arithmetic.round(values)).view(cls)
        array.arithmetic, array.summation = arithmetic, summation
        return array

    def __array_finalize__(self, other: Any) -> None:
        if other is not None:
            self.arithmetic = getattr(other, "arithmetic", None)  # type: ignore[assignment]
            self.summation = getattr(other, "summation", "plain")

    def _wrap(self, values: Any) -> Any:
        if isinstance(values, np.ndarray | np.generic) and np.asarray(values).dtype.kind == "f":
            return Rounded.of(values, self.arithmetic, self.summation)
        return values

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [np.asarray(value) if isinstance(value, Rounded) else value for value in inputs]
        with np.errstate(all="ignore"):
            if ufunc is np.matmul:
                result = self._product(*plain)
            else:
                result = getattr(ufunc, method)(*plain, **options)
        result = self._wrap(result)
        if out is None:
            return result
        out[0][...] = result
        return out[0]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._wrap(super().__array_function__(function, types, args, kwargs))

    def _product(self, a: Array, b: Array) -> Array:
        kind = np.float64 if self.arithmetic.accumulate < 2.0**-30 else np.float32
        a = self.arithmetic.round_operand(a).astype(kind)
        b = self.arithmetic.round_operand(b).astype(kind)
        if self.summation == "reversed":
            a, b = np.ascontiguousarray(a[..., ::-1]), np.ascontiguousarray(b[::-1])
        if self.summation == "blocks":
            total = np.zeros((*a.shape[:-1], b.shape[1]), kind)
            for start in range(0, len(b), 8):
                total += a[..., start : start + 8] @ b[start : start + 8]
            return total
        if self.summation == "pairwise":
            return _by_halves(a, b)
        return np.asarray(a @ b)


def _by_halves(a: Array, b: Array) -> Array:
    """``a @ b``, the terms added in pairs, the sums in pairs, and so on."""
    terms = a[..., :, None] * b
    while (count := terms.shape[-2]) > 1:
        odd = terms[..., count - count % 2 :, :]
        terms = np.concatenate([terms[..., : count - 1 : 2, :] + terms[..., 1::2, :], odd], axis=-2)
    return terms[..., 0, :]


@dataclass
class EmulatedBackend:
    """All operators of a map in an arithmetic: callables on tensors, as `kpref.oracle.verify` takes them.

    Attributes
    ----------
    model : StepModel
    inputs : ndarray, shape (B, T, n_in)
    z0 : ndarray, shape (B, H)
    space : TrajectorySpace
    arithmetic : Arithmetic
    summation : {"plain", "reversed", "blocks", "pairwise"}
    formulas : {"accurate", "stored"}
    product : {"gates", "dense", "fused"}
    states : ndarray, shape (B, T, H)
        The trajectory in this arithmetic.
    form : SiteForm
        Its linearisation in this arithmetic; a changed one changes all operators.
    """

    model: StepModel
    inputs: Array
    z0: Array
    space: TrajectorySpace
    arithmetic: Arithmetic
    summation: Summation = "plain"
    formulas: Formulas = "accurate"
    product: Product = "gates"
    states: Array = field(init=False)
    form: SiteForm = field(init=False)

    def __post_init__(self) -> None:
        self.states = self.run(lambda model, z, x, step: model.step(z, x[step]))
        self.form = self._linearize()

    def run(self, advance: Callable[[Any, Rounded, Rounded, int], Array]) -> Array:
        """States (B, T, H) of the trajectory whose next state is ``advance(model, z, x, step)``, x (T, B, n_in)."""
        model, z = _with_rounded_parameters(self.model, self.wrap), self.wrap(self.z0)
        x, states = self.wrap(np.moveaxis(self.inputs, 1, 0)), []
        for step in range(len(x)):
            z = self.wrap(advance(model, z, x, step))
            states.append(np.asarray(z))
        return np.stack(states, axis=1)

    def at(self, states: Array) -> EmulatedBackend:
        """The same backend with another trajectory (B, T, H), linearised there."""
        other = copy.copy(self)
        other.states = self.arithmetic.round(states)
        other.form = other._linearize()
        return other

    def wrap(self, values: npt.ArrayLike) -> Rounded:
        """Values in this backend's arithmetic."""
        return Rounded.of(values, self.arithmetic, self.summation)

    def _linearize(self) -> SiteForm:
        starts = np.concatenate([self.z0[:, None], self.states[:, :-1]], axis=1)
        before, x = (self.wrap(np.moveaxis(value, 1, 0)) for value in (starts, self.inputs))
        model = _with_rounded_parameters(self.model, self.wrap)
        shape = before.shape
        if self.product == "fused":
            part: Any = site_coefficients(self.model, np.asarray(before), np.asarray(x))
        elif self.formulas == "stored":
            part = stored_coefficients(model, before, x)
        else:
            part = site_coefficients(model, before, x)

        def full(value: Any, trailing: int) -> Rounded:
            array = np.asarray(value)
            return self.wrap(array[None, None] if array.ndim == trailing else array)

        ones = np.ones((*shape[:2], 1))
        return SiteForm(
            decay=full(part.decay, 1),
            gates=full(part.gates, 2),
            slope=self.wrap(np.empty((1, 1, 0))) if part.slope is None else full(part.slope, 1),
            variable=before if part.variable is None else full(part.variable, 1),
            drive=self.wrap(np.concatenate([np.asarray(x), ones], axis=2)),
            weight=self.wrap(self.model.parameters["weight_hh"]),
            layout=ParameterLayout.of(self.model),
        )

    @property
    def metrics(self) -> dict[str, Callable[[], Array]]:
        """The metrics of `kpref.oracle.metrics`, each a call of `metric`, where D and P can be stored."""
        sizes = self.form.n_parameters * self.states.size, self.states.size**2
        small = all(size <= most for size, most in zip(sizes, _STORED_ENTRIES, strict=True))
        return {name: partial(self.metric, name) for name in METRICS} if small else {}

    def with_form(self, form: SiteForm) -> EmulatedBackend:
        """The same backend over another linearisation."""
        other = copy.copy(self)
        other.form = form
        return other

    # One step

    def advance(self, step: int, x: Array) -> Array:
        """``A[step] x`` for x of shape (1, B, H)."""
        if self.product == "dense":
            return self._dense(step, x, "bij,vbj->vbi")
        if self.product == "fused":
            return site_jacobian(_plain(self.form), step, np.asarray(x))
        return site_jacobian(self.form, step, self.wrap(x))

    def retreat(self, step: int, x: Array) -> Array:
        """``A[step]^T x`` for x of shape (1, B, H)."""
        if self.product == "dense":
            return self._dense(step, x, "bij,vbi->vbj")
        if self.product == "fused":
            return site_jacobian_transpose(_plain(self.form), step, np.asarray(x))
        return site_jacobian_transpose(self.form, step, self.wrap(x))

    def _dense(self, step: int, x: Array, subscripts: str) -> Array:
        """A product with the stored Jacobian of a step."""
        form, units = self.form, self.form.n_states
        decay, gates = (c[step if len(c) > 1 else 0] for c in (form.decay, form.gates))
        blocks = form.weight.reshape(-1, units, units)
        slope = form.slope[step][:, None, :] if form.slope.size else 1.0
        matrix: Any = decay[:, :, None] * np.eye(units)
        for gate, block in enumerate(blocks):
            matrix = matrix + gates[:, gate, :, None] * (block * slope)
        matrix = np.broadcast_to(np.asarray(self.wrap(matrix)), (form.n_trials, units, units))
        kind: Any = np.float64 if self.arithmetic.accumulate < 2.0**-30 else np.float32
        left, right = (self.arithmetic.round_operand(value).astype(kind) for value in (matrix, np.asarray(x)))
        return self.wrap(np.einsum(subscripts, left, right))

    # Operators

    def P(self, q: Array) -> Array:
        """``P q``."""
        return self._propagate(q[None])[0]

    def P_T(self, g: Array) -> Array:
        """``P^T g``."""
        g, out = self.wrap(g), np.empty(g.shape)
        state = np.asarray(g[None, :, -1])
        out[:, -1] = state[0]
        for step in range(g.shape[1] - 2, -1, -1):
            state = np.asarray(self.wrap(self.retreat(step + 1, state) + g[None, :, step]))
            out[:, step] = state[0]
        return out

    def P_inverse(self, y: Array) -> Array:
        """``P^-1 y``."""
        y, out = self.wrap(y), np.array(self.wrap(y))
        for step in range(1, y.shape[1]):
            before = np.asarray(y[None, :, step - 1])
            out[:, step] = self.wrap(y[None, :, step] - self.advance(step, before))[0]
        return out

    def J(self, theta: Array) -> Array:
        """``J theta``."""
        form = self.form
        recurrent, driven = (self.wrap(part[0]) for part in form.layout.pack(np.asarray(theta)[None]))
        gates, units = driven.shape[1] // form.n_states, form.n_states
        currents = form.drive @ driven
        if recurrent.shape[1]:
            extra = np.zeros(currents.shape)
            extra[..., : recurrent.shape[1]] = np.asarray(form.variable @ recurrent)
            currents = currents + self.wrap(extra)
        terms = form.gates * currents.reshape(*currents.shape[:2], gates, units)
        total: Any = terms[:, :, 0]
        for gate in range(1, gates):
            total = total + terms[:, :, gate]
        return np.moveaxis(np.asarray(total), 0, 1)

    def J_T(self, g: Array) -> Array:
        """``J^T g``."""
        form = self.form
        terms = form.gates * self.wrap(np.moveaxis(np.asarray(g), 1, 0))[:, :, None]
        flat = terms.reshape(-1, terms.shape[2] * terms.shape[3])
        columns = form.layout.shapes[0][1]
        driven = form.drive.reshape(len(flat), -1).T @ flat
        recurrent = (
            form.variable.reshape(len(flat), -1).T @ flat[:, :columns] if columns else np.zeros((form.n_states, 0))
        )
        return form.layout.unpack(np.asarray(recurrent)[None], np.asarray(driven)[None])[0]

    def K(self, q: Array) -> Array:
        """``K q``."""
        return self.J(self.J_T(np.asarray(self.wrap(q) * self.wrap(self.space.mu)[:, :, None])))

    def NTK(self, q: Array) -> Array:
        """``NTK q``."""
        weighed = np.asarray(self.wrap(q) * self.wrap(self.space.mu)[:, :, None])
        return self.P(self.J(self.J_T(self.P_T(weighed))))

    def gradient(self, err: Array) -> Array:
        """``J^T P^T Mu Err``."""
        return self.J_T(self.P_T(np.asarray(self.wrap(err) * self.wrap(self.space.mu)[:, :, None])))

    # Metrics

    def metric(self, name: str) -> Array:
        """A metric from the matrices of the operators, each entry rounded, sums in the precision of accumulation."""
        operator = METRICS[name].operator
        if name.startswith("average"):
            return self.store(self.matrix(operator).mean(axis=(0, 2)))
        if name.startswith("partial_trace"):
            return self.store(np.einsum("aiaj->ij", self.matrix(operator)))
        gram = self.gram(operator)
        if name == "alignment_K_NTK":
            other = self.gram("K")
            return self.store(np.vdot(other, gram) / (np.linalg.norm(other) * np.linalg.norm(gram)))
        trace, square = np.trace(gram), np.vdot(gram, gram)
        if name.startswith("trace"):
            return self.store(trace)
        return self.store(np.sqrt(square) if name.startswith("frobenius") else trace**2 / square)

    def store(self, value: npt.ArrayLike) -> Array:
        """A result rounded to storage."""
        return np.asarray(self.arithmetic.round(value))

    def gram(self, operator: str) -> Array:
        """K or NTK as a symmetric matrix, ``Mu^(1/2) A Mu^(-1/2)``."""
        matrix = self.factor(operator) * np.sqrt(self.store(self.space.mu))[None, :, :, None]
        flat = self.store(matrix).reshape(len(matrix), -1)
        return self._product_of(flat.T, flat)

    def matrix(self, operator: str) -> Array:
        """An operator as a matrix, (B T, H, B T, H)."""
        points, units = self.states.shape[0] * self.states.shape[1], self.states.shape[2]
        if operator == "P":
            basis = np.eye(points * units).reshape(-1, *self.states.shape)
            return np.moveaxis(self._propagate(basis).reshape(points, units, points, units), (0, 1), (2, 3))
        flat = self.factor(operator).reshape(self.form.n_parameters, -1)
        weights = np.repeat(self.store(self.space.mu).reshape(-1), units)
        return self._product_of(flat.T, self.store(flat * weights)).reshape(points, units, points, units)

    def _product_of(self, left: Array, right: Array) -> Array:
        """A product of large matrices, summed as NumPy does."""
        return np.asarray(Rounded.of(left, self.arithmetic) @ Rounded.of(right, self.arithmetic))

    def factor(self, operator: str) -> Array:
        """J (for K) or D (for the NTK) as a matrix, parameters first: (M, B, T, H)."""
        columns = np.eye(self.form.n_parameters)
        jacobian = np.stack([np.asarray(EmulatedBackend.J(self, theta)) for theta in columns])
        return jacobian if operator == "K" else self._propagate(jacobian)

    def _propagate(self, batch: Array) -> Array:
        """P of tensors (v, B, T, H)."""
        batch, out = self.wrap(batch), np.empty(batch.shape)
        state: Array = np.zeros((*batch.shape[:2], batch.shape[3]))
        for step in range(batch.shape[2]):
            state = np.asarray(self.wrap(self.advance(step, state) + batch[:, :, step]))
            out[:, :, step] = state
        return out


def _plain(form: SiteForm) -> SiteForm:
    """The same numbers as ordinary arrays, whose operations do not round."""
    names = ("decay", "gates", "slope", "variable", "drive", "weight")
    arrays: dict[str, Any] = {name: np.asarray(getattr(form, name)) for name in names}
    return replace(form, **arrays)


def _with_rounded_parameters(model: StepModel, wrap: Any) -> StepModel:
    """The same model computing with rounded parameters; its own checks would make plain arrays of them."""
    twin = copy.copy(model)
    twin._parameters = {name: wrap(value) for name, value in model.parameters.items()}
    return twin


def stored_coefficients(model: Any, z: Array, x: Array) -> SiteCoefficients:
    """Coefficients as most libraries compute them: derivatives from stored values, plain sigmoids."""
    if isinstance(model, GRU):
        reset, update, a_n, c_n = gru_currents(model.parameters, z, x)
        r, u = _plain_sigmoid(reset), _plain_sigmoid(update)
        n = np.tanh(c_n + r * a_n)
        s = (1.0 - u) * (1.0 - n * n)
        gates = [s * a_n * (r * (1.0 - r)), (z - n) * (u * (1.0 - u)), s * r, s]
        return SiteCoefficients(decay=u, gates=np.stack([np.asarray(gate) for gate in gates], axis=-2))
    part = site_coefficients(model, z, x)
    name = getattr(getattr(model, "nonlinearity", None), "name", None)
    if name not in _STORED:
        return part
    if isinstance(model, RNN):
        value = np.tanh(network_current(model.parameters, z, x))
        return replace(part, gates=_STORED[name](value)[..., None, :])
    return replace(part, slope=_STORED[name](z if name == "softplus" else part.variable))


def _plain_sigmoid(a: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-a))


_STORED: dict[str, Any] = {
    "tanh": lambda t: 1.0 - t * t,
    "sigmoid": lambda s: s * (1.0 - s),
    "softplus": _plain_sigmoid,
}
