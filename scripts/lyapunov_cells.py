"""Coverage of the intervals of Lyapunov exponents: systems whose exponents are known in closed form.

Products of random matrices, chaotic maps, constant maps with real and complex eigenvalues; one trial and several,
by default and with rows discarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from calibration import Cell
from scipy.special import digamma

from kpref import Flow, models
from kpref.models.base import DenseModel, Map
from kpref.spectra import Estimate
from kpref.spectra.lyapunov import TooShort, lyapunov_exponents

__all__ = ["lyapunov_cells"]

Array = npt.NDArray[Any]


class _DenseMap(Map, DenseModel):
    """A map of which only states and Jacobians matter here; its one parameter does nothing."""

    def __init__(
        self, n_states: int, n_inputs: int, jacobian: Callable[[Array, Array], Array], step: Callable[..., Array]
    ):
        self.n_states, self.n_inputs = n_states, n_inputs
        super().__init__({"none": np.zeros(1)}, None)
        self._jacobian, self._step = jacobian, step

    def _evaluate(self, parameters: Any, z: Array, x: Array) -> Array:
        return self._step(z, x)

    def state_jacobian(self, z: Array, x: Array) -> Array:
        return self._jacobian(z, x)

    def parameter_jacobian(self, z: Array, x: Array) -> dict[str, Array]:
        return {"none": np.zeros((*z.shape, 1))}


def products(matrices: Array) -> Flow:
    """The product of given matrices (B, T, H, H), as the map ``z' = X[n] z``."""
    trials, steps, units, _ = matrices.shape

    def jacobian(z: Array, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], units, units)

    def step(z: Array, x: Array) -> Array:
        return np.zeros_like(z)

    return Flow(_DenseMap(units, units**2, jacobian, step), matrices.reshape(trials, steps, -1))


def gaussian(shape: tuple[int, int, int], seed: int) -> Flow:
    """Standard normal entries."""
    trials, steps, units = shape
    return products(np.random.default_rng([seed, 7]).standard_normal((trials, steps, units, units)))


def gaussian_truth(units: int) -> Array:
    """(log 2 + psi((H - i) / 2)) / 2 for i = 0 ... H - 1: Newman, Commun. Math. Phys. 103, 1986."""
    return (np.log(2) + digamma((units - np.arange(units)) / 2)) / 2


def diagonal(shape: tuple[int, int, int], seed: int, memory: float = 0.0, shared: bool = False) -> Flow:
    """Diagonal entries exp(m_i + 0.5 a), a autoregressive of deviation one; one a for all trials if `shared`."""
    trials, steps, units = shape
    rng = np.random.default_rng([seed, 8])
    noise = rng.standard_normal((1 if shared else trials, steps + 200, units))
    for step in range(1, steps + 200):
        noise[:, step] = memory * noise[:, step - 1] + (1 - memory**2) ** 0.5 * noise[:, step]
    logs = DIAGONAL[:units] + 0.5 * np.broadcast_to(noise[:, 200:], (trials, steps, units))
    return products(np.exp(logs)[..., None] * np.eye(units))


DIAGONAL = np.array([0.3, -0.2, -0.9])


