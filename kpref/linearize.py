"""The linearisation of a model along a trajectory, in site form or dense: arrays and no behaviour.

Time comes first in all arrays, so that the rows of one step, for a block of trials, lie together: the kernels walk
through memory in order. A row is one evaluation of the model: a step of a map, a stage of a Runge-Kutta step. An axis
of length one is constant along rows or trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._foreign import is_ours, read_only, returned
from kpref._reprs import short_repr
from kpref._validate import finite_array, first_index, short
from kpref.forward import evaluate_points, is_compiled
from kpref.models.base import DenseModel, Model, ParameterSite, SiteCoefficients, SiteModel
from kpref.models.step import StepModel
from kpref.step_form import StepForm, Variable, allot
from kpref.threads import even_blocks, run_blocks, serial_blas

__all__ = [
    "DenseForm", "Form", "ParameterLayout", "SiteForm", "blank_form", "linearize", "require_finite", "with_gates",
    "with_states",
]  # fmt: skip

Array = npt.NDArray[Any]

#: Entries of a (rows, B, H) tensor that one block of the linearisation handles: its temporaries stay in cache.
_BLOCK_ENTRIES = 1 << 15

#: Axes of each coefficient behind (rows, trials).
_TRAILING_AXES = {"decay": 1, "gates": 2, "slope": 1, "variable": 1}


@dataclass(frozen=True, eq=False)
class ParameterLayout:
    """Where the entries of a parameter vector (M,) stand in the matrices that the kernels multiply by.

    The kernels know two: one for the recurrent gates, which multiplies the site variable, and one for all gates,
    which multiplies ``(x, 1)``. Both are stored transposed, (columns, gates * H).

    Attributes
    ----------
    sites : tuple of ParameterSite
        The trainable parameters in order.
    n_states, n_inputs, n_gates, n_recurrent_gates : int
    """

    sites: tuple[ParameterSite, ...]
    n_states: int
    n_inputs: int
    n_gates: int
    n_recurrent_gates: int

    @classmethod
    def of(cls, model: SiteModel) -> ParameterLayout:
        """Layout of a model's trainable parameters."""
        sites = tuple(site for site in model.sites if site.name in model.trainable)
        return cls(sites, model.n_states, model.n_inputs, model.n_gates, model.n_recurrent_gates)

    @property
    def has_recurrent(self) -> bool:
        """Whether a recurrent weight is trainable."""
        return any(site.kind == "recurrent" for site in self.sites)

    @property
    def size(self) -> int:
        """Number M of trainable parameters."""
        return sum(int(np.prod(site.shape(self.n_states, self.n_inputs))) for site in self.sites)

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of the two matrices: recurrent (H, k_r H), with no columns if it is not trainable; driven (n_in + 1, k H)."""
        columns = self.n_recurrent_gates * self.n_states if self.has_recurrent else 0
        return (self.n_states, columns), (self.n_inputs + 1, self.n_gates * self.n_states)

    def zeros(self, count: int, dtype: npt.DTypeLike) -> tuple[Array, Array]:
        """Matrices of zeros for `count` vectors."""
        recurrent, driven = (np.zeros((count, *shape), dtype) for shape in self.shapes)
        return recurrent, driven

    def pack(self, vectors: Array) -> tuple[Array, Array]:
        """Parameter vectors (v, M) as matrices."""
        recurrent, driven = self.zeros(len(vectors), vectors.dtype)
        for site, block, target in self._blocks(vectors, recurrent, driven):
            target += block if site.kind == "bias" else block.swapaxes(1, 2)
        return recurrent, driven

    def unpack(self, recurrent: Array, driven: Array) -> Array:
        """Matrices as parameter vectors (v, M): the transpose of `pack`."""
        vectors = np.empty((len(driven), self.size), driven.dtype)
        for site, block, source in self._blocks(vectors, recurrent, driven):
            block[...] = source if site.kind == "bias" else source.swapaxes(1, 2)
        return vectors

    def _blocks(self, vectors: Array, recurrent: Array, driven: Array) -> Any:
        """Views of each (H rows) block of each parameter in the vectors, and of its place in the matrices."""
        start, units = 0, self.n_states
        for site in self.sites:
            shape = site.shape(units, self.n_inputs)
            size = int(np.prod(shape))
            blocks = vectors[:, start : start + size].reshape(len(vectors), len(site.gates), units, *shape[1:])
            for index, gate in enumerate(site.gates):
                columns = slice(gate * units, (gate + 1) * units)
                if site.kind == "recurrent":
                    place = recurrent[:, :, columns]
                else:
                    place = driven[:, -1, columns] if site.kind == "bias" else driven[:, :-1, columns]
                yield site, blocks[:, index], place
            start += size


@dataclass(frozen=True, eq=False)
class SiteForm:
    """Coefficients of the site form along a trajectory of R rows and B trials.

    See `kpref.models.base` for the equation. H units, k gates of which k_r are recurrent.

    Attributes
    ----------
    decay : ndarray, shape (R or 1, B or 1, H)
        C0.
    gates : ndarray, shape (R or 1, B or 1, k, H)
        G.
    slope : ndarray, shape (R, B, H), or (1, 1, 0) where S = 1
        S.
    variable : ndarray, shape (R, B, H)
        m, what the recurrent weight multiplies.
    drive : ndarray, shape (R, B, n_in + 1)
        The inputs, and ones.
    weight : ndarray, shape (k_r H, H)
        The recurrent weight.
    layout : ParameterLayout
    """

    decay: Array
    gates: Array
    slope: Array
    variable: Array
    drive: Array
    weight: Array
    layout: ParameterLayout

    __repr__ = short_repr

    @property
    def n_steps(self) -> int:
        """Number R of rows."""
        return int(self.variable.shape[0])

    @property
    def n_trials(self) -> int:
        """Number B of trials."""
        return int(self.variable.shape[1])

    @property
    def n_states(self) -> int:
        """Number H of states."""
        return int(self.variable.shape[2])

    @property
    def n_parameters(self) -> int:
        """Number M of trainable parameters."""
        return self.layout.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Floating type of the coefficients."""
        return self.variable.dtype

    @property
    def nbytes(self) -> int:
        """Memory of the coefficients; the site variable may be shared with the trajectory."""
        arrays = (self.decay, self.gates, self.slope, self.variable, self.drive, self.weight)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, eq=False)
