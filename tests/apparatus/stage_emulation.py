"""A correct backend in continuous time in any arithmetic: the stage recursions written out on arrays that round.

Nothing here knows a step as a program: stages are run one after another, forwards and backwards, as in the books.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from apparatus.emulation import EmulatedBackend, Formulas, Product, Rounded, Summation, once
from kpref.flow import Flow
from kpref.integrate import TABLEAUS, IntegrationError
from kpref.models import LinearSystem, Rate
from kpref.models.nonlinearity import NONLINEARITIES
from kpref.models.registry import registered
from kpref.oracle.arithmetic import Arithmetic
from kpref.runge_kutta import interpolation
from kpref.space import EuclideanSpace

__all__ = ["StageBackend", "correct_stage_backend", "field_flow", "own_operators"]

Array = npt.NDArray[Any]


class _Points(EmulatedBackend):
    """The field at given states: one step of A, A^T, and J, J^T over all of them."""

    def __post_init__(self) -> None:
        """Nothing is run."""


@dataclass
class StageBackend:
    """All operators of a flow of one step in each interval: see `kpref.oracle.stages`.

    Attributes
    ----------
    flow : Flow
    arithmetic : Arithmetic
    summation, formulas, product
        As of `EmulatedBackend`.
    terms : {"each", "sum"}
        Whether h multiplies each term of a stage, or their sum.
    stepping : {"difference", "given"}
        Whether a step is the difference of two stored times, or itself stored.
    inputs : ndarray, shape (B, N, s, n_in)
        At the stages.
    states : ndarray, shape (B, N + 1, H)
    """

    flow: Flow
    arithmetic: Arithmetic
    summation: Summation = "plain"
    formulas: Formulas = "accurate"
    product: Product = "gates"
    terms: str = "each"
    stepping: str = "given"
    inputs: Array = field(init=False)
    states: Array = field(init=False)

    def __post_init__(self) -> None:
        flow, store = self.flow, self.arithmetic.round
        self.model: Any = flow.model.with_parameters({n: store(v) for n, v in flow.model.parameters.items()})
        self.tableau = flow.solution.tableau
        self.a, self.b = self.tableau.a, self.tableau.b
        times = flow.solution.times
        keep = store if self.arithmetic.unit < 2.0**-20 else lambda t: np.asarray(t, np.float32).astype(float)
        self.h = np.diff(keep(times)) if self.stepping == "difference" else keep(np.diff(times))
        self.inputs = self._stage_inputs()
        self.run()

    def run(self) -> None:
        """The trajectory, and the states of the stages."""
        z, rows, stages = self.wrap(self.arithmetic.round(self.flow.z0)), [], []
        model = copy.copy(self.model)
        model._parameters = {n: self.wrap(v) for n, v in self.model.parameters.items()}
        rows.append(np.asarray(z))
        for step in range(len(self.h)):
            known: list[Rounded] = []
            for stage in range(len(self.b)):
                state = self.advanced(z, step, self.a[stage], known)
                stages.append(np.asarray(state))
                known.append(
                    self.wrap(model._evaluate(model._parameters, state, self.wrap(self.inputs[:, step, stage])))
                )
            z = self.advanced(z, step, self.b, known)
            rows.append(np.asarray(z))
        self.states = np.stack(rows, axis=1)
        self.linearize(np.stack(stages, axis=1))

    def linearize(self, stages: Array) -> None:
        """Take all coefficients at states of the stages (B, N s, H)."""
        trials, rows, _ = stages.shape
        inputs = self.inputs.reshape(trials, rows, -1)
        space: Any = EuclideanSpace(stages.shape)
        self.points: Any = _Points(
            self.model, inputs, stages[:, 0], space, self.arithmetic, self.summation, self.formulas, self.product
        )
        self.points.states = np.concatenate([stages[:, 1:], stages[:, -1:]], axis=1)
        self.points.form = self.points._linearize()
        self.stage_states = stages

    def wrap(self, values: Any) -> Rounded:
        """Values in this arithmetic."""
        return Rounded.of(values, self.arithmetic, self.summation, self.formulas)

    def advanced(self, z: Array, step: int, weights: Array, slopes: list[Any]) -> Any:
        """``z + h sum_j w_j k_j``."""
        known = [(weight, slope) for weight, slope in zip(weights, slopes, strict=False) if weight != 0]
        h = self.h[step]
        if self.terms == "each":
            for weight, slope in known:
                z = z + self.wrap(self.arithmetic.round(h) * weight) * slope
            return self.wrap(z)
        if not known:
            return self.wrap(z)
        total = self.wrap(known[0][0]) * known[0][1]
        for weight, slope in known[1:]:
            total = total + self.wrap(weight) * slope
        return self.wrap(z + self.wrap(h) * total)

    def _stage_inputs(self) -> Array:
        flow, dynamics = self.flow, self.flow.dynamics
        system: Any = dynamics.system  # type: ignore[attr-defined]
        times, shape = system.stage_times, (len(self.h), len(self.b), len(flow.z0), -1)
        at = system.signal(times.reshape(-1), np.repeat(flow.solution.interval, len(self.b)))
        rows = np.moveaxis(np.moveaxis(at, 1, 0).reshape(shape), 2, 0)
        if dynamics.input_kind == "linear" and not system.signal.is_function:  # type: ignore[attr-defined]
            x = self.wrap(flow.inputs)
            parts = [x[:, :-1] + self.wrap(c) * (x[:, 1:] - x[:, :-1]) for c in self.tableau.c]
            return np.stack([np.asarray(part) for part in parts], axis=2)
        return self.arithmetic.round(rows)

    # Operators. Tensors have a leading axis of one inside.

    def _known(self, name: str, compute: Any) -> Any:
        """What follows from the linearisation alone, computed once."""
        return self.points._known(name, compute)

    def _row(self, step: int, stage: int) -> int:
        return step * len(self.b) + stage

    def _sweep(self, start: Array, q: Array) -> Array:
        """Rows 0..N from a perturbation of the start (B, H) and forcings of the stages (B, N, s, H)."""
        dz, rows = self.wrap(start)[None], [np.asarray(start)]
        for step in range(len(self.h)):
            slopes: list[Any] = []
            for stage in range(len(self.b)):
                state = np.asarray(self.advanced(dz, step, self.a[stage], slopes))
                own = self.wrap(self.points.advance(self._row(step, stage), state))
                slopes.append(own + self.wrap(q[None, :, step, stage]))
            dz = self.advanced(dz, step, self.b, slopes)
            rows.append(np.asarray(dz)[0])
        return np.stack(rows, axis=1)

    @once
    def P_s(self, q: Array) -> Array:
        """``P_s q``."""
        return self._sweep(np.zeros(self.states[:, 0].shape), q)

    @once
    def D_z0(self, start: Array) -> Array:
        """``dZ/dz0``."""
        return self._sweep(self.arithmetic.round(start), np.zeros((*self.inputs.shape[:3], self.model.n_states)))

    @once
    def P_s_T(self, g: Array) -> Array:
        """``P_s^T g``."""
        return self._sweep_back(g)[0]

    @once
    def D_z0_T(self, g: Array) -> Array:
        """``(dZ/dz0)^T g``."""
        return np.asarray(self.wrap(self._sweep_back(g)[1] + self.wrap(g)[None, :, 0]))[0]

    def _sweep_back(self, g: Array) -> tuple[Array, Any]:
        """Costates of the stages, and that of the start (1, B, H) without what acts on it directly."""
        g = self.wrap(g)
        out, costate = np.zeros((*self.inputs.shape[:3], self.model.n_states)), self.wrap(0 * g[None, :, 0])
        for step in range(len(self.h) - 1, -1, -1):
            costate = costate + g[None, :, step + 1]
            pulled: dict[int, Any] = {}
            for stage in range(len(self.b) - 1, -1, -1):
                weights = np.array([self.b[stage], *(self.a[j, stage] for j in pulled)])
                kappa = self.advanced(self.wrap(0 * costate), step, weights, [costate, *pulled.values()])
                out[:, step, stage] = np.asarray(kappa)[0]
                pulled[stage] = self.wrap(self.points.retreat(self._row(step, stage), np.asarray(kappa)))
            for value in pulled.values():
                costate = self.wrap(costate + value)
        return out, costate

    @once
    def J_s(self, theta: Array) -> Array:
        """``J_s theta``."""
        return np.asarray(self.points.J(theta)).reshape(*self.inputs.shape[:3], -1)

    @once
    def J_s_T(self, g: Array) -> Array:
        """``J_s^T g``."""
        return np.asarray(self.points.J_T(np.asarray(g).reshape(self.stage_states.shape)))

    @once
    def K_s(self, q: Array) -> Array:
        """``J_s J_s^T q``."""
        return self.J_s(self.J_s_T(q))

    def _weights(self) -> Any:
        dynamics: Any = self.flow.dynamics
        times = self.flow.solution.times
        return interpolation(times, dynamics.system.stage_times, self.flow.solution.interval, dynamics.forcing)

    @once
    def P(self, q: Array) -> Array:
        """A forcing on the grid."""
        table, q, total = self._weights(), self.wrap(q), 0.0
        for term in range(table.source.shape[2]):
            total = total + self.wrap(table.weight[None, :, :, term, None]) * q[:, table.source[:, :, term]]
        return self.P_s(np.asarray(total))

    @once
    def P_T(self, g: Array) -> Array:
        """Its transpose."""
        table, kappa, out = self._weights(), self.wrap(self.P_s_T(g)), self.wrap(np.zeros(np.shape(g)))
        for step, stage, term in np.ndindex(table.source.shape):
            row = table.source[step, stage, term]
            out[:, row] = out[:, row] + self.wrap(table.weight[step, stage, term]) * kappa[:, step, stage]
        return np.asarray(out)

    @once
    def D(self, theta: Array) -> Array:
        """``P_s J_s theta``."""
        return self.P_s(self.J_s(theta))

    @once
    def D_T(self, g: Array) -> Array:
        """``J_s^T P_s^T g``."""
        return self.J_s_T(self.P_s_T(g))

    def weigh(self, q: Array) -> Array:
        """``Mu q``."""
        return np.asarray(self.wrap(self.flow.space.mu[:, :, None]) * self.wrap(q))

    @once
    def gradient(self, err: Array) -> Array:
        """``D^T Mu Err``."""
        return self.D_T(self.weigh(err))

    @once
    def NTK(self, q: Array) -> Array:
        """``D D^T Mu q``."""
        return self.D(self.D_T(self.weigh(q)))


def field_flow(seed: int, method: str | None = None, input_kind: str | None = None, name: str | None = None) -> Flow:
    """The problem of a seed: one to nine units, any method, any grid; of a rate network or a linear system, or of the
    network that is named. Where the method explodes (Heun's, on a spike of Hodgkin-Huxley), the grid is made finer."""
    rng = np.random.default_rng([seed, 11])
    trials, steps, inputs, units = (int(n) for n in rng.integers([1, 2, 1, 1], [4, 9, 4, 10]))
    step = 1.0
    if name is None:
        model: Any = _rate_or_linear(rng, inputs, units)
    else:
        known = registered()[name]
        variant = known.variants[int(rng.integers(len(known.variants)))]
        model = known.init(inputs, units, seed, float(rng.choice([0.3, 1.0, 2.0])), **variant)
        step = known.dt / 0.1
    h = step * float(rng.choice([0.02, 0.1, 0.3]))
    sizes = np.full(steps, h) if rng.random() < 0.5 else h * rng.uniform(0.2, 1.8, size=steps)
    start = rng.choice([0.0, 1.3])
    measure: Any = (
        rng.choice(["mean", "sum"]) if rng.random() < 0.6 else rng.uniform(0.1, 2.0, size=(trials, steps + 1))
    )
    drive = float(rng.choice([0.0, 1.0, 10.0], p=[0.1, 0.7, 0.2]))
    problem = (
        model,
        drive * rng.normal(size=(trials, steps + 1, inputs)),
        model.start + (1.0 if name is None else 0.2) * rng.normal(size=(trials, model.n_states)),
        measure if isinstance(measure, np.ndarray) else str(measure),
    )
    options: dict[str, Any] = {
        "method": method or str(rng.choice(list(TABLEAUS))),
        "input_kind": input_kind or str(rng.choice(["hold", "linear", "cubic"])),
        "forcing": str(rng.choice(["linear", "cubic"])),
    }
    for finer in range(8):
        times = start + np.append(0.0, np.cumsum(sizes / 4**finer))
        try:
            return Flow(*problem, times=times, **options)
        except IntegrationError as error:
            exploded = error
    raise exploded


def _rate_or_linear(rng: np.random.Generator, inputs: int, units: int) -> Any:
    arrays = {
        "weight_ih": rng.normal(size=(units, inputs)),
        "weight_hh": float(rng.choice([0.3, 1.0, 2.0])) * rng.normal(size=(units, units)) / np.sqrt(units),
        "bias": rng.normal(size=units) if rng.random() < 0.8 else None,
    }
    kind = str(rng.choice(["linear", *NONLINEARITIES]))
    tau = rng.uniform(0.4, 2.0, size=units if rng.random() < 0.5 else ())
    timed = bool(rng.random() < 0.25)
    if kind == "linear":
        return LinearSystem(**arrays)
    return Rate(**arrays, tau=tau, nonlinearity=kind, train_tau=timed)


def correct_stage_backend(flow: Flow, arithmetic: Arithmetic, seed: int) -> tuple[str, StageBackend]:
    """One of the correct backends, by the seed's choice, and what it is called."""
    rng = np.random.default_rng([seed, 12])
    options: Any = {
        "summation": str(rng.choice(["plain", "reversed", "blocks", "pairwise"])),
        "formulas": str(rng.choice(["accurate", "stored"])),
        "product": str(rng.choice(["gates", "dense", "fused"], p=[0.5, 0.25, 0.25])),
        "terms": str(rng.choice(["each", "sum"])),
        "stepping": str(rng.choice(["given", "difference"])),
    }
    return ", ".join(options.values()), StageBackend(flow, arithmetic, **options)


def own_operators(flow: Flow) -> SimpleNamespace:
    """kpref's compiled stage kernels, which know no step as a program."""
    stage = flow.stage
    return SimpleNamespace(
        states=flow.states, P_s=stage.P, P_s_T=stage.P.T, J_s=stage.J, J_s_T=stage.J.T, K_s=stage.K, P=flow.P,
        P_T=flow.P.T, D=flow.D, D_T=flow.D.T, D_z0=flow.D_z0, gradient=flow.D.star, NTK=flow.NTK,
    )  # fmt: skip