def constant(block: Array, trials: int, steps: int, seed: int) -> Flow:
    """A constant map: a block triangular matrix with the given diagonal blocks, random above them."""
    rng = np.random.default_rng([seed, 9])
    upper = np.triu(rng.standard_normal(block.shape), 1)
    matrix = np.where(block != 0, block, upper * (np.kron(np.eye(len(block) // 2), np.ones((2, 2))) == 0))
    return Flow(models.Linear(np.zeros((len(block), 1)), matrix), np.zeros((trials, steps, 1)))


def jordan(trials: int, steps: int, seed: int) -> Flow:
    """A constant map with one eigenvector, in an oblique basis."""
    basis = np.eye(2) + np.random.default_rng([seed, 13]).uniform(-0.5, 0.5, (2, 2))
    matrix = basis @ [[0.9, 1.0], [0.0, 0.9]] @ np.linalg.inv(basis)
    return Flow(models.Linear(np.zeros((2, 1)), matrix), np.zeros((trials, steps, 1)))


REAL = np.diag([1.2, 0.9, -0.8, 0.3])
PAIRS = np.kron(np.diag([1.0, 0.0]), [[0.9, -0.5], [0.5, 0.9]]) + np.kron(
    np.diag([0.0, 1.0]), [[0.4, 0.3], [-0.3, 0.4]]
)


def tent(trials: int, steps: int, seed: int, left: float = 0.3) -> Flow:
    """The skew tent map, its top at `left`: slopes 1 / p and -1 / (1 - p) come in independent random order."""

    def step(z: Array, x: Array) -> Array:
        return np.where(z < left, z / left, (1 - z) / (1 - left))

    def jacobian(z: Array, x: Array) -> Array:
        return np.where(z < left, 1 / left, -1 / (1 - left))[..., None]

    starts = np.random.default_rng([seed, 10]).uniform(size=(trials, 1))
    return Flow(_DenseMap(1, 1, jacobian, step), np.zeros((trials, steps, 1)), starts)


def tent_truth(left: float = 0.3) -> float:
    """-p log p - (1 - p) log(1 - p)."""
    return -left * np.log(left) - (1 - left) * np.log(1 - left)


def logistic(trials: int, steps: int, seed: int) -> Flow:
    """``z' = 4 z (1 - z)``: log 2."""
    starts = np.random.default_rng([seed, 11]).beta(0.5, 0.5, size=(trials, 1))
    model = _DenseMap(1, 1, lambda z, x: 4 * (1 - 2 * z)[..., None], lambda z, x: 4 * z * (1 - z))
    return Flow(model, np.zeros((trials, steps, 1)), starts)


def baker(trials: int, steps: int, seed: int, left: float = 0.35) -> Flow:
    """A baker's map that stretches by 1 / p or 1 / (1 - p) and contracts by 0.3 or 0.5."""

    def step(z: Array, x: Array) -> Array:
        first, second = z[..., 0], z[..., 1]
        is_left = first < left
        return np.stack(
            [np.where(is_left, first / left, (first - left) / (1 - left)),
             np.where(is_left, 0.3 * second, 0.5 + 0.5 * second)], axis=-1
        )  # fmt: skip

    def jacobian(z: Array, x: Array) -> Array:
        is_left = z[..., 0] < left
        out = np.zeros((*z.shape, 2))
        out[..., 0, 0] = np.where(is_left, 1 / left, 1 / (1 - left))
        out[..., 1, 1] = np.where(is_left, 0.3, 0.5)
        return out

    starts = np.random.default_rng([seed, 12]).uniform(size=(trials, 2))
    return Flow(_DenseMap(2, 1, jacobian, step), np.zeros((trials, steps, 1)), starts)


def baker_truth(left: float = 0.35) -> Array:
    return np.array([tent_truth(left), left * np.log(0.3) + (1 - left) * np.log(0.5)])


def _family(
    name: str, make: Callable[[int], Flow], truths: npt.ArrayLike, discard: int, random: bool = True
) -> Iterator[Cell]:
    """Each exponent of a system, by default and with rows discarded; all of them come from one sweep."""

    @cache
    def estimates(seed: int, discarded: int | None) -> tuple[Estimate, ...]:
        return lyapunov_exponents(make(seed), discard=discarded, seed=seed).estimates

    for index, truth in enumerate(np.atleast_1d(truths)):
        for discarded in (None, discard):
            ending = "" if discarded is None else f", {discarded} discarded"

            def run(seed: int, index: int = index, discarded: int | None = discarded) -> Estimate:
                try:
                    return estimates(seed, discarded)[index]
                except TooShort as error:
                    raise RuntimeError(str(error)) from None

            yield Cell(f"lyapunov {name}, exponent {index + 1}{ending}", run, float(truth), random)


def lyapunov_cells() -> Iterator[Cell]:
    """All cells."""
    for trials, steps in ((1, 400), (16, 100)):
        words, shape, discard = f"{trials} x {steps}", (trials, steps, 3), steps // 5
        yield from _family(f"normal products {words}", partial(gaussian, shape), gaussian_truth(3), discard)
        yield from _family(f"diagonal products {words}", partial(diagonal, shape), DIAGONAL, discard)
        yield from _family(f"skew tent {words}", partial(tent, trials, steps), tent_truth(), discard)
        yield from _family(f"baker {words}", partial(baker, trials, steps), baker_truth(), discard)
    yield from _family("normal products 3 x 300", partial(gaussian, (3, 300, 2)), gaussian_truth(2), 60)
    for shape in ((1, 1000, 2), (16, 300, 2)):
        words = f"{shape[0]} x {shape[1]}"
        yield from _family(f"correlated diagonal {words}", partial(diagonal, shape, memory=0.8), DIAGONAL[:2], 60)
    yield from _family("shared noise 16 x 400", partial(diagonal, (16, 400, 2), shared=True), DIAGONAL[:2], 80)
    yield from _family("logistic 16 x 200", partial(logistic, 16, 200), np.log(2), 40)
    real, pairs = np.sort(np.log(np.abs(np.diag(REAL))))[::-1], np.log(np.hypot([0.9, 0.4], [0.5, 0.3]))
    for trials, steps in ((1, 100), (3, 400)):
        words = f"{trials} x {steps}"
        yield from _family(f"constant, real {words}", partial(constant, REAL, trials, steps), real, 30, random=False)
        yield from _family(
            f"constant, pairs {words}", partial(constant, PAIRS, trials, steps), np.repeat(pairs, 2), 30, random=False
        )
    # Lengths come apart by t^2 only, which a few trials are too short to tell.
    yield from _family("Jordan block 16 x 100", partial(jordan, 16, 100), np.log([0.9, 0.9]), 20, random=False)