class DenseForm:
    """Jacobians of a small system along a trajectory, stored.

    Attributes
    ----------
    state_jacobian : ndarray, shape (R, B, H, H)
        A.
    parameter_jacobian : ndarray, shape (R, B, H, M)
        J_theta, by the trainable parameters.
    """

    state_jacobian: Array
    parameter_jacobian: Array

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


#: What a model may be linearised to.
Form = SiteForm | StepForm | DenseForm


def with_gates(form: Form) -> SiteForm | DenseForm:
    """A linearisation whose parameter operator has a closed form by gates, or TypeError."""
    if isinstance(form, StepForm):
        raise TypeError(
            "this quantity has a closed form for networks of one state a unit (Linear, RNN, GRU, leaky, rate) and "
            "for dense systems; for LSTM, low-rank and stacked networks estimate it from the operators of the flow"
        )
    return form


def linearize(model: Model, states: Array, inputs: Array, dtype: npt.DTypeLike = np.float64) -> Form:
    """Coefficients of `model` at given states.

    Parameters
    ----------
    model : SiteModel or DenseModel
    states : ndarray, shape (R, B, H)
        The points of linearisation; of a map, row n is the state that its n-th application starts from.
    inputs : ndarray, shape (R, B, n_in)
    dtype : dtype
        Floating type of the result; the coefficients are computed in float64.

    Returns
    -------
    SiteForm or DenseForm

    Notes
    -----
    In site form the time is that of one product with each weight, and memory is O(R B H) for each coefficient.
    """
    if isinstance(model, SiteModel):
        return _site_form(model, states, inputs, dtype)
    if isinstance(model, StepModel):
        return _step_form(model, states, inputs, dtype)
    if isinstance(model, DenseModel):
        return _dense_form(model, states, inputs, dtype)
    raise TypeError(f"a model is a SiteModel or a DenseModel of kpref.models; got {type(model).__name__}")


