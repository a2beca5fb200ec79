"""States and dense operators against ground truth by JAX's automatic differentiation, made independently of kpref."""

from pathlib import Path

import numpy as np
import pytest

from kpref import Flow
from kpref.models import Rate

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
METHODS = ("euler", "midpoint", "heun", "ralston", "bosh3", "rk4", "rk38", "dopri5")
# 1e-13 of the largest entry: some six steps of six stages, each a sum of a dozen products, with growth of order one;
# about 400 roundings of 1.1e-16 on either side would be 1e-13 if all were of the same sign.
BOUND = 1e-13


def test_every_file_is_used():
    assert {path.stem for path in GOLDEN.glob("rk_*.npz")} == {f"rk_{name}" for name in METHODS}


@pytest.fixture(scope="module", params=METHODS)
def case(request):
    with np.load(GOLDEN / f"rk_{request.param}.npz") as stored:
        golden = dict(stored)
    names = [str(name) for name in golden["names"]]
    model = Rate(**{name: golden[f"param_{name}"] for name in names}, tau=golden["tau"])
    assert list(model.parameters) == names  # the order of the columns of D
    assert np.abs(golden["z0"]).min() > 0
    # A held input has one value for each step: that at the last time is not used, whatever it is.
    inputs = np.pad(golden["inputs"], ((0, 0), (0, 1), (0, 0)), constant_values=1e3)
    return golden, Flow(model, inputs, golden["z0"], "sum", dt=float(golden["dt"]), method=request.param)


def later(flow):
    """Which entries of a flat trajectory belong to the times after the first."""
    chosen = np.ones(flow.states.shape, dtype=bool)
    chosen[:, 0] = False
    return chosen.ravel()


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= BOUND * np.abs(wanted).max()


def test_states(case):
    golden, flow = case
    assert_close(flow.states[:, 1:], golden["states"])
    np.testing.assert_array_equal(flow.states[:, 0], golden["z0"])


@pytest.mark.parametrize("name", ["P_stage", "D", "P_stage J_stage"])
def test_operators_to_trajectories(case, name):
    golden, flow = case
    operator = {"P_stage": flow.stage.P, "D": flow.D, "P_stage J_stage": flow.stage.P @ flow.stage.J}[name]
    wanted = golden["P_stage" if name == "P_stage" else "D"]
    dense, chosen = operator.to_dense(), later(flow)
    assert_close(dense[chosen], wanted)
    assert not dense[~chosen].any()  # neither a forcing nor a parameter moves the initial states
    np.testing.assert_allclose(operator.T.to_dense(), dense.T, rtol=0, atol=BOUND * np.abs(wanted).max())


def test_ntk(case):
    golden, flow = case
    chosen = later(flow)
    dense = flow.NTK.to_dense()
    assert_close(dense[np.ix_(chosen, chosen)], golden["NTK"])
    assert not dense[~chosen].any()
    assert not dense[:, ~chosen].any()
    by_stages = flow.stage.P @ flow.stage.K @ flow.stage.P.star
    assert_close(by_stages.to_dense()[np.ix_(chosen, chosen)], golden["NTK"])
