import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import DOP853, RK23, RK45

from kpref.integrate import TABLEAUS, Tableau, get_tableau

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def rk4_with(**changes):
    return dataclasses.replace(TABLEAUS["rk4"], **changes)


def with_entry(values, index, value):
    changed = np.array(values)
    changed[index] = value
    return changed


def test_names_and_orders():
    assert {name: tableau.order for name, tableau in TABLEAUS.items()} == {
        "euler": 1, "midpoint": 2, "heun": 2, "ralston": 2, "ssprk3": 3, "bosh3": 3, "rk4": 4, "rk38": 4,
        "dopri5": 5, "tsit5": 5, "dop853": 8,
    }  # fmt: skip
    assert [TABLEAUS[name].stages for name in ("bosh3", "dopri5", "tsit5", "dop853")] == [3, 6, 6, 12]
    assert [TABLEAUS[name].fsal for name in ("rk4", "bosh3", "dopri5", "tsit5", "dop853")] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert all(tableau.source for tableau in TABLEAUS.values())


def test_coefficients_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        TABLEAUS["rk4"].a[1, 0] = 0.0


def test_get_tableau():
    assert get_tableau("rk4") is TABLEAUS["rk4"]
    assert get_tableau(TABLEAUS["heun"]) is TABLEAUS["heun"]
    with pytest.raises(ValueError, match="unknown method 'rk5', expected one of euler, midpoint"):
        get_tableau("rk5")
    with pytest.raises(TypeError, match="got int"):
        get_tableau(4)


def test_a_tableau_of_ones_own():
    euler = Tableau("mine", a=[[0.0]], b=[1.0], c=[0.0], order=1, source="the test")
    assert euler.dense_order == 1
    np.testing.assert_array_equal(euler.a_dense, [[0.0, 0.0], [1.0, 0.0]])


def test_implicit_is_refused_naming_the_entry():
    with pytest.raises(ValueError, match=r"implicit: a\[1, 2\] = 0.25 is on or above the diagonal"):
        rk4_with(a=with_entry(TABLEAUS["rk4"].a, (1, 2), 0.25))
    with pytest.raises(ValueError, match=r"implicit: a\[0, 0\] = 1.0"):
        Tableau("backward_euler", a=[[1.0]], b=[1.0], c=[1.0], order=1, source="the test")


def test_inconsistent_nodes_are_refused_with_both_values():
    with pytest.raises(ValueError, match=r"c\[2\] = 0.6 but the row sum of a is 0.5"):
        rk4_with(c=[0.0, 0.5, 0.6, 1.0])


def test_weights_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match=r"order 4: the condition of the tree t gives 1\.\d+ in place of 1.0"):
        rk4_with(b=[1 / 6, 1 / 3, 1 / 3, 1 / 6 + 1e-12])


def test_a_claimed_order_is_refused_naming_the_tree():
    with pytest.raises(ValueError, match=r"order 3: the condition of the tree \[\[t\]\] gives 0.0 in place of 0.1666"):
        dataclasses.replace(TABLEAUS["heun"], order=3)
    # At order 2 these weights see nothing of the rows of a, which first enter with the tree of height 2.
    with pytest.raises(
        ValueError, match=r"order 4: the condition of the tree \[\[t\]\] gives 0.125 in place of 0.1666"
    ):
        rk4_with(a=[[0, 0, 0, 0], [0.5, 0, 0, 0], [0.25, 0.25, 0, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize("stage", range(6))
def test_one_wrong_digit_is_noticed(stage):
    weights = TABLEAUS["dopri5"].b
    with pytest.raises(ValueError, match="inconsistent"):
        dataclasses.replace(TABLEAUS["dopri5"], b=with_entry(weights, stage, weights[stage] + 1e-13))


def test_wrong_error_weights_and_dense_output_are_refused():
    tableau = TABLEAUS["dopri5"]
    with pytest.raises(ValueError, match="error weights of order 4"):
        dataclasses.replace(tableau, b_error=with_entry(tableau.b_error, 2, 0.0))
    with pytest.raises(ValueError, match="dense output of order 4 at theta"):
        dataclasses.replace(tableau, dense_correction=with_entry(tableau.dense_correction, (2, 0), 2.6))
    with pytest.raises(ValueError, match="belong together"):
        dataclasses.replace(tableau, error_order=None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"b": [[1.0]]}, "b must be a vector"),
        ({"c": [0.0, 1.0]}, r"a must have shape \(4, 4\) and c shape \(4,\); a has \(4, 4\), c has \(2,\)"),
        ({"b_error": [0.0, 0.0], "error_order": 1}, "b_error must have shape"),
        ({"a_extra": [[0.1]]}, "a_extra must have shape"),
        ({"c_extra": [0.1]}, "c_extra must have shape"),
        ({"dense_correction": [[0.1]]}, "dense_correction must have 5 rows"),
    ],
)
def test_wrong_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rk4_with(**changes)


@pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=lambda tableau: tableau.name)
def test_interpolants_meet_value_and_slope_at_both_ends(tableau):
    s = tableau.stages
    at_start, at_end = tableau.dense_weights([0.0, 1.0])
    assert not at_start.any()
    np.testing.assert_array_equal(at_end[:s], tableau.b)
    assert not at_end[s:].any()
    # Central differences of polynomials of degree at most 7 with coefficients below 1e3: their error is about
    # 1e3 eps / d + 1e3 d^2, below 3e-7 at d = 1e-5.
    d = 1e-5
    slopes = (tableau.dense_weights([d, 1.0 + d]) - tableau.dense_weights([-d, 1.0 - d])) / (2.0 * d)
    expected = np.eye(len(tableau.c_dense))[[0, s]]
    np.testing.assert_allclose(slopes, expected, rtol=0.0, atol=3e-7)


@pytest.mark.parametrize("name, solver", [("bosh3", RK23), ("dopri5", RK45), ("dop853", DOP853)])
def test_same_numbers_as_scipy(name, solver):
    tableau = TABLEAUS[name]
    np.testing.assert_array_equal(tableau.b, solver.B)
    np.testing.assert_array_equal(tableau.c, solver.C)
    np.testing.assert_array_equal(tableau.a[:, : solver.A.shape[1]], solver.A)
    if name == "dop853":
        np.testing.assert_array_equal(tableau.b_error, solver.E5[:12])
        np.testing.assert_array_equal(tableau.b_error_low, solver.E3[:12])
        np.testing.assert_array_equal(tableau.a_dense[13:], solver.A_EXTRA)
        np.testing.assert_array_equal(tableau.c_dense[13:], solver.C_EXTRA)
        return
    np.testing.assert_array_equal(tableau.b_error, -solver.E)  # SciPy's is b_hat - b
    theta = np.linspace(0.0, 1.0, 5)
    expected = theta[:, None] ** np.arange(1, solver.P.shape[1] + 1) @ solver.P.T
    # The same polynomials by powers of theta: four terms of at most 13, each with a few roundings.
    np.testing.assert_allclose(tableau.dense_weights(theta), expected, rtol=0.0, atol=64 * np.finfo(float).eps)


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "ralston", "bosh3", "rk4", "rk38", "dopri5"])
def test_golden_tableaus(name):
    with np.load(GOLDEN / f"rk_{name}.npz") as data:
        np.testing.assert_array_equal(TABLEAUS[name].b, data["tableau_b"])
        np.testing.assert_array_equal(TABLEAUS[name].c, data["tableau_c"])
