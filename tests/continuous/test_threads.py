"""The same bits for any number of threads."""

import numpy as np
import pytest

import kpref
from continuous.fields import STRUCTURES, make_flow, operators


@pytest.fixture(autouse=True)
def same_number_of_threads():
    before = kpref.get_num_threads()
    yield
    kpref.set_num_threads(before)


def all_bits(kind, dtype, rtol):
    """Everything a flow computes, as bytes; enough trials for several blocks."""
    flow = make_flow(
        kind, "dopri5", (120, 9, 8), input_kind="linear", measure=np.linspace(0, 1, 10), dtype=dtype, rtol=rtol
    )
    rng = np.random.default_rng(5)
    found = {"states": flow.states.tobytes(), "dense output": flow.solution(np.linspace(0.4, 0.5, 3)).tobytes()}
    for name, operator in operators(flow).items():
        for side in (operator, operator.T):
            image = side.apply(rng.normal(size=(2, *side.shape_in)))
            found[name, side is operator] = image.tobytes()
    readout = kpref.Readout(rng.normal(size=(2, flow.states.shape[2])))
    gradient = flow.gradient_flow(readout, targets=rng.normal(size=(120, 10, 2)))
    return found | {"gradient": gradient.grad_theta.tobytes(), "dz": gradient.dz.tobytes()}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rtol", [None, 1e-4])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_same_bits(kind, rtol, dtype):
    found = {}
    for number in (1, 2, 4):
        kpref.set_num_threads(number)
        bits = all_bits(kind, dtype, rtol)
        assert len(set(bits.values())) == len(bits)  # they are different things
        found.setdefault(number, bits)
        assert [name for name in bits if bits[name] != found[1][name]] == []
