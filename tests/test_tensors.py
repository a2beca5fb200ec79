"""Tensors of PyTorch handed to models, trials, flows and operators stand for their numbers, exactly."""

import numpy as np
import pytest

from kpref import Flow, Readout, Trials, models

pytestmark = pytest.mark.backends

B, T, H, N_IN = 3, 5, 4, 2
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float16", "float32", "float64"])
def test_every_floating_type(kind):
    torch = pytest.importorskip("torch")
    narrow = torch.as_tensor(RNG.normal(size=(B, T, N_IN))).to(getattr(torch, kind))
    wide = narrow.double().numpy()
    model = models.GRU.init(N_IN, H, 0)
    for given in (narrow, list(narrow), torch.nn.Parameter(narrow.clone(), requires_grad=kind == "float32")):
        np.testing.assert_array_equal(Flow(model, given).states, Flow(model, wide).states)
    trials = Trials(list(narrow[:2]) + [narrow[2][:3]], narrow[..., :1])
    np.testing.assert_array_equal(trials.inputs[:2], wide[:2])
    np.testing.assert_array_equal(trials.lengths, [T, T, 3])
    weights = {name: torch.as_tensor(np.array(value)).to(narrow.dtype) for name, value in model.parameters.items()}
    for name, value in models.GRU(**weights).parameters.items():
        np.testing.assert_array_equal(value, weights[name].double().numpy())
    np.testing.assert_array_equal(Readout(weights["weight_hh"]).weight, weights["weight_hh"].double().numpy())
    batch = torch.ones(1, B, T, H).to(narrow.dtype)
    propagator = Flow(model, narrow).P
    np.testing.assert_array_equal(propagator.apply(batch), propagator.apply(np.ones(batch.shape)))


@pytest.mark.parametrize("kind, words", [("meta", "meta device"), ("sparse", "sparse"), ("complex", "complex64")])
def test_what_holds_no_real_numbers_is_refused(kind, words):
    torch = pytest.importorskip("torch")
    ones = torch.ones(B, T, N_IN)
    bad = {"meta": ones.to("meta"), "sparse": ones.to_sparse(), "complex": ones.to(torch.complex64)}[kind]
    with pytest.raises(ValueError, match=f"inputs .*{words}"):
        Flow(models.GRU.init(N_IN, H, 0), bad)
