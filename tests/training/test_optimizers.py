"""Optimisers against the written formulas, against PyTorch, and through a file."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from kpref.training import OPTIMIZERS, Adam, GradientDescent, clip_norm
from kpref.training.optimizers import get_optimizer

N, RATE = 7, 0.03
RNG = np.random.default_rng(0)
START, GRADIENTS = RNG.normal(size=N), RNG.normal(size=(6, N))


def steps(optimizer, gradients=GRADIENTS, dtype=np.float64):
    vector = START.astype(dtype)
    state = optimizer.start(vector)
    for gradient in gradients:
        optimizer.update(vector, gradient.astype(dtype), state, RATE)
    return vector, state


def close(got, wanted):
    """Six steps of a few operations each."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-15 * 8)


def test_gradient_descent_and_momentum_by_their_formulas():
    close(steps(GradientDescent())[0], START - RATE * GRADIENTS.sum(axis=0))
    for nesterov in (False, True):
        theta, v = START, np.zeros(N)
        for g in GRADIENTS:
            v = 0.8 * v + g
            theta = theta - RATE * (g + 0.8 * v if nesterov else v)
        close(steps(GradientDescent(0.8, nesterov))[0], theta)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_by_its_formula(decay):
    theta, a, c = START, np.zeros(N), np.zeros(N)
    for t, g in enumerate(GRADIENTS, 1):
        theta = theta * (1 - RATE * decay)
        a, c = 0.9 * a + 0.1 * g, 0.99 * c + 0.01 * g**2
        theta = theta - RATE * (a / (1 - 0.9**t)) / (np.sqrt(c / (1 - 0.99**t)) + 1e-8)
    close(steps(Adam(beta2=0.99, decay=decay))[0], theta)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_goes_through_a_file_to_the_same_bits(name, dtype):
    optimizer = OPTIMIZERS[name]
    vector, state = steps(optimizer, GRADIENTS[:3], dtype)
    kept = load(save({"vector": vector, **state}))
    other = kept.pop("vector").copy()
    restored = {key: array.copy() for key, array in kept.items()}
    for gradient in GRADIENTS[3:]:
        optimizer.update(other, gradient.astype(dtype), restored, RATE)
    assert other.dtype == dtype
    np.testing.assert_array_equal(other, steps(optimizer, dtype=dtype)[0])


@pytest.mark.backends
@pytest.mark.parametrize(
    ("optimizer", "theirs", "options"),
    [
        (GradientDescent(), "SGD", {}),
        (GradientDescent(0.9), "SGD", {"momentum": 0.9}),
        (GradientDescent(0.9, True), "SGD", {"momentum": 0.9, "nesterov": True}),
        (Adam(), "Adam", {}),
        (Adam(0.8, 0.95, 1e-6), "Adam", {"betas": (0.8, 0.95), "eps": 1e-6}),
        (Adam(decay=0.02), "AdamW", {"weight_decay": 0.02}),
    ],
)
def test_optimisers_are_those_of_pytorch(optimizer, theirs, options):
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.tensor(START))
    way = getattr(torch.optim, theirs)([parameter], lr=RATE, **options)
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor(gradient)
        way.step()
    close(steps(optimizer)[0], parameter.detach().numpy())


def test_clipping():
    gradient = np.array([3.0, 4.0])
    assert clip_norm(gradient, None) == 5.0
    assert clip_norm(gradient, 5.0) == 5.0
    np.testing.assert_array_equal(gradient, [3.0, 4.0])
    assert clip_norm(gradient, 1.0) == 5.0
    np.testing.assert_allclose(gradient, [0.6, 0.8], rtol=2e-7 * 1.01)  # PyTorch divides by the norm plus 1e-6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: get_optimizer("sgd"), "optimizer must be one of gradient, momentum"),
        (lambda: GradientDescent(nesterov=True), "nesterov needs a momentum above 0; got 0.0"),
        (lambda: clip_norm(np.ones(2), 0), "most must be a finite number above 0; got 0"),
        (lambda: clip_norm(np.ones(2, int), 1), "gradient must be one row of floating-point numbers"),
        (lambda: GradientDescent(1.0), "momentum must be a finite number of at least 0 below 1"),
        (lambda: Adam(beta2=-0.1), "beta2 must be"),
        (lambda: Adam(epsilon=0.0), "epsilon must be a finite number above 0"),
    ],
)
def test_bad_optimisers(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_that_do_not_belong_together_are_refused(name):
    """Adam's loop would go on beyond the end of the shorter, in whatever memory is there."""
    optimizer = OPTIMIZERS[name]
    frozen = START.copy()
    frozen.flags.writeable = False
    cases = [
        (START.copy(), np.ones(N - 1), START, r"gradient must have the shape \(7,\) of the vector; got \(6,\)"),
        (START.copy(), np.ones(N + 1), START, "gradient must have the shape"),
        (START.reshape(1, -1).copy(), np.ones((1, N)), START.reshape(1, -1), "vector must be one row"),
        (frozen, np.ones(N), START, "vector must be one row .* that may be written"),
        (np.arange(N), np.ones(N), START, "vector must be one row of floating-point numbers"),
    ]
    if len(optimizer.start(START)):
        cases.append((START.copy(), np.ones(N), START[:3], r"must have the shape \(7,\) of the vector; got \(3,\)"))
    for vector, gradient, like, words in cases:
        before, state = vector.copy(), optimizer.start(like)
        kept = {key: array.copy() for key, array in state.items()}
        with pytest.raises(ValueError, match=words):
            optimizer.update(vector, gradient, state, RATE)
        assert np.array_equal(vector, before)
        assert all(np.array_equal(state[key], kept[key]) for key in kept)