def _site_form(model: SiteModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> SiteForm:
    rows, trials, units = states.shape
    blocks = even_blocks(rows, max(1, _BLOCK_ENTRIES // (trials * units)))

    with np.errstate(over="ignore", invalid="ignore"):  # what overflows here is reported below, with its place
        sample = _coefficients(model, states[:1], inputs[:1])
        weight = finite_array("weight_hh", model.parameters["weight_hh"], dtype=dtype).copy()  # writeable, see kernels
        drive = np.concatenate([inputs, np.ones((rows, trials, 1))], axis=2, dtype=dtype)
        variable = states.astype(dtype, copy=False)
    arrays, varying = {}, []
    for kind, trailing in _TRAILING_AXES.items():
        value = getattr(sample, kind)
        if value is None:
            arrays[kind] = np.empty((1, 1, 0), dtype)
        elif value.ndim == trailing:
            arrays[kind] = value.astype(dtype)[None, None]
            _check_finite(arrays[kind], 0)
        else:
            arrays[kind] = np.empty(states.shape[:2] + value.shape[2:], dtype)
            varying.append(kind)

    def fill(index: int) -> None:
        block = blocks[index]
        with np.errstate(over="ignore", invalid="ignore"):
            part = _coefficients(model, states[block], inputs[block])
            if not model.thread_safe:
                _require_one_form(model, sample, part)
            for kind in varying:
                arrays[kind][block] = getattr(part, kind)
            for array in (variable, drive, *(arrays[kind] for kind in varying)):
                _check_finite(array[block], block.start)

    run_blocks(fill, len(blocks), here=not model.thread_safe)
    if sample.variable is not None:
        variable = arrays["variable"]
    return SiteForm(
        decay=arrays["decay"],
        gates=arrays["gates"],
        slope=arrays["slope"],
        variable=np.require(variable, requirements=["C", "W"]),  # a read-only array is another type to the kernels
        drive=drive,
        weight=weight,
        layout=ParameterLayout.of(model),
    )


def _step_form(model: StepModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> StepForm:
    form = blank_form(model, states, inputs, dtype)
    if not is_compiled(model):
        _fill(form, model, states, inputs)
    elif not evaluate_points(model, form, states, inputs):
        require_finite(form)
    return with_states(form, states)


def blank_form(model: StepModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> StepForm:
    """The form of a model along a trajectory, all but what varies along it; only its first state need be known."""
    rows, trials, _ = states.shape
    program = model.program
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows here is reported later, with its place
        sample = model.numbers(states[:1, :1], inputs[:1, :1])
        weights = {name: finite_array(name, weight, dtype=dtype).copy() for name, weight in model.weights().items()}
    units = {op.name: weights[op.name][None] for op in program.operations if op.kind == "unit"}
    constant = {name: value for name, value in sample.channels.items() if value.ndim == 1}
    shapes = {
        op.name: (1, 1, op.out.width) if op.name in units or op.name in constant else (rows, trials, op.out.width)
        for op in program.operations
        if op.kind in ("scale", "unit")
    }
    places, total = allot(shapes, rows, trials)
    numbers = np.empty(total, dtype)
    for name, value in (*constant.items(), *units.items()):
        places[name].view(numbers)[...] = value
    known, column = {}, 0
    for name, part in model.state_variables.items():
        known[name] = Variable(True, part.start, part.stop - part.start)
    drives = model.drives(inputs)
    for name in (*drives, *(other for other in sample.variables if other not in drives)):
        known[name] = Variable(False, column, sample.variables[name].shape[-1])
        column += known[name].width
    variables = np.empty((rows, trials, column), dtype)
    for name, value in drives.items():
        variables[:, :, known[name].start : known[name].start + known[name].width] = value
    trained = {name: model.parameters[name].shape for name in model.trainable}
    entries = tuple(entry for entry in model.entries() if entry.parameter in trained)
    return StepForm(program, numbers, places, states, variables, known, weights, entries, trained)


def with_states(form: StepForm, states: Array) -> StepForm:
    """A form with the states that it was filled at, in its precision."""
    with np.errstate(over="ignore"):
        own = np.require(states, form.numbers.dtype, ["C", "W"])  # a read-only array is another type to the kernels
    if own is not states:
        _check_finite(own, 0)
    return replace(form, states=own)


def require_finite(form: StepForm) -> None:
    """Raise ValueError, naming trial and step, if a coefficient or a variable is not finite."""
    for name in form.places:
        _check_finite(form.channel(name), 0)
    _check_finite(form.variables, 0)


def _fill(form: StepForm, model: StepModel, states: Array, inputs: Array) -> None:
    """What varies along the trajectory, by the model's plain function."""
    rows, trials, width = states.shape
    blocks = even_blocks(rows, max(1, _BLOCK_ENTRIES // (trials * width)))

    def fill(index: int) -> None:
        block = blocks[index]
        with np.errstate(over="ignore", invalid="ignore"):
            part = model.numbers(states[block], inputs[block])
            for name, value in part.channels.items():
                if value.ndim > 1:
                    form.channel(name)[block] = value
                    _check_finite(form.channel(name)[block], block.start)
            for name, value in part.variables.items():
                known = form.known[name]
                form.variables[block, :, known.start : known.start + known.width] = value
            _check_finite(form.variables[block], block.start)

    run_blocks(fill, len(blocks), here=not model.thread_safe)


def _coefficients(model: SiteModel, states: Array, inputs: Array) -> SiteCoefficients:
    """Coefficients (rows, B, ...) of the site form; those of a class of the user's checked and copied."""
    if is_ours(type(model)):
        return model.coefficients(states, inputs)
    part = model.coefficients(read_only(states), read_only(inputs))
    name, units = f"{type(model).__name__}.coefficients", model.n_states
    if not isinstance(part, SiteCoefficients):
        raise TypeError(f"{name} must return SiteCoefficients; got {short(part)}")
    checked = {}
    for kind, shape in (
        ("decay", (units,)),
        ("gates", (model.n_gates, units)),
        ("slope", (units,)),
        ("variable", (units,)),
    ):
        value = getattr(part, kind)
        if value is not None:
            constant = kind in ("decay", "gates") and np.ndim(value) == len(shape)
            checked[kind] = returned(f"{name}, {kind}", value, shape if constant else (*states.shape[:2], *shape))
    return SiteCoefficients(**checked)


def _require_one_form(model: SiteModel, sample: SiteCoefficients, part: SiteCoefficients) -> None:
    """What is left out, or constant, at the first states must be so at all of them."""
    for kind, trailing in _TRAILING_AXES.items():
        first, later = getattr(sample, kind), getattr(part, kind)
        if first is None or later is None:
            same = first is later
        else:
            same = first.ndim == later.ndim and (first.ndim > trailing or np.array_equal(first, later))
        if not same:
            raise ValueError(
                f"{type(model).__name__}.coefficients must return {kind} in one form at all states: left out, constant "
                "without the leading axes, or one for each state"
            )


@serial_blas
def _dense_form(model: DenseModel, states: Array, inputs: Array, dtype: npt.DTypeLike) -> DenseForm:
    with np.errstate(all="ignore"):  # what is not finite is reported below, with its place
        by_states, by_name = _jacobians(model, states, inputs)
        flat = [by_name[name].reshape(*states.shape, -1) for name in model.trainable]
        form = DenseForm(
            np.require(by_states, dtype, ["C", "W"]),  # a read-only array is another type
            np.concatenate(flat, axis=3, dtype=dtype, casting="same_kind"),
        )
        _check_finite(form.state_jacobian, 0)
        _check_finite(form.parameter_jacobian, 0)
    return form


def _jacobians(model: DenseModel, states: Array, inputs: Array) -> tuple[Array, Mapping[str, Array]]:
    """Derivatives by states and by parameters; those of a class of the user's checked and copied."""
    if is_ours(type(model)):
        return model.state_jacobian(states, inputs), model.parameter_jacobian(states, inputs)
    z, x, name = read_only(states), read_only(inputs), type(model).__name__
    by_states = returned(f"{name}.state_jacobian", model.state_jacobian(z, x), (*z.shape, model.n_states))
    given = model.parameter_jacobian(z, x)
    missing = [key for key in model.trainable if not isinstance(given, Mapping) or key not in given]
    if missing:
        raise ValueError(
            f"{name}.parameter_jacobian must return a dict of the trainable parameters; {missing[0]!r} is missing"
        )
    shapes = {key: (*z.shape, *model.parameters[key].shape) for key in model.trainable}
    return by_states, {
        key: returned(f"{name}.parameter_jacobian, {key}", given[key], shape) for key, shape in shapes.items()
    }


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
