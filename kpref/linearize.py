"""The linearisation of a model along a trajectory, as a program with its numbers or dense.

Time comes first in all arrays, so that the rows of one step, for a block of trials, lie together: the kernels walk
through memory in order. A row is one evaluation of the model: a step of a map, a stage of a Runge-Kutta step. An axis
of length one is constant along rows or trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from kpref._foreign import is_ours, read_only, returned
from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import finite_array, first_index, instance, short
from kpref.forward import compiled_network
from kpref.memory import require_memory
from kpref.models.base import DenseModel, Model, ProductModel
from kpref.models.step import StepModel, StepNumbers
from kpref.product_form import ProductForm
from kpref.step_form import StepForm, Variable, allot
from kpref.threads import even_blocks, run_blocks, serial_blas

__all__ = [
    "DenseForm", "Form", "dense_by_states", "empty_step_form", "linearize", "require_finite", "require_form",
    "with_states", "written_out",
]  # fmt: skip

#: Entries of a (rows, B, H) tensor that one block of the linearisation handles: its temporaries stay in cache.
_BLOCK_ENTRIES = 1 << 15


@dataclass(frozen=True, eq=False)
class DenseForm:
    """Jacobians of a small system along a trajectory, stored."""

    state_jacobian: Array  # (R, B, H, H): A
    parameter_jacobian: Array  # (R, B, H, M): J_theta, by the trainable parameters

    __repr__ = short_repr

    @property
    def n_steps(self) -> int:
        """Number R of rows."""
        return int(self.state_jacobian.shape[0])

    @property
    def n_trials(self) -> int:
        """Number B of trials."""
        return int(self.state_jacobian.shape[1])

    @property
    def n_states(self) -> int:
        """Number H of states."""
        return int(self.state_jacobian.shape[2])

    @property
    def n_parameters(self) -> int:
        """Number M of trainable parameters."""
        return int(self.parameter_jacobian.shape[3])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Floating type of the coefficients."""
        return self.state_jacobian.dtype

    @property
    def nbytes(self) -> int:
        """Memory of the coefficients."""
        return self.state_jacobian.nbytes + self.parameter_jacobian.nbytes

    def in_precision(self, dtype: npt.DTypeLike) -> DenseForm | None:
        """The same Jacobians rounded to another precision; None if an entry has no place there."""
        found = DenseForm(self.state_jacobian.astype(dtype), self.parameter_jacobian.astype(dtype))
        finite = np.isfinite(found.state_jacobian).all() and np.isfinite(found.parameter_jacobian).all()
        return found if finite else None

    def rows(self, part: slice) -> DenseForm:
        """Some rows of the trajectory, as views."""
        return DenseForm(self.state_jacobian[part], self.parameter_jacobian[part])


#: What a model may be linearised to.
Form = StepForm | DenseForm | ProductForm

_written_out: WeakKeyDictionary[ProductForm, DenseForm] = WeakKeyDictionary()


def written_out(form: Form) -> StepForm | DenseForm:
    """A linearisation by its numbers: where it is known by products, its Jacobians by columns, found once.

    They take H and M calls of the model's functions.

    Raises MemoryError before anything is computed, if they would not fit.
    """
    if not isinstance(form, ProductForm):
        return form
    if form not in _written_out:
        states = form.states.size
        needed = float(states * (form.n_states + form.n_parameters) * (8 + form.dtype.itemsize))
        require_memory(needed, f"the Jacobians of {form.model} written out at {states // form.n_states} points")
        _written_out[form] = _dense_form(form.model, form.states, form.inputs, form.dtype)
    return _written_out[form]


def require_form(form: Form) -> Form:
    """A linearisation as it is, or TypeError."""
    instance("form", form, Form, "a linearisation, such as flow.linearization")
    return form


def linearize(model: Model, states: Array, inputs: Array, dtype: npt.DTypeLike = np.float64) -> Form:
    """Coefficients of `model` at given states.

    `states`: shape (R, B, H); the points of linearisation; of a map, row n is the state that its n-th application
    starts from. `inputs`: shape (R, B, n_in). `dtype`: floating type of the result; the coefficients are computed in
    float64.

    Notes
    -----
    Of a network the time is that of one product with each weight, and memory is O(R B H) for each channel.
    """
    if isinstance(model, StepModel):
        return _step_form(model, states, inputs, dtype)
    if isinstance(model, ProductModel) and model.products:
        return _product_form(model, states, inputs, dtype)
    if isinstance(model, DenseModel):
        return _dense_form(model, states, inputs, dtype)
    raise TypeError(f"a model is a network or a DenseModel of kpref.models; got {type(model).__name__}")


