"""Loss and gradient of compiled networks in discrete time: each block of trials forward, through the loss, and back.

The forward pass writes the coefficients of the linearisation on its way (`kpref.kernels.network`), and one sweep
backwards applies D^T and ends with dL/dz0 (`kpref.kernels.program_sweeps`), all in the precision of the training. A
block of trials does all of it in one thread and meets the others only in the sum of gradients. Memory is allotted once
for each shape of a batch, and the form, its lowered program and its panels with it: a step writes new numbers into
them. What comes after the end of a trial has weight zero, and so a costate of zero: nothing of it reaches a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.forward import CompiledNetwork, compiled_network
from kpref.kernels import program_sweeps, steps_per_chunk, trial_blocks
from kpref.kernels.changes import Changes, Packing, gradients, packing_of, zero_changes
from kpref.kernels.interpreter import CompiledProgram
from kpref.kernels.network import run
from kpref.kernels.network_tables import Target, target
from kpref.kernels.panels import aligned_zeros, fill_weights
from kpref.linearize import empty_step_form
from kpref.loss import pointwise_loss
from kpref.models.base import Map, Model
from kpref.models.step import StepModel
from kpref.step_form import Entry, StepForm
from kpref.threads import run_blocks, share_blocks
from kpref.training.plain_pass import Evaluated, Point
from kpref.training.scores import Scored, scored
from kpref.trials import Trials

__all__ = ["CompiledPass", "can_compile"]

#: The most shapes of batches whose memory is kept.
_MOST_ROOMS = 4
#: Multiply-adds of a forward pass below which it is over before another thread has taken part, and those below which
#: the calling thread works too: some milliseconds, in which nobody wants to interrupt it.
_TINY, _SMALL = 4_000_000, 40_000_000


def _way_to_run(multiplications: int) -> Callable[[Callable[[int], object], int], None]:
    if multiplications < _TINY:
        return partial(run_blocks, here=True)
    return share_blocks if multiplications < _SMALL else run_blocks


def _places(entries: Sequence[Entry], weights: Mapping[str, Array]) -> list[tuple[Entry, Array, bool]] | None:
    """Entries, where in the weights each goes, and whether it replaces what stood there or is added to it.

    None where weights are no sums of arrays of parameters, each over whole parts of those before it.
    """
    written = {name: np.zeros(weight.shape, bool) for name, weight in weights.items()}
    joined: list[tuple[Entry, bool]] = []
    for entry in sorted(entries, key=lambda entry: (entry.parameter, entry.weight, entry.columns.start)):
        before = written[entry.weight][entry.rows, entry.columns]
        replaces = not before.any()
        if np.ndim(entry.factor) or not (replaces or before.all()):
            return None
        before[...] = True
        last, alike = joined[-1] if joined else (None, False)
        if last is not None and alike == replaces and _follows(last, entry):
            rows, part = slice(last.rows.start, entry.rows.stop), slice(last.part.start, entry.part.stop)
            joined[-1] = replace(last, rows=rows, part=part), replaces
        else:
            joined.append((entry, replaces))
    return [(entry, weights[entry.weight][entry.rows, entry.columns], replaces) for entry, replaces in joined]


def _follows(last: Entry, entry: Entry) -> bool:
    """Whether both are one, of more rows."""
    alike = ("parameter", "weight", "columns", "factor", "transposed")
    return (
        all(getattr(last, name) == getattr(entry, name) for name in alike)
        and not entry.transposed
        and (last.part.stop, last.rows.stop) == (entry.part.start, entry.rows.start)
    )


def can_compile(model: Model) -> bool:
    """Whether a model is one that this pass takes."""
    return isinstance(model, Map) and compiled_network(model) is not None


@dataclass(frozen=True, eq=False)
class _Room:
    """Memory for batches of one shape."""

    form: StepForm
    program: CompiledProgram
    aim: Target
    trajectory: Array  # (T + 1, B, S)
    errors: Array  # (1, B, T, S): mu Err
    initial: Array  # (1, B, S): dL/dz0 of each trial
    blocks: list[slice]
    changes: list[Changes]  # of each block
    run: Callable[[Callable[[int], object], int], None]  # calls a task with the number of each block


@dataclass(frozen=True, eq=False)
class _Share:
    """What a block of trials adds."""

    loss: float
    right: float
    weight: Array
    bias: Array


class CompiledPass:
    """A pass (`kpref.training.plain_pass.Pass`) of a network that `can_compile`.

    Threads that share one take turns, as its memory is written at each step. A copy, or what comes out of a pickle,
    has memory of its own.
    """

    def __init__(self, model: StepModel, loss: str, at: str, activity: float, dtype: npt.DTypeLike) -> None:
        self.loss, self.at, self.activity = loss, at, activity
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._model = model
        self._compiled = self._network(model)
        # Which may follow from parameters.
        self._has_numbers = bool(self._compiled.constants) or self._compiled.net.constants.size > 0
        self._products = [op.name for op in model.program.operations if op.kind == "product"]
        entries, self._summed = model.entries(), model.weights()
        self._places = None if self._has_numbers else _places(entries, self._summed)
        self._rooms: dict[tuple[int, int], _Room] = {}
        self._entered: tuple[_Room, Scored] | None = None  # whose drive stands where
        self._turn = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # Views of one array would come out as arrays of their own, and what is written to one be missing in the other.
        return CompiledPass, (self._model, self.loss, self.at, self.activity, self.dtype)

    def prepared(self, trials: Trials) -> Scored:
        """See `Pass`."""
        return scored(self._model, trials, self.loss, self.at, self.dtype)

    def evaluate(self, point: Point, batch: Scored, wanted: frozenset[str]) -> Evaluated:
        """See `Pass`.

        Raises
        ------
        ValueError
            If the trajectory or its linearisation overflows.
        """
        with self._turn:
            return self._evaluated(point, batch, wanted)

    def _evaluated(self, point: Point, batch: Scored, wanted: frozenset[str]) -> Evaluated:
        model = self._model  # what does not depend on the parameters
        room = self._room(model, batch)
        packing = self._enter(room, point, batch)
        weight = point.weight.astype(self.dtype, copy=False)
        bias = None if point.bias is None else point.bias.astype(self.dtype, copy=False)
        columns = model.observed if weight.shape[1] != model.n_states else slice(0, model.n_states)
        weights = batch.weights / batch.weights.sum()
        activity = self.activity / (float(batch.lengths.sum()) * (model.observed.stop - model.observed.start))
        shares: list[Any] = [None] * len(room.blocks)

        def task(index: int) -> None:
            block = room.blocks[index]
            known, sound = run(
                self._compiled.net, batch.drive, batch.lengths, room.trajectory, False, bool(wanted), room.aim,
                block.start, block.stop,
            )  # fmt: skip
            if not (known and sound):
                return
            shares[index] = self._score(room, block, batch, columns, weight, bias, weights, activity, model.observed)
            if wanted:
                changes = room.changes[index]
                changes.entries[...] = 0
                program_sweeps.sensitivity_transpose(
                    room.program,
                    room.errors,
                    changes,
                    block.start,
                    block.stop,
                    steps_per_chunk(room.blocks),
                    room.initial,
                )

        with np.errstate(all="ignore"):  # what is not finite shows in the loss
            room.run(task, len(room.blocks))
        if any(share is None for share in shares):
            raise ValueError("the trajectory overflows: a state or a coefficient of its linearisation is not finite")
        gradient = None
        if "model" in wanted:
            total = room.changes[0]
            for other in room.changes[1:]:
                np.add(total.entries, other.entries, out=total.entries)
            gradient = gradients(packing, total)[0]
        first, *others = shares
        return Evaluated(
            sum((share.loss for share in others), first.loss),
            sum((share.right for share in others), first.right) if self.loss == "cross_entropy" else None,
            gradient,
            sum((share.weight for share in others), first.weight),
            sum((share.bias for share in others), first.bias),
            room.initial[0].sum(axis=0) if "z0" in wanted else np.zeros(model.n_states, self.dtype),
        )

    def _score(
        self,
        room: _Room,
        block: slice,
        batch: Scored,
        columns: slice,
        readout: Array,
        bias: Array | None,
        weights: Array,
        activity: float,
        observed: slice,
    ) -> _Share:
        """The loss of a block of trials, its share of the gradient by the readout; mu Err goes to the room."""
        scored, states = batch.steps, room.trajectory[1:, block]
        seen, mine, wanted = states[scored, :, columns], weights[scored, block], batch.wanted[scored, block]
        outputs = np.matmul(seen, readout.T)
        if bias is not None:
            outputs += bias
        points, slopes = pointwise_loss(self.loss, outputs, wanted)
        slopes *= mine[:, :, None].astype(self.dtype)
        loss, right = float((mine * points).sum()), 0.0
        if self.loss == "cross_entropy":
            right = float((mine * (outputs.argmax(axis=2) == wanted)).sum())
        errors = room.errors[0, block]
        if activity:
            errors[...] = 0
        np.matmul(np.ascontiguousarray(slopes.swapaxes(0, 1)), readout, out=errors[:, scored, columns])
        if activity:
            own = states[:, :, observed]
            loss += 0.5 * activity * float(np.square(own, dtype=np.float64).sum())
            errors[:, :, observed] += self.dtype.type(activity) * own.swapaxes(0, 1)
        weight = np.matmul(slopes.swapaxes(1, 2), seen).sum(axis=0)
        return _Share(loss, right, weight, slopes.sum(axis=(0, 1)))

    def _network(self, model: StepModel) -> CompiledNetwork:
        compiled = compiled_network(model, self.dtype)
        assert compiled is not None
        return compiled

    def _sums(self, places: list[tuple[Entry, Array, bool]], parameters: Mapping[str, Array]) -> Mapping[str, Array]:
        """The weights that are sums of parameters, in the memory of the step before."""
        for entry, out, replaces in places:
            array = parameters[entry.parameter]
            part = array.reshape(len(array), -1)[entry.part]
            part = part.T if entry.transposed else part
            if entry.factor != 1.0:
                part = part * entry.factor
            if replaces:
                out[...] = part
            else:
                out += part
        return self._summed

    def _room(self, model: StepModel, batch: Scored) -> _Room:
        steps, trials, _ = batch.drive.shape
        if (steps, trials) not in self._rooms:
            if len(self._rooms) == _MOST_ROOMS:
                self._rooms.pop(next(iter(self._rooms)))
            self._rooms[steps, trials] = self._made(model, steps, trials)
        return self._rooms[steps, trials]

    def _made(self, model: StepModel, steps: int, trials: int) -> _Room:
        form = empty_step_form(model, (steps, trials), self.dtype, self._compiled.constants)
        units = model.n_states
        trajectory = aligned_zeros((steps + 1, trials, units), self.dtype)
        if form.states.shape[2]:
            form = replace(form, states=trajectory[:-1])
        blocks = trial_blocks(form)
        packing = packing_of(form)
        return _Room(
            form, CompiledProgram(form), target(form, self._compiled.channels, self._compiled.computed), trajectory,
            aligned_zeros((1, trials, steps, units), self.dtype), aligned_zeros((1, trials, units), self.dtype),
            blocks, [zero_changes(packing, 1) for _ in blocks],
            _way_to_run(steps * trials * sum(weight.size for weight in form.weights.values())),
        )  # fmt: skip

    def _enter(self, room: _Room, point: Point, batch: Scored) -> Packing:
        """Write parameters, initial states and inputs where the kernels read them."""
        room.trajectory[0] = point.z0
        if self._places is not None:
            model, weights = self._model, self._sums(self._places, point.parameters)
        else:
            made = point.network().model
            assert isinstance(made, StepModel)
            model, weights = made, made.weights()
        if self._has_numbers:
            self._compiled = self._network(model)
            units = {name: weight[0] for name, weight in weights.items() if name not in self._products}
            for name, value in {**self._compiled.constants, **units}.items():
                room.form.channel(name)[...] = value
        else:
            fill_weights(self._compiled.net.weights, [weights[name].T for name in self._products])
        room.program.enter_transposes([weights[name] for name in room.form.weights])
        if self._entered is None or self._entered[0] is not room or self._entered[1] is not batch:
            self._entered, column = None, 0  # neither of the two stands there if this is interrupted
            for name, drive in model.drives(np.zeros((1, 1, model.n_inputs))).items():
                width = drive.shape[2]
                if name in room.form.known:  # compiled code writes channels
                    room.form.variable(name)[...] = batch.drive[:, :, column : column + width]
                column += width
            room.errors[...] = 0  # where this batch is not scored
            self._entered = room, batch
        if self._places is not None:
            return room.program.packing
        entries = [entry for entry in model.entries() if entry.parameter in room.form.shapes]
        return packing_of(replace(room.form, entries=tuple(entries)))  # signs of units, and gates, follow parameters
