"""A correct backend in any arithmetic, emulated: every elementary operation rounded, products as accelerators do them.

`Rounded` is an array whose operations round their results to the storage of an arithmetic; matrix products round their
operands first and accumulate in the precision of sums. The plain NumPy code of kpref's models and of its reference
products then runs in that arithmetic unchanged. Only for tests: it is slow.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kpref.kernels import plain_program
from kpref.linearize import empty_step_form
from kpref.models.nonlinearity import linoid, linoid_slope
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.metrics import METRICS
from kpref.program import Operation
from kpref.space import TrajectorySpace
from kpref.step_form import StepForm, allot

__all__ = ["EmulatedBackend", "Formulas", "Product", "Rounded", "Summation", "once"]

Array = npt.NDArray[Any]

#: In which order inner products are summed: as NumPy does, backwards, in blocks of eight terms one
#: after another, or by halves.
Summation = Literal["plain", "reversed", "blocks", "pairwise"]

#: How nonlinearities and their derivatives are computed: accurate in saturation; derivatives from the stored value as
#: ``1 - t**2``; or each function from the other, to units of one only. But for the first ``exp(w) - 1`` is a difference
#: where the format is no coarser than float32.
Formulas = Literal["accurate", "stored", "absolute"]

#: How one step is computed: by gates, from dense Jacobians that are stored, or fused, rounded only at its end.
Product = Literal["gates", "dense", "fused"]


#: Answers of an operator that are kept.
_ANSWERS = 4

#: Entries of D, and of P, up to which metrics are offered.
_STORED_ENTRIES = 1 << 18, 1 << 22


class Rounded(np.ndarray):
    """An array that rounds the result of each operation.

    Build one with `Rounded.of`.
    """

    traits: tuple[Arithmetic, Summation, Formulas]

    @property
    def arithmetic(self) -> Arithmetic:
        """That it rounds in."""
        return self.traits[0]

    @property
    def formulas(self) -> Formulas:
        """How its elementary functions are computed."""
        return self.traits[2]

    @classmethod
    def of(
        cls,
        values: npt.ArrayLike,
        arithmetic: Arithmetic,
        summation: Summation = "plain",
        formulas: Formulas = "accurate",
    ) -> Rounded:
        """Values rounded to storage."""
        rounded = arithmetic.round(values)
        array = rounded.copy() if np.may_share_memory(rounded, values) else rounded
        return cls.stored(array, arithmetic, summation, formulas)

    @classmethod
    def stored(cls, array: Array, arithmetic: Arithmetic, summation: Summation, formulas: Formulas) -> Rounded:
        """A view of an array of numbers that the arithmetic holds."""
        view = array.view(cls)
        view.traits = arithmetic, summation, formulas
        return view

    def elementary(self, function: Callable[..., Any]) -> Any:
        """A function of `kpref.models.nonlinearity`, by the formula that the backend has for it."""
        formula = _FORMULAS[self.formulas].get(function.__name__)
        return self._off(function.__name__, (formula or function)(self))

    def _off(self, function: str, values: Any) -> Any:
        """Values of a function that this arithmetic approximates, which are off by what it says there."""
        error = self.arithmetic.elementary.get(function.removesuffix("_pair"))
        if error is None:
            return values
        if isinstance(values, tuple):
            value = self._off("sigmoid", values[0])
            return value, 1.0 - value
        plain, at = np.asarray(values), np.asarray(self)
        size = self.arithmetic.unit * np.maximum(error[0] * np.abs(plain), error[1])
        return self._wrap(plain + size * np.sin(997.0 * at) * (np.abs(at) < 10))  # all clamp it beyond

    def __array_finalize__(self, other: Any) -> None:
        if other is not None:
            self.traits = getattr(other, "traits", None)  # type: ignore[assignment]

    def _wrap(self, values: Any) -> Any:
        if isinstance(values, np.ndarray | np.generic) and values.dtype.kind == "f":
            return Rounded.of(values, *self.traits)
        return values

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [value.view(np.ndarray) if type(value) is Rounded else value for value in inputs]
        arithmetic, summation, formulas = self.traits
        if ufunc is np.matmul:
            left, right = plain
            result = _product(left, right, arithmetic, summation)
        elif ufunc is np.tanh and formulas == "absolute" and "tanh" not in arithmetic.elementary:
            return _absolute_tanh(inputs[0])
        elif ufunc is np.tanh:
            result = self._off("tanh", np.tanh(*plain))
        elif ufunc is np.expm1 and formulas != "accurate" and _differences(arithmetic):
            result = arithmetic.round(np.exp(*plain)) - 1
        else:
            result = getattr(ufunc, method)(*plain, **options)
        if out is None and type(result) is np.ndarray and result.dtype == np.float64:  # a new one: nobody else has it
            return Rounded.stored(arithmetic.round(result), *self.traits)
        if out is None:
            return self._wrap(result)
        np.asarray(out[0])[...] = arithmetic.round(result)
        return out[0]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._wrap(super().__array_function__(function, types, args, kwargs))


def _product(a: Array, b: Array, arithmetic: Arithmetic, summation: Summation) -> Array:
    """``a @ b`` as an accelerator computes it, its result not yet stored."""
    a, b = arithmetic.round_operand(a), arithmetic.round_operand(b)
    if summation == "reversed":
        a, b = np.ascontiguousarray(a[..., ::-1]), np.ascontiguousarray(b[..., ::-1, :])
    total = _sums(a, b, arithmetic, summation)
    return arithmetic.round_result(total)


def _sums(a: Array, b: Array, arithmetic: Arithmetic, summation: Summation) -> Array:
    """Sums of products: NumPy's in the formats that it sums in, others term by term."""
    if arithmetic.accumulate > 2.0**-24:
        short = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))
        for term in range(a.shape[-1]):
            short = arithmetic.round_sum(short + a[..., term, None] * b[..., term, None, :])
        return short
    kind = np.float64 if arithmetic.accumulate < 2.0**-30 else np.float32
    a, b = a.astype(kind), b.astype(kind)
    if summation == "blocks":
        total = np.asarray(a[..., :8] @ b[..., :8, :])
        for start in range(8, b.shape[-2], 8):
            total += a[..., start : start + 8] @ b[..., start : start + 8, :]
        return total
    return _by_halves(a, b) if summation == "pairwise" else np.asarray(a @ b)