def empty_step_form(
    model: StepModel, shape: tuple[int, int], dtype: npt.DTypeLike, constant: Mapping[str, Array]
) -> StepForm:
    """The step form of a network at (R, B) points: its weights, constant channels, and places for all else."""
    program, (rows, trials) = model.program, shape
    with np.errstate(over="ignore"):  # what overflows in this precision is reported, by the name that the user knows
        for name, array in model.parameters.items():
            finite_array(name, array, dtype=dtype)
        weights = {name: _finite_copy(name, weight, dtype) for name, weight in model.weights().items()}
    units = {op.name for op in program.operations if op.kind == "unit"}
    shapes = {
        op.name: (1, 1, op.out.width) if op.name in units or op.name in constant else (rows, trials, op.out.width)
        for op in program.operations
        if op.kind in ("scale", "unit")
    }
    places, total = allot(shapes, rows, trials)
    numbers = np.empty(total, dtype)
    for name, value in constant.items():
        with np.errstate(over="ignore"):
            places[name].view(numbers)[...] = value
        _check_finite(places[name].view(numbers), 0)
    for name in units:
        places[name].view(numbers)[...] = weights[name][None]
    known, column = {}, 0
    for op in program.operations:
        part = model.state_variables.get(op.variable or "")
        if part is not None:
            known[op.variable or ""] = Variable(True, part.start, part.stop - part.start)
        elif op.variable is not None and op.variable not in known:
            known[op.variable] = Variable(False, column, weights[op.name].shape[1])
            column += known[op.variable].width
    trained = {name: model.parameters[name].shape for name in model.trainable}
    return StepForm(
        program, numbers, places,
        np.empty((rows, trials, model.n_states if model.state_variables else 0), dtype),
        np.empty((rows, trials, column), dtype),
        known, weights, tuple(entry for entry in model.entries() if entry.parameter in trained), trained,
    )  # fmt: skip


def _finite_copy(name: str, weight: Array, dtype: npt.DTypeLike) -> Array:
    """A writeable copy, checked: that which the check makes, if it makes one."""
    checked = finite_array(name, weight, dtype=dtype)
    own = checked.copy() if checked is weight else checked
    own.setflags(write=True)
    return own


def with_states(form: StepForm, states: Array) -> StepForm:
    """A form with the states that it was filled at, in its precision, where a weight multiplies part of them."""
    if form.states.shape[2] == 0:
        return form
    with np.errstate(over="ignore"):  # reported, with the place
        own = np.require(states, form.dtype, ["C", "W"])  # a read-only array is another type to the kernels
    if own is not states:
        _check_finite(own, 0)
    return replace(form, states=own)


def require_finite(form: StepForm) -> None:
    """Raise ValueError, naming trial and step, if a number that varies is not finite."""
    for name in form.places:
        _check_finite(form.channel(name), 0)
    _check_finite(form.variables, 0)
    _check_finite(form.states, 0)


