"""Programs that compiled code runs with values: small integers, of which every sum is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.kernels.network import run
from kpref.kernels.network_tables import CLEAR, DRIVEN, PRODUCT, network, no_target, written
from kpref.models import LRU
from kpref.models.step import Pointwise
from kpref.program import Builder


def states(net, drive, z0):
    """(T + 1, B, S), B being 5: more rows than are handled at once."""
    trajectory = np.zeros((len(drive) + 1, *z0.shape))
    trajectory[0] = z0
    known, sound = run(
        net, drive, np.full(len(z0), len(drive)), trajectory, False, False, no_target(), 0, len(z0)
    )  # fmt: skip
    assert known
    assert sound
    return trajectory


def integers(seed, *shape):
    return np.random.default_rng(seed).integers(-3, 4, size=shape).astype(float)


@given(st.integers(0, 10**6))
def test_inputs_scale_and_what_is_wide_is_summed_and_spread(seed):
    """Function and sum reach the same columns, some of which a product has been to before."""
    build = Builder()
    old, new = build.state(6)
    _, sums = build.state(4)
    seen, wide, spread = build.register(6), build.register(12), build.register(12)
    build.product(sums.part(0, 2), None, "bias", "one")  # the other two columns hold nothing yet
    build.scale(seen, old, "input")
    build.spread(wide, seen)
    build.gather(sums, wide)
    build.scale(new, seen, "factor")
    build.spread(spread, sums)
    build.scale(new, old, "varying")
    build.scale(new, spread.part(1, 6), "same")
    program, function = build.program(), Pointwise("multiplied", ("varying",), ("same",))
    drives = {"input": np.zeros((1, 3)), "one": np.zeros((1, 1))}
    factor, bias = integers(seed, 6), integers(seed + 1, 2, 1)
    net = network(program, [function], {"factor": factor}, {"bias": bias}, drives)
    assert CLEAR in net.operations[:, 0]
    assert written(program, [function], drives) == (["varying", "input"], [])
    z0, x = integers(seed + 2, 5, 10), integers(seed + 3, 1, 5, 3)
    found = states(net, np.concatenate([x, np.ones((1, 5, 1))], axis=2), z0)[1]
    old_values = z0[:, :6]
    expected_seen = np.tile(x[0], 2) * old_values
    expected_sums = np.repeat(expected_seen, 2, axis=1).reshape(5, 4, 3).sum(axis=2)
    expected_sums[:, :2] += bias[:, 0]
    wide_sums = np.repeat(expected_sums, 3, axis=1)[:, 6:]
    np.testing.assert_array_equal(found[:, 6:], expected_sums)
    np.testing.assert_array_equal(found[:, :6], factor * expected_seen + old_values * wide_sums)


@pytest.mark.parametrize("added", [False, True])
def test_products_of_zeros_leave_nothing_of_steps_before(added):
    """They are left out where all trials have zeros; not where one has a number, were it in the last row and column."""
    build = Builder()
    old, new = build.state(3)
    seen = build.register(3)
    build.scale(seen, old, "input")
    if added:
        build.product(new, None, "bias", "one")
    build.product(new, seen, "weight", "seen")
    weights = {"weight": integers(0, 3, 3) + 4, "bias": np.ones((3, 1))}
    drives = {"input": np.zeros((1, 1)), "one": np.zeros((1, 1))}
    program = build.program()
    net = network(program, [], {}, weights, drives)
    drive = np.ones((6, 5, 2))
    drive[2:4, :, 0] = 0
    drive[4, :4, 0] = 0
    z0 = np.zeros((5, 3))
    z0[-1, -1] = 1
    found = states(net, drive, z0)
    for step, x in enumerate(drive):
        expected = (x[:, :1] * found[step]) @ weights["weight"].T + added
        np.testing.assert_array_equal(found[step + 1], expected)


def test_what_only_changes_of_parameters_act_through_is_left_out():
    model = LRU.init(2, 3, 2, 0)
    z, x = np.zeros((1, 1, model.n_states)), np.zeros((1, 1, 2))
    constants = {name: value for name, value in model.numbers(z, x).channels.items() if value.ndim == 1}
    net = network(model.program, model.pointwise, constants, model.weights(), model.drives(x))
    rates = next(op.out.register for op in model.program.operations if op.name == "rates0")
    products = net.operations[net.operations[:, 0] <= DRIVEN]
    assert PRODUCT in products[:, 0]
    assert rates not in products[:, 1]


def test_operations_without_values_are_refused():
    build = Builder()
    old, new = build.state(2)
    build.scale(new, old, "kept")
    build.unit(new, None, "weight", "unknown")
    with pytest.raises(ValueError, match="no compiled code for values of the operation unit 'weight'"):
        network(build.program(), [], {"kept": np.ones(2)}, {"weight": np.ones((1, 2))}, {})