def _by_halves(a: Array, b: Array) -> Array:
    """``a @ b``, the terms added in pairs, the sums in pairs, and so on."""
    terms = a[..., :, None] * b[..., None, :, :]
    while (count := terms.shape[-2]) > 1:
        odd = terms[..., count - count % 2 :, :]
        terms = np.concatenate([terms[..., : count - 1 : 2, :] + terms[..., 1::2, :], odd], axis=-2)
    return terms[..., 0, :]


def _quietly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: numbers may be lost at both ends of the range."""

    @wraps(method)
    def call(self: EmulatedBackend, *arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return method(self, *arguments)

    return call


def once(method: Callable[[Any, Array], Array]) -> Callable[[Any, Array], Array]:
    """A decorator: the answer to a tensor is computed once, and again only after `_ANSWERS` others.

    `kpref.oracle.verify` asks for many answers twice and more, and what is emulated is deterministic.
    """

    @wraps(method)
    def call(self: EmulatedBackend, tensor: Array) -> Array:
        known = self._known(f"answers of {method.__name__}", dict)
        key = np.shape(tensor), np.asarray(tensor).tobytes()
        if key not in known:
            if len(known) == _ANSWERS:
                del known[next(iter(known))]
            with np.errstate(all="ignore"):
                known[key] = method(self, tensor)
        return np.array(known[key])

    return call


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
    form : StepForm
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
    form: StepForm = field(init=False)
    _kept: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.states = self.run(lambda model, z, x, step: model.step(z, x[step]))
        self.form = self._linearize()

    @_quietly
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
        return Rounded.of(values, self.arithmetic, self.summation, self.formulas)

    @_quietly
    def _linearize(self) -> StepForm:
        starts = np.concatenate([self.z0[:, None], self.states[:, :-1]], axis=1)
        before, x = (np.moveaxis(value, 1, 0) for value in (starts, self.inputs))
        rows, trials = before.shape[:2]
        if self.product == "fused":
            numbers = self.model.numbers(before, x)
        else:
            numbers = _with_rounded_parameters(self.model, self.wrap).numbers(self.wrap(before), self.wrap(x))
        store = self.arithmetic.round
        constant = {name: store(value) for name, value in numbers.channels.items() if np.ndim(value) == 1}
        form = empty_step_form(self.model, (rows, trials), np.float64, constant)
        form.states[...] = before[:, :, : form.states.shape[2]]
        for name, value in numbers.channels.items():
            if name not in constant:
                form.channel(name)[...] = store(value)
        for name, value in numbers.variables.items():
            form.variable(name)[...] = store(value)
        return form

    @property
    def metrics(self) -> dict[str, Callable[[], Array]]:
        """The metrics of `kpref.oracle.metrics`, each a call of `metric`, where D and P can be stored."""
        sizes = self.form.n_parameters * self.states.size, self.states.size**2
        small = all(size <= most for size, most in zip(sizes, _STORED_ENTRIES, strict=True))
        return {name: partial(self.metric, name) for name in METRICS} if small else {}

    def with_form(self, form: StepForm) -> EmulatedBackend:
        """The same backend over another linearisation."""
        other = copy.copy(self)
        other.form = form
        return other

    def _known(self, name: str, compute: Callable[[], Any]) -> Any:
        """What follows from the linearisation alone, computed once."""
        if self._kept.get("form") is not self.form:
            self._kept = {"form": self.form}  # copies of this backend share the old one
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]

    # One step

    def advance(self, step: int, x: Array) -> Array:
        """``A[step] x`` for x of shape (1, B, H)."""
        if self.product == "dense":
            return self._dense(step, x, True)
        return plain_program.run(self.form, step, np.asarray(x), lift=self._lift)

    def retreat(self, step: int, x: Array) -> Array:
        """``A[step]^T x`` for x of shape (1, B, H)."""
        if self.product == "dense":
            return self._dense(step, x, False)
        return plain_program.run_transposed(self.form, step, np.asarray(x), lift=self._lift)

    @property
    def _lift(self) -> Callable[[Array], Array]:
        """What stored numbers become in a step: ones that round, or, where it is fused, only at its end."""
        return np.asarray if self.product == "fused" else self._stored

    def _stored(self, values: Array) -> Rounded:
        return Rounded.stored(values, self.arithmetic, self.summation, self.formulas)

    def _dense(self, step: int, x: Array, forwards: bool) -> Array:
        """A product with the stored Jacobian of a step, or its transpose."""
        matrix, vectors = self._known("jacobians", self._jacobians)[step], np.moveaxis(np.asarray(x), 0, 1)
        found = _product(vectors, matrix.swapaxes(1, 2) if forwards else matrix, self.arithmetic, self.summation)
        return self.wrap(np.moveaxis(found, 1, 0))

    @_quietly
    def _jacobians(self) -> Array:
        """Those of all steps (T, B, H, H), which are formed without shorter operands."""
        form, plain = (
            self._known("points", lambda: _as_one_step(self.form)),
            replace(self.arithmetic, operand=0.0, result=0.0),
        )
        units = form.n_states
        basis = np.broadcast_to(np.eye(units)[:, None], (units, form.n_trials, units))
        columns = np.asarray(plain_program.run(form, 0, basis, lift=lambda array: Rounded.of(array, plain)))
        return np.moveaxis(columns, 0, 2).reshape(self.form.n_steps, self.form.n_trials, units, units)

    # Operators

    @once
    def P(self, q: Array) -> Array:
        """``P q``."""
        return self._propagate(q[None])[0]

    @once
    def P_T(self, g: Array) -> Array:
        """``P^T g``."""
        g, out = self.wrap(g), np.empty(g.shape)
        state = np.asarray(g[None, :, -1])
        out[:, -1] = state[0]
        for step in range(g.shape[1] - 2, -1, -1):
            state = np.asarray(self.wrap(self.retreat(step + 1, state) + g[None, :, step]))
            out[:, step] = state[0]
        return out

    @once
    def P_inverse(self, y: Array) -> Array:
        """``P^-1 y``."""
        y, out = self.wrap(y), np.array(self.wrap(y))
        for step in range(1, y.shape[1]):
            before = np.asarray(y[None, :, step - 1])
            out[:, step] = self.wrap(y[None, :, step] - self.advance(step, before))[0]
        return out

    @once
    def J(self, theta: Array) -> Array:
        """``J theta``."""
        return self._parameter_products(np.asarray(theta)[None])[0]

    @_quietly
    def _parameter_products(self, vectors: Array) -> Array:
        """J of vectors (v, M)."""
        form = self._known("points", lambda: _as_one_step(self.form))
        zero = np.zeros((len(vectors), form.n_trials, form.n_states))
        changes = {name: self.store(change) for name, change in form.pack(vectors).items()}
        rows = self.wrap(plain_program.run(form, 0, zero, changes, self._stored))
        steps = np.asarray(rows).reshape(len(vectors), self.form.n_steps, self.form.n_trials, form.n_states)
        return np.ascontiguousarray(np.moveaxis(steps, 1, 2))

    @once
    def J_T(self, g: Array) -> Array:
        """``J^T g``: of each weight one product over all points."""
        form, wrap = self.form, self.wrap
        flat = wrap(np.ascontiguousarray(np.moveaxis(np.asarray(g), 1, 0)))
        points = form.n_steps * form.n_trials
        found = {}
        for op, cotangent in self._cotangents(flat):
            m = wrap(form.variable(op.variable or "").reshape(points, -1))
            cotangent = cotangent.reshape(points, -1)
            found[op.name] = np.asarray(cotangent.T @ m if op.kind == "product" else (cotangent * m).sum(0))
        changes = {name: value.reshape(1, *form.weights[name].shape) for name, value in found.items()}
        return np.asarray(self.store(form.unpack(changes)[0]))

    def _cotangents(self, g: Array) -> Iterator[tuple[Operation, Array]]:
        """For each trained operation the cotangent (R, B, width) of what it writes, all steps at once."""
        form, lift = self.form, self.wrap
        program = form.program
        registers = [lift(np.zeros((*g.shape[:2], width))) for width in program.widths]
        column = 0
        for view in program.new:
            registers[view.register][...] = g[:, :, column : column + view.width]
            column += view.width
        for op, to, of in program.reversed():
            source = registers[of.register][..., of.start : of.start + of.width]
            if op.variable is not None and op.name in form.trained:
                yield op, source
            if to is None:
                continue
            out = registers[to.register][..., to.start : to.start + to.width]
            if op.kind in ("scale", "unit"):
                factor = form.channel(op.name) if op.kind == "scale" else form.weights[op.name][None]
                out += lift(factor) * source
            elif op.kind == "product":
                out += source @ lift(form.weights[op.name])
            elif op.kind == "gather":
                out += np.repeat(source, to.width // of.width, axis=2)
            else:
                out += source.reshape(*out.shape, -1).sum(axis=3)

    @_quietly
    def K(self, q: Array) -> Array:
        """``K q``."""
        return self.J(self.J_T(np.asarray(self.wrap(q) * self.wrap(self.space.mu)[:, :, None])))

    @_quietly
    def NTK(self, q: Array) -> Array:
        """``NTK q``."""
        weighed = np.asarray(self.wrap(q) * self.wrap(self.space.mu)[:, :, None])
        return self.P(self.J(self.J_T(self.P_T(weighed))))

    @_quietly
    def gradient(self, err: Array) -> Array:
        """``J^T P^T Mu Err``."""
        return self.J_T(self.P_T(np.asarray(self.wrap(err) * self.wrap(self.space.mu)[:, :, None])))

    # Metrics

    @_quietly
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
        trace, square = self._total(self._weighed(operator) ** 2), self._total(self.store(gram) ** 2)
        if name.startswith("trace"):
            return self.store(trace)
        return self.store(np.sqrt(square) if name.startswith("frobenius") else trace**2 / square)

    def _total(self, terms: Array) -> Array:
        """A sum of many terms in the precision of sums: one after another, but for those that are added in pairs."""
        kind = np.float64 if self.arithmetic.accumulate < 2.0**-30 else np.float32
        terms = terms.ravel().astype(kind)
        if self.summation == "pairwise":
            return np.asarray(terms.sum())
        return np.asarray(np.cumsum(terms[::-1] if self.summation == "reversed" else terms)[-1])

    def store(self, value: npt.ArrayLike) -> Array:
        """A result rounded to storage."""
        return np.asarray(self.arithmetic.round(value))

    def gram(self, operator: str) -> Array:
        """K or NTK as a symmetric matrix, ``Mu^(1/2) A Mu^(-1/2)``."""

        def compute() -> Array:
            flat = self._weighed(operator)
            return self._product_of(flat.T, flat)

        return np.asarray(self._known(f"gram of {operator}", compute))

    def _weighed(self, operator: str) -> Array:
        """The factor of K or the NTK in symmetric form, parameters first: (M, B T H)."""
        matrix = self.factor(operator) * np.sqrt(self.store(self.space.mu))[None, :, :, None]
        return self.store(matrix).reshape(len(matrix), -1)

    def matrix(self, operator: str) -> Array:
        """An operator as a matrix, (B T, H, B T, H)."""
        return np.asarray(self._known(f"matrix of {operator}", lambda: self._matrix(operator)))

    def _matrix(self, operator: str) -> Array:
        points, units = self.states.shape[0] * self.states.shape[1], self.states.shape[2]
        if operator == "P":  # which keeps trials apart: the same vectors for each
            trials, steps, _ = self.states.shape
            basis = np.eye(steps * units).reshape(-1, 1, steps, units)
            found = self._propagate(np.broadcast_to(basis, (steps * units, *self.states.shape)))
            blocks = found.reshape(steps, units, trials, steps, units)
            matrix = np.zeros((*self.states.shape, *self.states.shape))
            for trial in range(trials):
                matrix[trial, :, :, trial] = np.moveaxis(blocks[:, :, trial], (0, 1), (2, 3))
            return matrix.reshape(points, units, points, units)
        flat = self.factor(operator).reshape(self.form.n_parameters, -1)
        weights = np.repeat(self.store(self.space.mu).reshape(-1), units)
        return self._product_of(flat.T, self.store(flat * weights)).reshape(points, units, points, units)

    def _product_of(self, left: Array, right: Array) -> Array:
        """A product of large matrices, summed as NumPy does."""
        return np.asarray(Rounded.of(left, self.arithmetic) @ Rounded.of(right, self.arithmetic))

    def factor(self, operator: str) -> Array:
        """J (for K) or D (for the NTK) as a matrix, parameters first: (M, B, T, H)."""
        jacobian = self._known("J", lambda: self._parameter_products(np.eye(self.form.n_parameters)))
        return np.asarray(jacobian if operator == "K" else self._known("D", lambda: self._propagate(jacobian)))

    @_quietly
    def _propagate(self, batch: Array) -> Array:
        """P of tensors (v, B, T, H)."""
        batch, out = self.wrap(batch), np.empty(batch.shape)
        state: Array = np.zeros((*batch.shape[:2], batch.shape[3]))
        for step in range(batch.shape[2]):
            state = np.asarray(self.wrap(self.advance(step, state) + batch[:, :, step]))
            out[:, :, step] = state
        return out


def _as_one_step(form: StepForm) -> StepForm:
    """The form with all points as trials of one step: what does not pass from step to step is done at once."""
    points = form.n_steps * form.n_trials
    places, size = allot({name: (1, points, place.shape[2]) for name, place in form.places.items()}, 1, points)
    numbers = np.empty(size, form.dtype)
    for name, place in places.items():
        place.view(numbers).reshape(form.n_steps, form.n_trials, -1)[...] = form.channel(name)
    states, variables = (array.reshape(1, points, array.shape[2]) for array in (form.states, form.variables))
    return replace(form, numbers=numbers, places=places, states=states, variables=variables)


def _with_rounded_parameters(model: StepModel, wrap: Any) -> StepModel:
    """The same model computing with rounded parameters; its own checks would make plain arrays of them."""
    twin = copy.copy(model)
    twin._parameters = {name: wrap(value) for name, value in model.parameters.items()}
    return twin


# Derivatives from stored values, plain sigmoids: as most libraries compute them. And one function from the other.


def _stored_pair(a: Array) -> tuple[Array, Array]:
    value = 1.0 / (1.0 + np.exp(-a))
    return value, 1.0 - value


def _stored_sigmoid_slope(a: Array) -> Array:
    value, complement = _stored_pair(a)
    return value * complement


def _stored_tanh_slope(a: Array) -> Array:
    value = np.tanh(a)
    return 1.0 - value * value


def _absolute_pair(a: Array) -> tuple[Array, Array]:
    """``(1 + tanh(a / 2)) / 2`` with a tanh that is right to its last bit, and what is left of one."""
    value = 0.5 + 0.5 * _rounded_tanh(0.5 * a)
    return value, 1.0 - value


def _rounded_tanh(a: Array) -> Array:
    value = np.tanh(np.asarray(a))
    return a._wrap(value) if isinstance(a, Rounded) else value


def _absolute_tanh(a: Array) -> Array:
    """``2 sigmoid(2 a) - 1``, each operation rounded."""
    return 2.0 * (1.0 / (1.0 + np.exp(-2.0 * a))) - 1.0


def _absolute_tanh_slope(a: Array) -> Array:
    value = _absolute_tanh(a)
    return 1.0 - value * value


def _differences(arithmetic: Arithmetic) -> bool:
    return arithmetic.unit <= 2.0**-23


#: Plain code: the functions themselves would ask the array for its formula again.
_linoid, _linoid_slope = (inspect.unwrap(function) for function in (linoid, linoid_slope))


def _quotient(a: Rounded) -> Any:
    """linoid by a difference, and by its first terms where these are no worse."""
    if not _differences(a.arithmetic):
        return _linoid(a)
    near, plain = np.abs(a) < np.cbrt(12 * a.arithmetic.unit), np.abs(a) < 20
    rest = np.where(near | ~plain, 1.0, a)
    return np.where(near, 1.0 + 0.5 * a, np.where(plain, rest / (1.0 - np.exp(-rest)), _linoid(a)))


def _quotient_slope(a: Rounded) -> Any:
    """Its derivative term by term, as automatic differentiation has it."""
    if not _differences(a.arithmetic):
        return _linoid_slope(a)
    near, plain = np.abs(a) < np.cbrt(12 * a.arithmetic.unit), np.abs(a) < 20
    rest = np.where(near | ~plain, 1.0, a)
    decay = np.exp(-rest)
    less = 1.0 - decay
    slope = 1.0 / less - rest * decay / (less * less)
    return np.where(near, 0.5 + a / 6.0, np.where(plain, slope, _linoid_slope(a)))


_DIFFERENCES: dict[str, Callable[..., Any]] = {"linoid": _quotient, "linoid_slope": _quotient_slope}

_FORMULAS: dict[str, dict[str, Callable[..., Any]]] = {
    "accurate": {},
    "stored": _DIFFERENCES
    | {
        "sigmoid_pair": _stored_pair,
        "sigmoid_slope": _stored_sigmoid_slope,
        "tanh_slope": _stored_tanh_slope,
    },
    "absolute": _DIFFERENCES
    | {
        "sigmoid_pair": _absolute_pair,
        "sigmoid_slope": lambda a: np.multiply(*_absolute_pair(a)),
        "tanh_slope": _absolute_tanh_slope,
    },
}
