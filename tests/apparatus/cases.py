"""Problems on which the oracle itself is tried, and correct backends that may look suspicious on them.

A problem follows from a seed: any network in discrete time, of one unit to 24, one step to several hundred, contracting
to chaotic, driven not at all to far into saturation, its parameters of one size or spread over five powers of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from apparatus.emulation import EmulatedBackend
from kpref.flow import Flow
from kpref.models.step import StepModel
from kpref.oracle.adapters import flow_backend
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic
from kpref.oracle.problem import MODELS

__all__ = ["NETWORKS", "PROFILES", "correct_backend", "emulate", "make_flow", "random_flow"]

Array = npt.NDArray[Any]

#: Networks and options, by the seed's choice; those that do not saturate are kept from exploding.
_SATURATING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gru", {}),
    ("rnn", {}),
    *(("leaky", {"nonlinearity": name}) for name in ("tanh", "sigmoid", "erf")),
    ("lstm", {}),
    ("stacked-gru", {}),
    *((name, {"n_layers": layers}) for layers, name in enumerate(("stacked-rnn", "stacked-lstm"), 2)),
    *(("low-rank", {"nonlinearity": name}) for name in ("tanh", "erf")),
)
_GROWING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("linear", {}),
    *(("rnn", {"nonlinearity": name}) for name in ("relu", "identity")),
    *(("leaky", {"nonlinearity": name}) for name in ("relu", "softplus", "identity")),
    ("low-rank", {"nonlinearity": "softplus"}),
)
#: Drawn where they are named, so that what a seed draws from all does not change with every network that is added.
_NAMED: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in ("gru-reset-before", "mgu", "ugrnn")),
    *(("cornn", {"dt": step}) for step in (0.042, 0.2)),
    *(("antisymmetric", {"epsilon": step}) for step in (0.1, 0.5)),
    *(("lru", {"n_layers": layers, "nonlinearity": name}) for layers, name in ((1, "tanh"), (2, "softplus"))),
    *(("s4d", {"n_layers": layers, "nonlinearity": name}) for layers, name in ((1, "tanh"), (2, "erf"))),
    *(("mpn", {"modulation": kind}) for kind in ("multiplied", "added")),
    *(("mlp", {"residual": residual}) for residual in (False, True)),
)
#: Those whose arrays are logarithms, or multiply states: not to be spread over powers of ten.
_EXPONENTIAL = ("lru", "s4d", "mpn", "mlp")
#: Names of all that `random_flow` can draw from.
NETWORKS = tuple(dict.fromkeys(name for name, _ in _SATURATING + _GROWING + _NAMED))
#: Arithmetics that have names, and others that accelerators have: what autocast makes of float32, sums that are kept in
#: float16, and a tanh that is off by 5 to 1365 units, as those of several accelerators are.
PROFILES: dict[str, Arithmetic] = {
    **ARITHMETICS,
    "autocast": Arithmetic("autocast", 2.0**-24, operand=2.0**-8, result=2.0**-8),
    "short-sums": Arithmetic("short-sums", 2.0**-24, accumulate=2.0**-11),
    **{
        name: Arithmetic(name, 2.0**-24, elementary={"tanh": (units, 0.0)})
        for name, units in ((f"tanh-{units}", float(units)) for units in (5, 97, 134, 1365))
    },
}
#: Units of a layer are fewer where there are several states to each.
_PARTS = {
    **{"lstm": 2, "cornn": 2, "lru": 4, "s4d": 5, "mpn": 4},
    **{"stacked-gru": 2, "stacked-rnn": 2, "stacked-lstm": 6},
}


def random_flow(seed: int, names: Sequence[str] = ()) -> Flow:
    """The problem of a seed; where networks are named, it is of one of them, each as likely as the other."""
    rng = np.random.default_rng([seed, 1])
    name, options, saturating = _kind(rng, names)
    long = bool(rng.random() < 0.03)
    trials, inputs = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    steps = int(rng.integers(100, 401) if long else rng.choice([1, 2, int(rng.integers(3, 31))], p=[0.05, 0.05, 0.9]))
    units = int(rng.choice([1, int(rng.integers(2, 13 if long else 25))], p=[0.08, 0.92]))
    units = -(-units // _PARTS.get(name, 1))
    gain = float(rng.choice([0.3, 1.0, 1.5, 3.0] if saturating else [0.3, 0.6, 0.9]))
    if name in ("leaky", "low-rank"):
        options = {**options, "alpha": float(rng.choice([0.01, 0.1, 0.5, 1.0]))}
    seed, bias = int(rng.integers(1 << 31)), bool(rng.random() < 0.8)
    model: Any = MODELS[name].init(inputs, units, seed, gain, bias=bias, **options)
    model = _disturbed(model, rng, spread=bool(rng.random() < 0.25) and saturating)
    shape = (trials, steps)
    drive = float(rng.choice([0.0, 1e-3, 1.0, 30.0], p=[0.1, 0.1, 0.65, 0.15]))
    z0 = float(rng.choice([0.0, 1.0, 10.0], p=[0.2, 0.7, 0.1]))
    return Flow(
        model,
        drive * rng.normal(size=(*shape, inputs)),
        z0 * rng.normal(size=(trials, model.n_states)),
        _measure(rng, shape),
    )


def _kind(rng: np.random.Generator, names: Sequence[str]) -> tuple[str, dict[str, Any], bool]:
    """A network, its options, and whether it saturates."""
    if not names:
        saturating = bool(rng.random() < 0.65)
        kinds = _SATURATING if saturating else _GROWING
        return *kinds[rng.integers(len(kinds))], saturating
    chosen = names[int(rng.integers(len(names)))]
    known = [kind for kind in _SATURATING + _GROWING + _NAMED if kind[0] == chosen]
    name, options = known[rng.integers(len(known))]
    return name, options, (name, options) not in _GROWING and name not in _EXPONENTIAL


def _disturbed(model: StepModel, rng: np.random.Generator, spread: bool) -> StepModel:
    """Biases that are not zero, rows of very different size where wanted, and at times a trainable subset."""
    changed = {}
    for name, value in model.parameters.items():
        scale = 10.0 ** rng.uniform(-3, 2, size=(len(value), *[1] * (value.ndim - 1))) if spread else 1.0
        changed[name] = scale * (value if value.ndim > 1 else 0.5 * rng.normal(size=value.shape))
    model = model.with_parameters(changed)
    names = list(model.parameters)
    if rng.random() < 0.25:
        chosen = rng.choice(names, size=int(rng.integers(1, len(names) + 1)), replace=False)
        model = model.with_trainable([name for name in names if name in chosen])
    return model


def _measure(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    kind = rng.integers(4)
    if kind < 2:
        return ("mean", "sum")[kind]
    weights = rng.uniform(0.1, 2.0, size=shape)
    if kind == 3:
        weights[rng.random(size=shape) < 0.4] = 0.0
        weights.flat[rng.integers(weights.size)] = 1.0
    return weights


def make_flow(model: StepModel, shape: tuple[int, int], seed: int, measure: Any = "mean") -> Flow:
    """A model, with random biases, on normal inputs from normal initial states; shape is (B, T)."""
    rng = np.random.default_rng([seed, 2])
    biases = {name: 0.5 * rng.normal(size=v.shape) for name, v in model.parameters.items() if v.ndim == 1}
    inputs = rng.normal(size=(*shape, model.n_inputs))
    return Flow(model.with_parameters(biases), inputs, rng.normal(size=(shape[0], model.n_states)), measure)


def emulate(flow: Flow, arithmetic: Arithmetic, **options: Any) -> EmulatedBackend:
    """A correct backend for the problem, its data rounded to the arithmetic."""
    model, inputs, z0 = _rounded(flow, arithmetic)
    return EmulatedBackend(model, inputs, z0, flow.space, arithmetic, **options)


def _rounded(flow: Flow, arithmetic: Arithmetic) -> tuple[Any, Array, Array]:
    model = flow.model.with_parameters({n: arithmetic.round(v) for n, v in flow.model.parameters.items()})
    return model, arithmetic.round(flow.inputs), arithmetic.round(flow.z0)


def correct_backend(flow: Flow, arithmetic: Arithmetic, seed: int) -> tuple[str, Any]:
    """One of the correct backends, by the seed's choice, and what it is called."""
    rng = np.random.default_rng([seed, 3])
    if arithmetic.name in ("float64", "float32") and rng.random() < 0.1:
        return "own kernels", flow_backend(flow, arithmetic.name)
    summation = str(rng.choice(["plain", "reversed", "blocks", "pairwise"]))
    formulas = str(rng.choice(["accurate", "stored", "absolute"]))
    product = str(rng.choice(["gates", "dense", "fused"], p=[0.5, 0.25, 0.25]))
    backend = emulate(flow, arithmetic, summation=summation, formulas=formulas, product=product)
    return f"{summation}, {formulas}, {product}", backend
