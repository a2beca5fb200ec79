import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from kpref.integrate import TABLEAUS, order_condition_residuals
from kpref.integrate.order_conditions import density, order_conditions, rooted_trees, tree_order, tree_text

METHODS = list(TABLEAUS.values())
RATIONAL = ["euler", "midpoint", "heun", "ralston", "ssprk3", "bosh3", "rk4", "rk38", "dopri5"]

every_method = pytest.mark.parametrize("tableau", METHODS, ids=lambda tableau: tableau.name)


def largest(conditions):
    """Largest residual, in units of what rounding of the coefficients alone can explain."""
    return max(abs(condition.residual) / condition.rounding_bound for condition in conditions)


def test_trees_are_counted_as_by_cayley():
    # The number of rooted trees with n vertices: 1, 1, 2, 4, 9, 20, 48, 115 (Cayley 1857).
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    for n in range(1, 9):
        trees = rooted_trees(n)
        assert all(tree_order(tree) == n for tree in trees)
        assert len({tree_text(tree) for tree in trees}) == len(trees)


def test_densities_of_small_trees():
    values = {tree_text(tree): density(tree) for n in range(1, 5) for tree in rooted_trees(n)}
    assert values == {"t": 1, "[t]": 2, "[t^2]": 3, "[[t]]": 6, "[t^3]": 4, "[t [t]]": 8, "[[t^2]]": 12, "[[[t]]]": 24}


def symmetry(tree):
    """Number of automorphisms of a tree: for each set of m equal subtrees u, m! symmetry(u)^m."""
    return math.prod(math.factorial(m) * symmetry(subtree) ** m for subtree, m in Counter(tree).items())


def test_increasing_labellings_are_counted():
    # n! / (gamma(t) sigma(t)) is the number of ways to number the vertices upwards from the root (hook length formula).
    # A tree with n numbered vertices grows by attaching vertex n + 1 to any of n, so there are (n - 1)! of them in all.
    for n in range(1, 9):
        ways = [Fraction(math.factorial(n), density(tree) * symmetry(tree)) for tree in rooted_trees(n)]
        assert all(way.denominator == 1 for way in ways)
        assert sum(ways) == math.factorial(n - 1)


def test_no_tree_without_vertices():
    with pytest.raises(ValueError, match="at least 1 vertex"):
        rooted_trees(0)


@every_method
def test_order_is_reached_and_not_understated(tableau):
    assert largest(order_conditions(tableau.a, tableau.b, tableau.order)) <= 1.0
    # The smallest principal error coefficient among the methods, dop853's, is 2.7e-5.
    assert max(map(abs, order_condition_residuals(tableau, tableau.order + 1).values())) > 1e-5


@pytest.mark.parametrize("name", RATIONAL)
def test_rational_methods_are_exact(name):
    """Every coefficient is the double next to a fraction of small denominator; the fractions meet the conditions."""
    tableau = TABLEAUS[name]

    def fractions(values):
        exact = np.vectorize(lambda value: Fraction(value).limit_denominator(1_000_000), otypes=[object])(values)
        assert np.array_equal(exact.astype(float), values)
        return exact

    a, b = fractions(tableau.a), fractions(tableau.b)
    assert all(condition.residual == 0 for condition in order_conditions(a, b, tableau.order))
    assert np.array_equal(a.sum(axis=1), fractions(tableau.c))
    if tableau.b_error is not None:
        weights = fractions(tableau.b_error)
        full = fractions(tableau.a_dense)[: len(weights), : len(weights)]
        assert all(condition.residual == 0 for condition in order_conditions(full, weights, tableau.error_order, 0))


@pytest.mark.parametrize(
    "name, field, order",
    [("bosh3", "b_error", 2), ("dopri5", "b_error", 4), ("tsit5", "b_error", 4)]
    + [("dop853", "b_error", 5), ("dop853", "b_error_low", 3)],
)
def test_error_weights_vanish_to_exactly_their_order(name, field, order):
    tableau = TABLEAUS[name]
    weights = getattr(tableau, field)
    a = tableau.a_dense[: len(weights), : len(weights)]
    assert largest(order_conditions(a, weights, order, theta=0)) <= 1.0
    next_order = [c.residual for c in order_conditions(a, weights, order + 1, theta=0) if tree_order(c.tree) > order]
    assert max(map(abs, next_order)) > 1e-4


@every_method
def test_dense_output_has_its_order_everywhere(tableau):
    # The residuals are polynomials in theta of degree at most 7: zero at nine points is zero everywhere.
    for theta in np.linspace(0.06, 1.0, 9):
        weights = tableau.dense_weights(theta)
        assert largest(order_conditions(tableau.a_dense, weights, tableau.dense_order, theta)) <= 1.0
    if tableau.dense_order < tableau.order:
        weights = tableau.dense_weights(0.3)
        next_order = order_conditions(tableau.a_dense, weights, tableau.dense_order + 1, 0.3)
        assert max(abs(condition.residual) for condition in next_order) > 1e-6
