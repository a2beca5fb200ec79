"""Order conditions of Runge-Kutta methods by rooted trees.

A Runge-Kutta method has order p exactly when, for every rooted tree t with at most p vertices,

    Phi(t) = sum_i b_i phi_i(t) = 1 / gamma(t),
    phi_i(t) = prod of sum_j a_ij phi_j(u) over the subtrees u at the root of t,

with the density gamma(t) = (number of vertices of t) * prod of gamma(u). The single vertex has phi_i = 1 and gamma
= 1. The same elementary weights judge other combinations of stages: an error estimate that vanishes to order q has
`sum_i e_i phi_i(t) = 0` for all trees of at most q vertices, and an interpolant with weights w_i(theta) has order q
when `sum_i w_i(theta) phi_i(t) = theta^{|t|} / gamma(t)`.

Everything here is duck-typed arithmetic on arrays, so `fractions.Fraction` in object arrays gives exact answers.

References
----------
Butcher, *Coefficients for the study of Runge-Kutta integration processes*, J. Austral. Math. Soc. 3 (1963).
Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, section II.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

__all__ = [
    "OrderCondition",
    "RootedTree",
    "density",
    "order_conditions",
    "rooted_trees",
    "tree_order",
    "tree_text",
]

RootedTree: TypeAlias = tuple[Any, ...]
"""A rooted tree: the sorted tuple of the subtrees hanging at its root; `()` is a single vertex."""


class OrderCondition(NamedTuple):
    """One order condition, evaluated."""

    tree: RootedTree  # the tree that the condition belongs to
    value: Any  # what the weights give, `sum_i w_i phi_i(tree)`
    expected: Any  # what they must give
    # `sum_i |w_i| phi_i(tree; |a|)`: the size of the terms before cancellation, to which rounding is proportional
    scale: Any

    @property
    def residual(self) -> Any:
        """Value minus expected."""
        return self.value - self.expected

    @property
    def rounding_bound(self) -> float:
        """The largest residual that rounded coefficients alone can explain (worst case, float64).

        A tree of n vertices multiplies n coefficients, each rounded once, and sums n times over stages. Pairing
        every one of the n factors with its rounding and with the rounding of one product and of one sum of at most
        16 terms perturbs each term by a factor within (1 + eps/2)^(18 n), hence the sum by at most about 9 n eps
        times `scale`.
        """
        return 9.0 * tree_order(self.tree) * float(np.finfo(np.float64).eps) * float(self.scale)


@cache
def rooted_trees(order: int) -> tuple[RootedTree, ...]:
    """All rooted trees with exactly `order` vertices (1, 1, 2, 4, 9, 20, 48, 115, ... of them).

    `order`: number of vertices, at least 1.
    Returns every tree once, in a fixed order, as the sorted tuple of its root's subtrees.
    Raises ValueError if `order` is less than 1.
    """
    if order < 1:
        raise ValueError(f"a rooted tree has at least 1 vertex, got order={order}")
    return tuple(_forests(order - 1, order - 1))


def _forests(vertices: int, largest: int) -> Iterator[RootedTree]:
    """Multisets of trees with `vertices` vertices in all, none with more than `largest`, as sorted tuples."""
    if vertices == 0:
        yield ()
        return
    for size in range(min(vertices, largest), 0, -1):
        trees = rooted_trees(size)
        for count in range(vertices // size, 0, -1):
            for rest in _forests(vertices - count * size, size - 1):
                for chosen in _multisets(trees, count):
                    yield chosen + rest


def _multisets(trees: tuple[RootedTree, ...], count: int) -> Iterator[RootedTree]:
    """Non-decreasing selections (by position) of `count` trees, repetition allowed."""
    if count == 0:
        yield ()
        return
    for position, tree in enumerate(trees):
        for rest in _multisets(trees[position:], count - 1):
            yield (tree, *rest)


@cache
def tree_order(tree: RootedTree) -> int:
    """Number of vertices of a rooted tree."""
    return 1 + sum(tree_order(subtree) for subtree in tree)


@cache
def density(tree: RootedTree) -> int:
    """The density gamma(t): the number of vertices times the densities of the root's subtrees."""
    result = tree_order(tree)
    for subtree in tree:
        result *= density(subtree)
    return result


def tree_text(tree: RootedTree) -> str:
    """A tree in Butcher's bracket notation, with `t` for a single vertex: `[t^2 [t]]`."""
    if not tree:
        return "t"
    parts = []
    for subtree, count in sorted(Counter(tree).items(), key=lambda item: (tree_order(item[0]), str(item[0]))):
        parts.append(tree_text(subtree) + (f"^{count}" if count > 1 else ""))
    return "[" + " ".join(parts) + "]"


def _stage_weights(tree: RootedTree, a: np.ndarray, memory: dict[RootedTree, np.ndarray]) -> np.ndarray:
    """The vector phi_i(tree), shape (s,), remembering those of the subtrees."""
    if tree not in memory:
        weights = np.ones(len(a), dtype=a.dtype)
        for subtree in tree:
            weights = weights * a.dot(_stage_weights(subtree, a, memory))
        memory[tree] = weights
    return memory[tree]


def order_conditions(a: np.ndarray, weights: np.ndarray, order: int, theta: Any = 1) -> list[OrderCondition]:
    """Evaluate the order conditions of any weights over the stages of a matrix `a`.

    `a`: shape (s, s); Runge-Kutta matrix; floats, or Fractions in an object array.
    `weights`: shape (s,); weights of the stages: b, an embedded b, or those of an interpolant at `theta`.
    `order`: conditions of all trees with at most this many vertices.
    `theta`: the fraction of the step at which the weights are meant to give the solution. With 0, the conditions read
    `sum_i w_i phi_i(t) = 0`: those of an error estimate.
    """
    memory: dict[RootedTree, np.ndarray] = {}
    magnitudes: dict[RootedTree, np.ndarray] = {}
    conditions = []
    for vertices in range(1, order + 1):
        for tree in rooted_trees(vertices):
            value = weights.dot(_stage_weights(tree, a, memory))
            scale = abs(weights).dot(_stage_weights(tree, abs(a), magnitudes))
            conditions.append(OrderCondition(tree, value, theta**vertices / _like(value, density(tree)), scale))
    return conditions


def _like(value: Any, number: int) -> Any:
    """`number` in the arithmetic of `value`, so that dividing by it stays exact for Fractions."""
    return number * type(value)(1)
