"""The derivative of a step written out: of the new state by the old one, and by the currents that trained arrays enter.

A program is run forwards on derivatives in place of values. A register's derivative is a sum of blocks, each on some of
its rows and some of the columns that are differentiated by, and each *diagonal* or *dense*. What is differentiated by
starts as one diagonal block of ones; a scale multiplies the rows of a block, so that a diagonal one stays diagonal; a
product makes dense ones, ``diag(values) matrix diag(right)`` with the weight itself as the matrix, kept as these three:
nothing but vectors is computed before the blocks are written out in the end. Only a product with a dense block is one
of matrices. Registers that nothing has reached have no blocks, and cost nothing.

Coefficients may have any leading axes: (B, width) at one row of a trajectory, or (R or 1, B or 1, width) along all of
it, where only the diagonal blocks are of use and dense ones are marked without their numbers (`new_state_blocks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.linearize import DenseForm, Form, written_out
from kpref.product_form import ProductForm
from kpref.program import Operation, View
from kpref.step_form import StepForm

__all__ = ["Block", "new_state_blocks", "state_jacobian", "written_at"]


class Block(NamedTuple):
    """Part of the derivative of a register."""

    row: int  # the first
    column: int  # the first
    rows: int  # how many
    columns: int  # how many
    diagonal: bool
    values: Array | None = None  # (..., rows): a diagonal block, or what multiplies the rows of `matrix`; or ones
    # Of a dense block only; (rows, columns) or one for each trial, None for numbers that were not asked for
    matrix: Array | None = None
    right: Array | None = None  # (..., columns): what multiplies its columns, or ones

    @property
    def place(self) -> tuple[int, ...]:
        """Where it is, and of which kind: what of two blocks is the same there can be added."""
        return self.row, self.column, self.rows, self.columns, self.diagonal


def state_jacobian(form: Form, row: int, trials: slice | npt.NDArray[np.intp]) -> Array:
    """A of one row and some trials, (trials, H, H), in float64.

    Parameters
    ----------
    form : StepForm, DenseForm or ProductForm
    row : int
    trials : slice or ndarray of int

    Notes
    -----
    For a network, as many flops a trial as its dense weights have entries, and ``2 H`` times as many for a product
    behind another one, as between the layers of a stack.
    """
    if isinstance(form, ProductForm):
        form = written_out(form)
    if isinstance(form, DenseForm):
        return form.state_jacobian[row, trials].astype(np.float64)

    seeds, column = {}, 0
    for view in form.program.old:
        seeds[view.register] = [Block(0, column, view.width, view.width, True)]
        column += view.width
    return written_at(form, row, trials, seeds, column)


def written_at(
    form: StepForm, row: int, trials: slice | npt.NDArray[np.intp], seeds: Mapping[int, list[Block]], width: int
) -> Array:
    """Derivative of the new state of one row and some trials by all that `seeds` stand for, (trials, H, width)."""

    def channel(name: str) -> Array:
        values = form.channel(name)
        values = values[row if len(values) > 1 else 0]
        return (values[trials] if len(values) > 1 else values).astype(np.float64, copy=False)

    matrices = np.zeros((len(np.arange(form.n_trials)[trials]), form.n_states, width))
    for block in new_state_blocks(form, channel, seeds):
        _write(block, matrices)
    return matrices


def _write(block: Block, matrices: Array) -> None:
    """Onto matrices (B, rows, columns)."""
    part = matrices[:, block.row : block.row + block.rows, block.column : block.column + block.columns]
    if block.diagonal:
        np.einsum("...ii->...i", part)[...] += 1.0 if block.values is None else block.values
    elif block.matrix is not None and block.matrix.ndim == 2:
        from kpref.kernels.scaled_sums import add_scaled  # here: a flow that is only made does not load a compiler

        add_scaled(matrices, block.row, block.column, block.values, block.matrix, block.right)
    elif block.matrix is not None:
        scaled = block.matrix if block.values is None else block.values[..., None] * block.matrix
        part += scaled if block.right is None else scaled * block.right[..., None, :]


def new_state_blocks(
    form: StepForm, channel: Callable[[str], Array], seeds: Mapping[int, list[Block]], dense: bool = True
) -> list[Block]:
    """Derivative of the new state by whatever the given blocks of registers stand for.

    `channel`: coefficients (..., width) of the channel, or unit weight, of a name. `seeds`: derivatives that registers
    start with. `dense`: whether the numbers of dense blocks are wanted.
    """
    program = form.program
    registers: list[list[Block]] = [list(seeds.get(register, ())) for register in range(len(program.widths))]
    for op in program.operations:
        if op.source is None:
            continue
        source = list(_within(registers[op.source.register], op.source))
        if op.kind in ("scale", "unit"):
            new = [_scaled(block, channel(op.name)) for block in source]
        else:
            matrix = _matrix(form, op) if dense else None
            new = [_multiplied(block, matrix, op.out.width) for block in _collected(source)]
        for block in new:
            _add(registers[op.out.register], block._replace(row=block.row + op.out.start))
    found, first = [], 0
    for view in program.new:
        found += [block._replace(row=block.row + first) for block in registers[view.register]]
        first += view.width
    return found


def _within(blocks: list[Block], view: View) -> Iterator[Block]:
    """What blocks have in the rows of a view, rows counted from its first."""
    for block in blocks:
        first, last = max(block.row, view.start), min(block.row + block.rows, view.start + view.width)
        if first >= last:
            continue
        skip, rows = first - block.row, last - first
        own = block if block.values is None else block._replace(values=block.values[..., skip : skip + rows])
        own = own._replace(row=first - view.start, rows=rows)
        if block.diagonal:
            yield own._replace(column=block.column + skip, columns=rows)
        else:
            yield own if block.matrix is None else own._replace(matrix=block.matrix[..., skip : skip + rows, :])


def _scaled(block: Block, coefficient: Array) -> Block:
    if not block.diagonal and block.matrix is None:
        return block
    factor = coefficient[..., block.row : block.row + block.rows]
    return block._replace(values=factor if block.values is None else factor * block.values)


def _multiplied(block: Block, matrix: Array | None, rows: int) -> Block:
    """All rows of the product with a matrix (rows, rows of the view); None: without its numbers."""
    new = Block(0, block.column, rows, block.columns, False)
    if matrix is None:
        return new
    part = matrix[:, block.row : block.row + block.rows]
    if block.diagonal:
        return new._replace(matrix=part, right=block.values)
    assert block.matrix is not None
    scaled = part if block.values is None else part * block.values[..., None, :]
    return new._replace(matrix=scaled @ block.matrix, right=block.right)


def _collected(blocks: list[Block]) -> list[Block]:
    """The same with one dense block for each place: a product with each would be one of matrices."""
    places: dict[tuple[int, ...], list[Block]] = {}
    for block in blocks:
        places.setdefault(block.place, []).append(block)
    found = []
    for own in places.values():
        if len(own) == 1 or own[0].matrix is None:
            found += own
            continue
        arrays = [array for block in own for array in (block.values, block.right) if array is not None]
        arrays += [block.matrix[..., 0] for block in own if block.matrix is not None and block.matrix.ndim > 2]
        trials = max([len(array) for array in arrays if array.ndim > 1], default=1)
        total = np.zeros((trials, own[0].rows, own[0].columns))
        for block in own:
            _write(block._replace(row=0, column=0), total)
        found.append(own[0]._replace(values=None, matrix=total, right=None))
    return found


def _matrix(form: StepForm, op: Operation) -> Array:
    """What a product, gather or spread multiplies by."""
    assert op.source is not None
    if op.kind == "product":
        return form.weights[op.name].astype(np.float64, copy=False)
    wide, narrow = max(op.source.width, op.out.width), min(op.source.width, op.out.width)
    sums = np.repeat(np.eye(narrow), wide // narrow, axis=1)
    return sums if op.kind == "gather" else sums.T


def _add(blocks: list[Block], new: Block) -> None:
    """Append a block, unless its numbers can be added to those of a diagonal one, or are not asked for."""
    for index, old in enumerate(blocks):
        if old.place != new.place or new.matrix is not None:
            continue
        if old.diagonal:
            one, other = (np.ones(block.rows) if block.values is None else block.values for block in (old, new))
            blocks[index] = old._replace(values=one + other)
        return
    blocks.append(new)