def _step_form(model: StepModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> StepForm:
    network = compiled_network(model)
    if network is None:
        return _plain_step_form(model, states, inputs, dtype)
    form = empty_step_form(model, (states.shape[0], states.shape[1]), dtype, network.constants)
    if not network.fill(form, states, inputs):
        require_finite(form)
    return with_states(form, states)


def _plain_step_form(model: StepModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> StepForm:
    rows, trials, width = states.shape
    blocks = even_blocks(rows, max(1, _BLOCK_ENTRIES // (trials * width)))
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows here is reported below, with its place
        sample = _numbers(model, states[:1], inputs[:1])
        constant = {name: value for name, value in sample.channels.items() if value.ndim == 1}
        form = empty_step_form(model, (rows, trials), dtype, constant)

    def fill(index: int) -> None:
        block = blocks[index]
        with np.errstate(over="ignore", invalid="ignore"):
            part = _numbers(model, states[block], inputs[block])
            if not model.thread_safe:
                _require_one_form(model, sample, part)
            for name, value in part.channels.items():
                if name not in constant:
                    form.channel(name)[block] = value
                    _check_finite(form.channel(name)[block], block.start)
            for name, value in part.variables.items():
                form.variable(name)[block] = value
            form.states[block] = states[block, :, : form.states.shape[2]]
            _check_finite(form.variables[block], block.start)
            _check_finite(form.states[block], block.start)

    run_blocks(fill, len(blocks), here=not model.thread_safe)
    return form


def _numbers(model: StepModel, states: Array, inputs: Array) -> StepNumbers:
    """Numbers of the program at states (rows, B, H); those of a class of the user's checked and copied."""
    if is_ours(type(model)):
        return model.numbers(states, inputs)
    part = model.numbers(read_only(states), read_only(inputs))
    name = f"{type(model).__name__}.numbers"
    if not isinstance(part, StepNumbers):
        raise TypeError(f"{name} must return StepNumbers; got {short(part)}")
    program, weights = model.program, model.weights()
    wanted = {op.variable: weights[op.name].shape[1] for op in program.operations if op.variable is not None}
    variables = {key: width for key, width in wanted.items() if key not in model.state_variables}
    checked: list[dict[str, Array]] = []
    for kind, given, widths in (
        ("channel", part.channels, program.channels),
        ("variable", part.variables, variables),
    ):
        missing = [key for key in widths if key not in given]
        if missing:
            raise ValueError(f"{name} must give the {kind} {missing[0]!r}; it is missing")
        rows = states.shape[:2]
        checked.append({
            key: returned(f"{name}, {key}", given[key], (width,) if np.ndim(given[key]) == 1 else (*rows, width))
            for key, width in widths.items()
        })  # fmt: skip
    return StepNumbers(*checked)


def _require_one_form(model: StepModel, sample: StepNumbers, part: StepNumbers) -> None:
    """What is constant at the first states must be so at all of them."""
    for name, first in sample.channels.items():
        later = part.channels[name]
        if first.ndim != later.ndim or (first.ndim == 1 and not np.array_equal(first, later)):
            raise ValueError(
                f"{type(model).__name__}.numbers must return {name} in one form at all states: constant, without the "
                "leading axes, or one for each state"
            )


def _product_form(model: ProductModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> ProductForm:
    _check_finite(states, 0)
    return ProductForm(
        model,
        states.copy(),
        inputs.copy(),
        np.dtype(dtype),
        None if "state" in model.products else dense_by_states(model, states, inputs, dtype),
        None if "parameter" in model.products else _by_parameters(model, states, inputs, dtype),
    )


def _dense_form(model: DenseModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> DenseForm:
    return DenseForm(
        dense_by_states(model, states, inputs, dtype),
        _by_parameters(model, states, inputs, dtype),
    )


@serial_blas
def dense_by_states(model: DenseModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> Array:
    """``dF/dz``, stored; that of a class of the user's checked and copied."""
    with np.errstate(all="ignore"):  # what is not finite is reported below, with its place
        value = model.state_jacobian(read_only(states), read_only(inputs))
        if not is_ours(type(model)):
            value = returned(f"{type(model).__name__}.state_jacobian", value, (*states.shape, model.n_states))
        stored = np.require(value, dtype, ["C", "W"])  # a read-only array is another type
        _check_finite(stored, 0)
    return stored


@serial_blas
def _by_parameters(model: DenseModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> Array:
    """``dF/dtheta`` by the trainable parameters, stored; that of a class of the user's checked and copied."""
    with np.errstate(all="ignore"):
        given = model.parameter_jacobian(read_only(states), read_only(inputs))
        if not is_ours(type(model)):
            given = _of_the_users(model, given, states.shape)
        flat = [given[name].reshape(*states.shape, -1) for name in model.trainable]
        stored = np.concatenate(flat, axis=3, dtype=dtype, casting="same_kind")
        _check_finite(stored, 0)
    return stored


def _of_the_users(model: DenseModel, given: Any, leading: tuple[int, ...]) -> dict[str, Array]:
    name = f"{type(model).__name__}.parameter_jacobian"
    missing = [key for key in model.trainable if not isinstance(given, Mapping) or key not in given]
    if missing:
        raise ValueError(f"{name} must return a dict of the trainable parameters; {missing[0]!r} is missing")
    shapes = {key: (*leading, *model.parameters[key].shape) for key in model.trainable}
    return {key: returned(f"{name}, {key}", given[key], shape) for key, shape in shapes.items()}


def _check_finite(coefficient: Array, first_row: int) -> None:
    """Raise ValueError, naming trial and step, if a coefficient (rows, trials, ...) is not finite."""
    if np.isfinite(coefficient.sum()):  # the usual case, without a temporary
        return
    bad = ~np.isfinite(coefficient)
    if bad.any():
        row, trial = first_index(bad)[:2]
        raise ValueError(
            f"the linearisation overflows: a coefficient of trial {trial}, step {first_row + row} is not finite in "
            f"{coefficient.dtype}"
        )
