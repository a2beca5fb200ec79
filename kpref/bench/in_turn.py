"""What products of a column of ``kpref bench`` take in the shapes that kpref makes, and then its bytes: *in turn*.

The floor is the longer of two times, of products at the rate of large square matrices and of bytes. But each step needs
the state before it: products have the rows of a block of trials, and the coefficients are read between them. So here
the two come one after the other, and products are timed in the shapes in which they are made, with weights in panels,
by as many threads as kpref has. It is no bound: products that ask for the bytes while they multiply take less, and
functions of units, which a run of the network evaluates beside its products, are not in it.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from kpref.bench.workload import Problem, count_bytes
from kpref.compiled.compilation import kernel
from kpref.kernels import trial_blocks
from kpref.kernels.blas import add_transposed_product_at, product_at, row_length
from kpref.kernels.interpreter import rows_of_j
from kpref.kernels.panels import as_panels
from kpref.threads import run_blocks

__all__ = ["Product", "measure_in_turn", "products_of"]

#: Seconds that products of one shape are timed for, and multiplications a second that they are expected to make.
TIMED, EXPECTED = 0.01, 2e10


class Product(NamedTuple):
    """A product ``a @ w`` of some rows with a weight, or the gradient ``w += a^T b`` over them."""

    rows: int
    inner: int
    columns: int
    is_gradient: bool = False


def products_of(problem: Problem) -> dict[str, list[Product]]:
    """Products of each column, one for each weight; each is made for all evaluations of the network."""
    model, (trials, steps, states) = problem.make_model(), problem.shape
    program, weights = model.program, model.weights()  # type: ignore[attr-defined]
    sizes: Any = SimpleNamespace(n_trials=trials, n_steps=steps, n_states=states)
    block = trial_blocks(sizes)[0]
    rows = block.stop - block.start
    own = [op for op in program.operations if op.kind == "product"]

    def through(found: list[Any], rows: int, backwards: bool) -> list[Product]:
        pairs = [(op.source.width, op.out.width) for op in found if op.kind == "product"]
        return [Product(rows, *(pair[::-1] if backwards else pair)) for pair in pairs]

    read, behind = program.reached(True, False), program.reached(False, True)
    changed = [(weights[op.name].shape[1], op.out.width) for op in own if op.variable is not None]
    forward = [Product(rows, weights[op.name].shape[1], op.out.width) for op in own]
    tangent, adjoint = through(read, rows, False), through(read, rows, True)
    alone = rows_of_j(sum(program.widths) * np.dtype(problem.dtype).itemsize)
    image = [Product(alone, *pair) for pair in changed] + through(behind, alone, False)
    gradient = [Product(alone, *pair, True) for pair in changed] + through(behind, alone, True)
    found = {
        "forward": forward, "build": forward, "P": tangent, "P^T": adjoint, "K": gradient + image,
        "NTK": adjoint + gradient + image + tangent, "gradient": forward + adjoint + gradient,
    }  # fmt: skip
    return {column: found[column] for column in problem.columns}


def measure_in_turn(problem: Problem, column: str, bandwidth: float, threads: int) -> float:
    """Seconds that the products of a column take at their own shapes, and then its bytes at a measured bandwidth."""
    stages = 1 if problem.tableau is None else problem.tableau.stages
    evaluations = problem.trials * problem.steps * stages
    seconds = sum(_seconds_of_a_row(product, problem.dtype, threads) for product in products_of(problem)[column])
    return evaluations * seconds + count_bytes(problem)[column] / bandwidth


def _seconds_of_a_row(product: Product, dtype: str, threads: int) -> float:
    rows, inner, columns, is_gradient = product
    times = max(1, int(TIMED * EXPECTED / (rows * inner * columns)))
    one, operands = np.dtype(dtype).type(1), []
    for thread in range(threads):
        generator = np.random.default_rng(thread)
        # Rows as far from each other as those of registers are.
        leads = [row_length.py_func(width, max(inner, columns), one.itemsize) for width in (inner, columns)]
        a, b = (generator.normal(size=(rows, lead)).astype(dtype) for lead in leads)
        operands.append((a, b, as_panels(generator.normal(size=(inner, columns)).astype(dtype))))

    def task(thread: int) -> None:
        a, b, panels = operands[thread]
        at = a.ctypes.data, a.shape[1], b.ctypes.data, b.shape[1]
        _repeat(one, times, is_gradient, rows, *at, panels.words)

    run_blocks(task, threads)  # compiled, and the threads awake
    start = time.perf_counter()
    run_blocks(task, threads)
    return (time.perf_counter() - start) / (threads * times * rows)


@kernel
def _repeat(one, times, is_gradient, rows, a, lda, b, ldb, weight):  # type: ignore[no-untyped-def]
    for _ in range(times):
        if is_gradient:
            add_transposed_product_at(one, rows, a, lda, b, ldb, weight, 0)
        else:
            product_at(one, False, rows, a, lda, weight, b, ldb, 0)
