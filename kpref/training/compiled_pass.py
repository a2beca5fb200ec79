"""Loss and gradient of compiled networks in discrete time: each block of trials forward, through the loss, and back.

The forward pass writes the coefficients of the linearisation on its way (`kpref.kernels.network`), and one sweep
backwards applies D^T and ends with dL/dz0 (`kpref.kernels.program_sweeps`), all in the precision of the training. A
block of trials does all of it in one thread and meets the others only in the sum of gradients. Memory is allotted once
for each shape of a batch, and the form, its lowered program and its panels with it: a step writes new numbers into
them. What comes after the end of a trial has weight zero, and so a costate of zero: nothing of it reaches a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.forward import CompiledNetwork, compiled_network
from kpref.kernels import program_sweeps, steps_per_chunk, trial_blocks
from kpref.kernels.changes import Changes, Packing, gradients, packing_of, zero_changes
from kpref.kernels.interpreter import CompiledProgram
from kpref.kernels.network import Target, run, target
from kpref.kernels.panels import aligned_zeros, fill_weights
from kpref.linearize import empty_step_form
from kpref.loss import pointwise_loss
from kpref.models.base import Map, Model
from kpref.models.step import StepModel
from kpref.step_form import StepForm
from kpref.threads import run_blocks
from kpref.training.plain_pass import Evaluated, Network
from kpref.training.scores import Scored, scored
from kpref.trials import Trials

__all__ = ["CompiledPass", "can_compile"]

#: The most shapes of batches whose memory is kept.
_MOST_ROOMS = 4
#: Multiply-adds of a forward pass below which one thread is faster than several: some milliseconds.
_SMALL = 20_000_000


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
    small: bool  # it would be over before other threads had taken part of it


@dataclass(frozen=True, eq=False)
class _Share:
    """What a block of trials adds."""

    loss: float
    right: float
    weight: Array
    bias: Array


class CompiledPass:
    """A pass (`kpref.training.plain_pass.Pass`) of a network that `can_compile`."""

    def __init__(self, model: StepModel, loss: str, at: str, activity: float, dtype: npt.DTypeLike) -> None:
        self.loss, self.at, self.activity = loss, at, activity
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._model = model
        self._compiled = self._network(model)
        self._has_numbers = self._compiled.net.constants.size > 0  # which may follow from parameters
        self._products = [op.name for op in model.program.operations if op.kind == "product"]
        entries, self._summed = model.entries(), model.weights()
        is_sum = not self._has_numbers and all(np.ndim(entry.factor) == 0 for entry in entries)
        self._entries = entries if is_sum else ()
        self._rooms: dict[tuple[int, int], _Room] = {}
        self._entered: tuple[_Room, Scored] | None = None  # whose drive stands where

    def prepared(self, trials: Trials) -> Scored:
        """See `Pass`."""
        return scored(self._model, trials, self.loss, self.at, self.dtype)

    def evaluate(self, network: Network, batch: Scored, wanted: frozenset[str]) -> Evaluated:
        """See `Pass`.

        Raises
        ------
        ValueError
            If the trajectory or its linearisation overflows.
        """
        model, readout = network.model, network.readout
        assert isinstance(model, StepModel)
        room = self._room(model, batch)
        packing = self._enter(room, model, batch, network.z0)
        weight, bias = readout.weight.astype(self.dtype), None
        if readout.bias is not None:
            bias = readout.bias.astype(self.dtype)
        columns = model.observed if readout.n_states != model.n_states else slice(0, model.n_states)
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
            run_blocks(task, len(room.blocks), here=room.small)
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

    def _weights(self, model: StepModel) -> Mapping[str, Array]:
        """Those of the model; where they are sums of its parameters, in the memory of the step before."""
        if not self._entries:
            return model.weights()
        for weight in self._summed.values():
            weight[...] = 0
        for entry in self._entries:
            array = model.parameters[entry.parameter]
            part = array.reshape(len(array), -1)[entry.part] * entry.factor
            self._summed[entry.weight][entry.rows, entry.columns] += part.T if entry.transposed else part
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
            form, CompiledProgram(form), target(form, self._compiled.functions), trajectory,
            aligned_zeros((1, trials, steps, units), self.dtype), aligned_zeros((1, trials, units), self.dtype),
            blocks, [zero_changes(packing, 1) for _ in blocks],
            steps * trials * sum(weight.size for weight in form.weights.values()) < _SMALL,
        )  # fmt: skip

    def _enter(self, room: _Room, model: StepModel, batch: Scored, z0: Array) -> Packing:
        """Write parameters, initial states and inputs where the kernels read them."""
        room.trajectory[0] = z0
        weights = self._weights(model)
        if self._has_numbers:
            self._compiled = self._network(model)
            units = {name: weight[0] for name, weight in weights.items() if name not in self._products}
            for name, value in {**self._compiled.constants, **units}.items():
                room.form.channel(name)[...] = value
        else:
            fill_weights(self._compiled.net.weights, [weights[name].T for name in self._products])
        room.program.enter_weights([weights[name] for name in room.form.weights])
        if self._entered is None or self._entered[0] is not room or self._entered[1] is not batch:
            column = 0
            for name, drive in model.drives(np.zeros((1, 1, model.n_inputs))).items():
                width = drive.shape[2]
                room.form.variable(name)[...] = batch.drive[:, :, column : column + width]
                column += width
            room.errors[...] = 0  # where this batch is not scored
            self._entered = room, batch
        if self._entries:
            return room.program.packing
        entries = [entry for entry in model.entries() if entry.parameter in room.form.shapes]
        return packing_of(replace(room.form, entries=tuple(entries)))  # signs of units, and gates, follow parameters
