"""Products with a linearisation: P, P^T, their inverses, J and J^T, on all cores.

Each function takes a `kpref.step_form.StepForm` or a `kpref.linearize.DenseForm` and a batch of tensors (vectors, B, T,
H) or of parameter vectors (vectors, M), and returns a new batch. Blocks of trials, or of rows, are fixed by the size of
the problem, and partial sums are added in a fixed order: the number of threads does not change a bit of the result.
`kpref.kernels.reference` does the same in plain NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeGuard, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from kpref import threads
from kpref._types import Array
from kpref.kernels import program_sweeps, reference, stage_sensitivities, stage_sweeps, sweeps
from kpref.kernels.changes import Changes, gradient_products, gradients, packed_changes, zero_changes
from kpref.kernels.interpreter import CompiledProgram
from kpref.kernels.jacobian import DenseArrays
from kpref.kernels.stage_sums import StageTable
from kpref.linearize import DenseForm, Form
from kpref.product_form import ProductForm
from kpref.reused_memory import empty_tensor
from kpref.step_form import StepForm
from kpref.threads import even_blocks, one_blas_thread, run_blocks

__all__ = [
    "StageTable",
    "adjoint",
    "inverse",
    "inverse_transpose",
    "parameter_product",
    "parameter_transpose",
    "sensitivity",
    "sensitivity_transpose",
    "stage_adjoint",
    "stage_costate",
    "stage_costate_transpose",
    "stage_sensitivity",
    "stage_sensitivity_transpose",
    "stage_tangent",
    "steps_per_chunk",
    "tangent",
    "trial_blocks",
    "trial_products",
    "trial_transpose",
]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# States (vectors * trials) that a sweep carries at once: enough rows for the matrix products to run at full rate,
# few enough that there is work for all cores and that the states of a block stay in cache. Where there are trials for
# many blocks these are larger, up to four times: so the weights are streamed through the cache less often.
_TRIALS_PER_BLOCK = 32
_MANY_BLOCKS = 16
_STATES_PER_BLOCK = 64
_ROWS_PER_BLOCK = 1024
_MOST_BLOCKS = 64
# Entries of the registers of a block that are to stay in cache, or as many as the weights have: with fewer trials these
# would come to more. And trials that are always enough for the matrix products.
_REGISTERS, _FEWEST_TRIALS = 1 << 16, 12
# Rows of a product with a matrix of parameters inside a sweep.
_ROWS_PER_CHUNK = 100


def _or_in_python(compiled: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A decorator: where Jacobians are known by Python functions of products only, the plain twin does the work."""
    side = "parameter_jacobian" if compiled.__name__.startswith("parameter") else "state_jacobian"

    @wraps(compiled)
    def either(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        form, *others = args
        if not isinstance(form, ProductForm) or getattr(form, side) is not None:
            return compiled(*args, **kwargs)
        kwargs.pop("overwrite", None)
        with one_blas_thread():
            return getattr(reference, compiled.__name__)(form, *others, **kwargs)  # type: ignore[no-any-return]

    return either


@_or_in_python
def tangent(form: Form, forcing: Array, overwrite: bool = False) -> Array:
    """``P q``: dz[n+1] = A[n] dz[n] + q[n], dz[0] = 0.

    Costs 2 B T flops a vector for each entry of the weights that states go through.

    With `overwrite` the memory of `forcing` may be used for the result.
    """
    return _sweep(_of(form).tangent, form, forcing, overwrite)


@_or_in_python
def adjoint(form: Form, forcing: Array) -> Array:
    """``P^T g``: l[n] = A[n+1]^T l[n+1] + g[n], backwards. Costs as `tangent`."""
    return _sweep(_of(form).adjoint, form, forcing)


def sensitivity(form: Form, vectors: Array) -> Array:
    """``D dtheta = P J dtheta`` for parameter vectors (v, M). Costs as P and J, whose channels it reads only once."""
    blocks = trial_blocks(form)
    if not _in_one_sweep(form, blocks):
        return tangent(form, parameter_product(form, vectors), overwrite=True)
    vectors = _as_batch(vectors, form)
    arrays, chunk = _program(form), steps_per_chunk(blocks)
    changes = packed_changes(arrays.packing, vectors)
    out = empty_tensor((len(vectors), form.n_trials, form.n_steps, form.n_states), form.dtype)

    def task(index: int) -> None:
        vector, block = divmod(index, len(blocks))
        trials = blocks[block]
        one = _one_of(changes, vector)
        program_sweeps.sensitivity(arrays, one, out[vector : vector + 1], trials.start, trials.stop, chunk)

    run_blocks(task, len(vectors) * len(blocks))
    return out


def sensitivity_transpose(form: Form, tensors: Array) -> Array:
    """``D^T g = J^T P^T g`` for tensors (v, B, T, H): parameter vectors (v, M). Costs as `sensitivity`."""
    blocks = trial_blocks(form)
    if not _in_one_sweep(form, blocks):
        return parameter_transpose(form, adjoint(form, tensors))
    tensors = _as_batch(tensors, form)
    arrays, chunk = _program(form), steps_per_chunk(blocks)

    def add(part: slice, changes: Changes) -> None:
        for trials in blocks[part]:
            program_sweeps.sensitivity_transpose(arrays, tensors, changes, trials.start, trials.stop, chunk)

    return _sum_of_changes(form, len(tensors), even_blocks(len(blocks), 1, _most_parts(form)), add)


@_or_in_python
def inverse(form: Form, response: Array) -> Array:
    """``P^-1 y``: q[n] = y[n] - A[n] y[n-1]."""
    return _sweep(_of(form).inverse, form, response)


@_or_in_python
def inverse_transpose(form: Form, forcing: Array) -> Array:
    """``(P^-1)^T g``: row n is g[n] - A[n+1]^T g[n+1]."""
    return _sweep(_of(form).inverse_transpose, form, forcing)


@_or_in_python
def stage_tangent(
    form: Form, table: StageTable, forcing: Array, carry: Array, out: Array, transposed: bool = False
) -> None:
    """Tangent of a run of Runge-Kutta steps, in place: see `kpref.kernels.stage_sweeps.stage_tangent`.

    `carry` (v, B, H) enters as dz at the first step and leaves as dz after the last; `out` gets its rows. Costs
    2 B n s flops a vector, for n steps of s stages, for each entry of the weights that states go through.
    """
    forcing = _as_batch(forcing, form)  # of one segment, where those of all are given: steps between two of its rows
    _over_blocks(
        form, _steps(form), len(carry), lambda arrays, part, start, stop: stage_sweeps.stage_tangent(
            arrays, table, transposed, forcing[part], carry[part], out[part], start, stop
        )
    )  # fmt: skip


@_or_in_python
def stage_adjoint(
    form: Form, table: StageTable, source: Array, carry: Array, out: Array, transposed: bool = False
) -> None:
    """Transpose of `stage_tangent`, in place: see `kpref.kernels.stage_sweeps.stage_adjoint`."""
    _over_blocks(
        form, _steps(form), len(carry), lambda arrays, part, start, stop: stage_sweeps.stage_adjoint(
            arrays, table, transposed, source[part], carry[part], out[part], start, stop
        )
    )  # fmt: skip


@_or_in_python
def stage_costate(form: Form, table: StageTable, source: Array, carry: Array, out: Array) -> None:
    """Costates of a running cost, in place: see `kpref.kernels.stage_sweeps.stage_costate`."""
    _over_blocks(
        form, _steps(form), len(carry), lambda arrays, part, start, stop: stage_sweeps.stage_costate(
            arrays, table, source[part], carry[part], out[part], start, stop
        )
    )  # fmt: skip


@_or_in_python
def stage_costate_transpose(form: Form, table: StageTable, impulses: Array, carry: Array, out: Array) -> None:
    """Transpose of `stage_costate`, in place."""
    _over_blocks(
        form, _steps(form), len(carry), lambda arrays, part, start, stop: stage_sweeps.stage_costate_transpose(
            arrays, table, impulses[part], carry[part], out[part], start, stop
        )
    )  # fmt: skip


def stage_sensitivity(form: Form, table: StageTable, vectors: Array, carry: Array, out: Array) -> None:
    """`stage_tangent` of ``J dtheta`` at the stages, for parameter vectors (v, M). Costs as that and J.

    `table` has a forcing for each stage.
    """
    blocks = trial_blocks(form)
    if not _in_one_sweep(form, blocks):
        return stage_tangent(form, table, parameter_product(form, vectors), carry, out)
    arrays, chunk = _program(form), steps_per_chunk(blocks)
    changes = packed_changes(arrays.packing, _as_batch(vectors, form))

    def task(index: int) -> None:
        vector, block = divmod(index, len(blocks))
        own, trials = slice(vector, vector + 1), blocks[block]
        stage_sensitivities.stage_sensitivity(
            arrays, table, _one_of(changes, vector), carry[own], out[own], trials.start, trials.stop, chunk
        )

    run_blocks(task, len(vectors) * len(blocks))


def stage_sensitivity_transpose(form: Form, table: StageTable, source: Array, carry: Array) -> Array:
    """``J^T`` of what `stage_adjoint` gives at the stages: parameter vectors (v, M)."""
    blocks = trial_blocks(form)
    if not _in_one_sweep(form, blocks):
        shape = (len(source), form.n_trials, form.n_steps, form.n_states)
        tensor = np.zeros(shape, form.dtype)
        stage_adjoint(form, table, source, carry, tensor)
        return parameter_transpose(form, tensor)
    arrays, chunk = _program(form), steps_per_chunk(blocks)

    def add(part: slice, changes: Changes) -> None:
        for trials in blocks[part]:
            stage_sensitivities.stage_sensitivity_transpose(
                arrays, table, source, carry, changes, trials.start, trials.stop, chunk
            )

    return _sum_of_changes(form, len(source), even_blocks(len(blocks), 1, _most_parts(form)), add)


@_or_in_python
def parameter_product(form: Form, vectors: Array) -> Array:
    """``J dtheta`` for parameter vectors (v, M). Costs 2 B T M flops a vector, and the products on their way."""
    vectors = _as_batch(vectors, form)
    if isinstance(form, DenseForm | ProductForm):
        assert form.parameter_jacobian is not None  # or it would not be here
        with one_blas_thread():
            return np.einsum("rbhm,vm->vbrh", form.parameter_jacobian, vectors)
    arrays = _program(form)
    changes = packed_changes(arrays.packing, vectors)
    out = empty_tensor((len(vectors), form.n_trials, form.n_steps, form.n_states), form.dtype)
    blocks = even_blocks(form.n_steps * form.n_trials, _ROWS_PER_BLOCK, _MOST_BLOCKS)

    def task(block: int) -> None:
        program_sweeps.parameter_product(arrays, changes, out, blocks[block].start, blocks[block].stop)

    run_blocks(task, len(blocks))
    return out


@_or_in_python
def parameter_transpose(form: Form, tensors: Array) -> Array:
    """``J^T g`` for tensors (v, B, T, H): parameter vectors (v, M). Costs as `parameter_product`."""
    tensors = _as_batch(tensors, form)
    if isinstance(form, DenseForm | ProductForm):
        assert form.parameter_jacobian is not None  # or it would not be here
        with one_blas_thread():
            return np.einsum("rbhm,vbrh->vm", form.parameter_jacobian, tensors)
    arrays = _program(form)
    parts = even_blocks(form.n_steps * form.n_trials, _ROWS_PER_BLOCK, _most_parts(form))
    return _sum_of_changes(
        form, len(tensors), parts,
        lambda part, changes: program_sweeps.parameter_transpose(arrays, tensors, changes, part.start, part.stop),
    )  # fmt: skip


def trial_transpose(form: Form, tensors: Array, trial: int) -> Array:
    """``J_b^T g_b`` of one trial b, for tensors (v, B, T, H) as kernels take them: (v, M). In the calling thread."""
    if isinstance(form, DenseForm | ProductForm):
        assert form.parameter_jacobian is not None  # or it would not be here
        return np.einsum("rhm,vrh->vm", form.parameter_jacobian[:, trial], tensors[:, trial])
    return gradients(_program(form).packing, _trial_changes(form, tensors, trial))


def trial_products(form: Form, tensors: Array, trial: int) -> Array:
    """Inner products (v, v) of what `trial_transpose` gives, in float64, in less time."""
    if not isinstance(form, StepForm):
        rows = trial_transpose(form, tensors, trial).astype(float, copy=False)
        return rows @ rows.T
    return gradient_products(_program(form).packing, _trial_changes(form, tensors, trial))


def _trial_changes(form: StepForm, tensors: Array, trial: int) -> Changes:
    arrays = _program(form)
    changes = zero_changes(arrays.packing, len(tensors))
    program_sweeps.trial_transpose(arrays, tensors, changes, trial)
    return changes


def _sum_of_changes(form: StepForm, vectors: int, parts: list[slice], add: Callable[[slice, Changes], None]) -> Array:
    """Parameter vectors (v, M), of which `add` adds the share of each part to changes of its own."""
    packing = _program(form).packing
    sums = [zero_changes(packing, vectors) for _ in parts]
    run_blocks(lambda index: add(parts[index], sums[index]), len(parts))
    total = sums[0]
    for other in sums[1:]:
        np.add(total.entries, other.entries, out=total.entries)
    return gradients(packing, total)


def _most_parts(form: StepForm) -> int:
    """Number of parts: their changes together no larger than half a tensor, or filling them would take over."""
    entries = max(1, sum(form.weights[name].size for name in form.trained))
    room = form.n_steps * form.n_trials * form.n_states / (2 * entries)
    return min(_MOST_BLOCKS, 1 << int(np.log2(max(2.0, room))))


def _of(form: Form) -> Any:
    """The module with the sweeps of this kind of form."""
    return program_sweeps if isinstance(form, StepForm) else sweeps


def _sweep(kernel: Callable[..., None], form: Form, tensors: Array, overwrite: bool = False) -> Array:
    tensors = _as_batch(tensors, form)
    out = tensors if overwrite else empty_tensor(tensors.shape, tensors.dtype)
    arrays = _program(form) if isinstance(form, StepForm) else _steps(form)
    _over_blocks(
        form, arrays, len(tensors),
        lambda arrays, part, start, stop: kernel(arrays, tensors[part], out[part], start, stop),
    )  # fmt: skip
    return out


def _over_blocks(form: Form, arrays: Any, vectors: int, call: Callable[[Any, slice, int, int], None]) -> None:
    """Call a kernel with `arrays` for each block of trials and group of vectors, in parallel."""
    blocks = trial_blocks(form)
    width = max(1, _STATES_PER_BLOCK * len(blocks) // form.n_trials)
    groups = range(0, vectors, width)

    def task(index: int) -> None:
        group, block = divmod(index, len(blocks))
        trials = blocks[block]
        call(arrays, slice(groups[group], groups[group] + width), trials.start, trials.stop)

    run_blocks(task, len(blocks) * len(groups))


def trial_blocks(form: Form) -> list[slice]:
    """The blocks of trials that sweeps take."""
    trials, states = form.n_trials, form.n_trials * form.n_steps * form.n_states
    size = min(max(_TRIALS_PER_BLOCK, trials // _MANY_BLOCKS), 4 * _TRIALS_PER_BLOCK)
    if isinstance(form, StepForm):
        near = max(_REGISTERS, sum(weight.size for weight in form.weights.values()))
        size = min(size, max(_FEWEST_TRIALS, near // sum(form.program.widths)))
    return threads.trial_blocks(trials, size, states)


def _in_one_sweep(form: Form, blocks: list[slice]) -> TypeGuard[StepForm]:
    """Whether D is applied in one sweep: not where J alone, cut along time, would have more blocks for the cores."""
    return isinstance(form, StepForm) and len(blocks) > 1


def steps_per_chunk(blocks: list[slice]) -> int:
    """For how many steps a sweep of D makes the products with changes of weights at once."""
    return max(1, _ROWS_PER_CHUNK // (blocks[0].stop - blocks[0].start))


def _one_of(changes: Changes, vector: int) -> Changes:
    return changes._replace(entries=changes.entries[vector : vector + 1])


_known: WeakKeyDictionary[StepForm, CompiledProgram] = WeakKeyDictionary()


def _program(form: StepForm) -> CompiledProgram:
    if form not in _known:  # weights are copied to panels: once
        _known[form] = CompiledProgram(form)
    return _known[form]


def _steps(form: Form) -> Any:
    """What sweeps that take single steps know of a form."""
    if isinstance(form, StepForm):
        return _program(form).steps
    assert form.state_jacobian is not None  # or the plain twin would have been called
    return DenseArrays(form.state_jacobian)


def _as_batch(batch: Array, form: Form) -> Array:
    """The batch in the layout and precision of the kernels; a read-only array would be a type of its own to them."""
    return np.require(batch, form.dtype, ["C", "W"])
