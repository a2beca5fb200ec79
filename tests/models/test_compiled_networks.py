"""Networks run by compiled functions of a unit against their plain function, whatever is registered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kpref
from kpref import linearize
from kpref.forward import compiled_network
from kpref.models.base import Map
from kpref.models.registry import registered
from tests.conftest import in_turn

EPS = np.finfo(float).eps
NETWORKS = [(name, at) for name, kind in registered().items() for at in range(len(kind.variants))]
#: Hodgkin and Huxley's gates blow up where they are far from 0 to 1; tests of their own have voltages of all sizes.
COMPARED = [case for case in NETWORKS if case[0] != "hodgkin-huxley"]


def built(name, at, units, seed):
    """A random network; what would be zero at first, as biases are, is not."""
    kind, generator = registered()[name], np.random.default_rng(seed)
    model = kind.init(2, units, seed, 1.2, **kind.variants[at])
    zero = {key: array for key, array in model.parameters.items() if not array.any()}
    return model.with_parameters({key: generator.normal(size=array.shape) for key, array in zero.items()})


def without(patch):
    for module in ("dynamics", "linearize", "runge_kutta"):
        patch.setattr(f"kpref.{module}.compiled_network", lambda *arguments: None)


@pytest.mark.parametrize("name", registered())
def test_all_networks_are_compiled(name):
    assert compiled_network(built(name, 0, 3, 0)) is not None


@pytest.mark.parametrize(("name", "at"), in_turn(COMPARED, 2))
@given(seed=st.integers(0, 10**6), units=st.sampled_from([1, 3, 130]), size=st.sampled_from([0.1, 1.0, 30.0]))
def test_coefficients_and_states_are_those_of_the_plain_function(name, at, seed, units, size):
    """To the rounding of currents: sums of as many terms as there are units and inputs, each at most `size` or so.

    What a function makes of a current moves by its slope, at most 1 or the size of a state, times that, 64 roundings
    allowed for.
    """
    model, generator = built(name, at, units, seed), np.random.default_rng(seed)
    states = model.start + size * generator.normal(size=(4, model.n_states))
    inputs = size * generator.normal(size=(4, 3, model.n_inputs))
    found = []
    for compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not compiled:
                without(patch)
            form = linearize.linearize(model, states[None], inputs[None, :, 0], np.float64)
            options = {} if isinstance(model, Map) else {"dt": 1e-3, "method": "euler"}
            found.append((form, kpref.Flow(model, inputs, states, **options).states))
    (fast, moved), (plain, expected) = found
    weights = [np.abs(weight).sum(axis=1).max() for weight in model.weights().values()]
    largest = max(1.0, np.abs(states).max(), np.abs(inputs).max(), np.abs(expected).max())
    bound = 64 * EPS * max(1.0, *weights) ** 2 * largest**2
    for read, names in (("channel", plain.places), ("variable", plain.known)):
        for each in names:
            one, other = getattr(fast, read)(each), getattr(plain, read)(each)
            assert (np.abs(one - other) <= bound * max(1.0, np.abs(other).max())).all(), (read, each)
    step = 0 if isinstance(model, Map) else 1  # the first that was computed
    assert (moved[:, step] != states).any()
    assert (np.abs(moved[:, step] - expected[:, step]) <= bound * largest).all()
