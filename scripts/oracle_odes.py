"""What the oracle says of backends in continuous time: four tables.

The first shows it correct backends that take the steps of a flow, over all methods and arithmetics; the second defects
planted in them; the third continuous adjoints in NumPy and by SciPy, right and with a defect each; the last diffrax and
torchdiffeq, as far as they are installed, with the orders of their states and gradients.

    python scripts/oracle_odes.py [--cases N] [--methods NAME ...] [--tables NAME ...] [--models NAME ...]
        [--arithmetics NAME ...] [--rows FILE]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))  # which holds the package `apparatus`

from apparatus.adjoint_backends import ADJOINT_DEFECTS, AdjointBackend, held_flow
from apparatus.rows import rows
from apparatus.stage_emulation import StageBackend, correct_stage_backend, field_flow
from apparatus.stage_mutants import STAGE_MUTANTS

from kpref import Flow
from kpref.integrate import TABLEAUS
from kpref.models import Rate
from kpref.models.registry import registered
from kpref.oracle import verify, verify_convergence
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.verdict import Report

STEPS, TOLERANCES = (0.25, 0.125, 0.0625, 0.03125), (1e-4, 1e-6, 1e-8)


@dataclass(frozen=True)
class Judged:
    """What the oracle says of a correct backend."""

    arithmetic: str
    backend: str
    verdict: str
    accused: list[str]
    largest: dict[str, float]  # figure, by operator


@dataclass(frozen=True)
class Caught:
    """What the oracle says of a planted defect.

    Attributes
    ----------
    arithmetic, title : str
    shown : bool
        Whether the method has stages in which the defect shows.
    caught, operator, kind : bool
        Whether anything is accused, that operator alone, and of that class.
    figure : float
    guess : str
    excess : float
        Of one that is not caught, the errors of the defect alone over those of right backends.
    """

    arithmetic: str
    title: str
    shown: bool = False
    caught: bool = False
    operator: bool = False
    kind: bool = False
    figure: float = 0.0
    guess: str = "no guess"
    excess: float = 0.0


def judge_correct(task: tuple[int, str, str, str | None]) -> Judged:
    """The correct backend of a case: its arithmetic, method and field."""
    case, name, method, field = task
    flow = field_flow(case, method, name=field)
    words, backend = correct_stage_backend(flow, ARITHMETICS[name], case)
    title = f"case {case}, {name}, {method}, {field or 'rate or linear'}, {words}"
    if not np.isfinite(backend.states).all():  # rounding takes stages to where the field overflows
        return Judged(name, title, "no run", ["states"], {})
    report = verify(backend, flow, seed=case)
    largest: dict[str, float] = {}
    for check in report.checks:
        largest[check.operator] = max(largest.get(check.operator, 0.0), check.figure or 0.0)
    verdict = "accused" if report.defects else "passed" if report.passed else "no run"
    bad = [check.identifier for check in report.checks if check.verdict in ("defect", "could not run")]
    return Judged(name, title, verdict, bad, largest)


def correct(cases: int, methods: list[str], models: list[str], chosen: list[str], run: Any) -> None:
    """Correct backends, each of another problem, by arithmetic: of all cases those of the chosen ones."""
    names, fields = list(ARITHMETICS), models or [None]
    tasks = [
        (case, names[case % len(names)], methods[case // len(names) % len(methods)], fields[case % len(fields)])
        for case in range(cases)
        if names[case % len(names)] in chosen
    ]
    found = run(judge_correct, tasks, Judged, title="correct")
    columns = ("states", "P_s", "P_s_T", "J_s", "D", "D_T", "D_z0")
    print(f"{'':<10}{'cases':>7}{'accused':>9}{'no run':>8}{'':>2}" + "".join(f"{name:>7}" for name in columns))
    for name in chosen:
        here = [row for row in found if row.arithmetic == name]
        each = [sum(row.verdict == verdict for row in here) for verdict in ("accused", "no run")]
        largest = (max((row.largest.get(operator, 0.0) for row in here), default=0.0) for operator in columns)
        shown = "".join(f"{value:>7.2g}" for value in largest)
        print(f"{name:<10}{len(here):>7}{each[0]:>9}{each[1]:>8}{'':>2}{shown}")
    for row in found:
        if row.verdict != "passed":
            print(f"{row.verdict}: {row.backend}: {row.accused}")


def mutant_flow(method: str, input_kind: str, name: str | None = None) -> Flow:
    """The problem that defects are planted in: uneven steps, of a rate network or of the one that is named."""
    rng = np.random.default_rng(21)
    if name is not None:
        known = registered()[name]
        network = known.init(2, 5, 0, gain=1.2)
        biases = {
            key: value + rng.normal(size=value.shape) for key, value in network.parameters.items() if key == "bias"
        }
        network = network.with_parameters(biases)
        times, inputs = np.append(0.0, known.dt * np.cumsum(rng.uniform(0.5, 2.0, size=8))), rng.normal(size=(3, 9, 2))
        z0 = network.start + 0.2 * rng.normal(size=(3, network.n_states))
        return Flow(network, inputs, z0, times=times, method=method, input_kind=input_kind)
    model = Rate(
        rng.normal(size=(5, 2)), rng.normal(size=(5, 5)) / 2, rng.normal(size=5), tau=rng.uniform(0.5, 1.0, size=5)
    )
    times, inputs = np.append(0.0, np.cumsum(rng.uniform(0.1, 0.4, size=8))), rng.normal(size=(3, 9, 2))
    return Flow(model, inputs, rng.normal(size=(3, 5)), times=times, method=method, input_kind=input_kind)


def judge_planted(task: tuple[str, str, str], model: str | None = None) -> Caught:
    """A defect, in a method and an arithmetic."""
    name, method, title = task
    mutant, row = STAGE_MUTANTS[title], Caught(name, f"{method:<9} {title:<28}")
    if mutant.several and TABLEAUS[method].stages == 1:
        return row
    flow = mutant_flow(method, "hold" if "jump" in mutant.classes else "linear", model)
    right = StageBackend(flow, ARITHMETICS[name])
    backend = mutant.plant(right)
    offered = {} if mutant.operator == "states" else {mutant.operator: getattr(backend, mutant.operator)}
    if "jump" in mutant.classes and np.array_equal(backend.states, right.states):
        return row  # no stage of this method sees a jump
    report = verify(SimpleNamespace(arithmetic=name, states=backend.states, **offered), flow)
    accused = {check.operator for check in report.defects}
    guess = next((check.guess for check in report.defects if check.guess), "") or ""
    found = bool(accused), accused == {mutant.operator}, guess.partition(":")[0] in mutant.classes
    figure = max((check.figure or 0.0 for check in report.checks if check.operator == mutant.operator), default=0.0)
    excess = 0.0 if found[0] else excess_of(flow, method, name, title)
    return Caught(name, row.title, True, *found, figure, guess or "no guess", excess)


def excess_of(flow: Flow, method: str, name: str, title: str) -> float:
    """How many times as large as the errors of right backends those are that a defect alone makes, in the same check.

    Of right backends the root mean square of four is taken, the defect alone is planted in a backend in float64.
    """
    mutant, arithmetic = STAGE_MUTANTS[title], ARITHMETICS[name]
    figures: dict[str, list[float]] = {}
    for seed in range(4):
        right = correct_stage_backend(flow, arithmetic, seed)[1]
        for check in verify(right, flow, seed=seed).checks:
            if check.operator == mutant.operator and check.figure is not None:
                figures.setdefault(check.identifier, []).append(check.figure)
    model: Any = flow.model
    model = model.with_parameters({key: arithmetic.round(value) for key, value in model.parameters.items()})
    given = arithmetic.round(flow.inputs), arithmetic.round_state(flow.z0)
    kind: Any = "hold" if "jump" in mutant.classes else "linear"
    exact = Flow(model, *given, times=flow.solution.times, method=method, input_kind=kind)
    wrong = mutant.plant(StageBackend(exact, ARITHMETICS["float64"]))
    offered = {} if mutant.operator == "states" else {mutant.operator: getattr(wrong, mutant.operator)}
    report = verify(SimpleNamespace(arithmetic=name, states=wrong.states, **offered), exact)
    own = {key: float(np.sqrt(np.mean(np.square(values)))) for key, values in figures.items()}
    return max(((c.figure or 0.0) / own[c.identifier] for c in report.checks if own.get(c.identifier)), default=0.0)


def planted(names: list[str], methods: list[str], model: str | None, run: Any) -> None:
    """Defects in a model, by arithmetic; of those that are not caught, what they are, and how large beside rounding.

    Column `beyond 30` counts those that are not caught though more than 30 times as large as errors of right backends.
    """
    print(f"{'':<10}{'planted':>9}{'caught':>8}{'beyond 30':>11}{'operator':>10}{'class':>7}")
    tasks = list(itertools.product(names, methods, STAGE_MUTANTS))
    found = run(partial(judge_planted, model=model), tasks, Caught, title=f"planted {model or ''}")
    for name in names:
        here = [row for row in found if row.arithmetic == name and row.shown]
        print(
            f"{name:<10}{len(here):>9}{sum(row.caught for row in here):>8}"
            f"{sum(not row.caught and row.excess > 30 for row in here):>11}"
            f"{sum(row.operator for row in here):>10}{sum(row.kind for row in here):>7}"
        )
        for row in here:
            if not (row.caught and row.operator and row.kind):
                hidden = "" if row.caught else f"{row.excess:.3g} times right backends'"
                print(f"  {row.title} {row.figure:8.3g}  {row.guess} {hidden}")


def adjoints() -> None:
    """Continuous adjoints in NumPy, by steps of the classical method, and by SciPy, by tolerance."""
    flow = held_flow()
    for by, levels, order in (("step", STEPS, 4.0), ("tolerance", TOLERANCES, None)):
        for defect in ("", *ADJOINT_DEFECTS):
            if (by, defect) in (("step", "tolerance"), ("tolerance", "jump at the end")):
                continue  # a step is no tolerance; adaptive steps see to a stage beyond a jump
            report = verify_convergence(
                lambda level, by=by, defect=defect: AdjointBackend(flow, level, by, defect), flow, levels, order, by  # type: ignore[arg-type]
            )  # fmt: skip
            print_orders(f"NumPy, {by}: {defect or 'right'}", report)


def print_orders(title: str, report: Report) -> None:
    """One line: fitted orders, and what was found."""
    fitted = {check.operator: check.figure for check in report.checks if check.identifier.endswith("order")}
    orders = "".join(f"{value:>7.2f}" if value is not None else f"{'-':>7}" for value in fitted.values())
    found = sorted({str(check.guess) for check in report.defects})
    print(f"{title:<34}{orders}  {'pass' if report.passed else '; '.join(found)}", flush=True)


def packages() -> None:
    """diffrax and torchdiffeq."""
    flow = held_flow()
    given = flow.inputs, flow.z0, flow.solution.times
    if find_spec("diffrax"):
        import diffrax
        import jax
        import jax.numpy as jnp

        from kpref.oracle.adapters import diffrax_backend

        jax.config.update("jax_enable_x64", True)
        tau: Any = flow.model.tau  # type: ignore[attr-defined]

        def field(p: Any, z: Any, x: Any) -> Any:
            return (-z + jnp.tanh(z) @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias"]) / jnp.asarray(tau, z.dtype)

        def made(solver: Any, adjoint: Any, **how: Any) -> Any:
            return diffrax_backend(field, dict(flow.model.parameters), *given, solver, adjoint, **how)

        for method, solver in (("heun", diffrax.Heun()), ("tsit5", diffrax.Tsit5()), ("dopri5", diffrax.Dopri5())):
            same = Flow(flow.model, *given[:2], times=given[2], method=method)
            print(
                f"diffrax {method}, steps of a flow: {'pass' if verify(made(solver, 'direct'), same).passed else 'no'}"
            )
        for adjoint in ("direct", "backsolve"):
            for name, solver, order in (("Heun", diffrax.Heun(), 2), ("Tsit5", diffrax.Tsit5(), 5)):
                report = verify_convergence(lambda h, s=solver, a=adjoint: made(s, a, step=h), flow, STEPS, order)  # type: ignore[misc]
                print_orders(f"diffrax {name}, step: {adjoint}", report)
            report = verify_convergence(
                lambda level, a=adjoint: made(None, a, tolerance=level), flow, TOLERANCES, by="tolerance"  # type: ignore[misc]
            )  # fmt: skip
            print_orders(f"diffrax Tsit5, tolerance: {adjoint}", report)
    if find_spec("torchdiffeq"):
        import torch

        from kpref.oracle.adapters import torchdiffeq_backend

        leak = torch.as_tensor(np.array(flow.model.tau))  # type: ignore[attr-defined]
        parameters = {name: torch.as_tensor(np.array(value)) for name, value in flow.model.parameters.items()}

        def velocity(p: Any, z: Any, x: Any) -> Any:
            return (-z + torch.tanh(z) @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias"]) / leak

        for how in ("direct", "adjoint"):
            report = verify_convergence(
                lambda h, a=how: torchdiffeq_backend(velocity, parameters, *given, "rk4", a, step=h), flow, STEPS, 4  # type: ignore[misc]
            )  # fmt: skip
            print_orders(f"torchdiffeq rk4, step: {how}", report)
            report = verify_convergence(
                lambda t, a=how: torchdiffeq_backend(velocity, parameters, *given, "dopri5", a, tolerance=t),  # type: ignore[misc]
                flow, TOLERANCES, by="tolerance",
            )  # fmt: skip
            print_orders(f"torchdiffeq dopri5, tolerance: {how}", report)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="correct backends (default: 1000)")
    parser.add_argument("--methods", nargs="+", default=list(TABLEAUS), choices=[*TABLEAUS])
    tables = ("correct", "planted", "adjoints", "packages")
    parser.add_argument("--tables", nargs="+", default=tables, choices=tables)
    fields = [name for name, known in registered().items() if known.is_continuous]
    parser.add_argument("--models", nargs="+", choices=fields, help="in the first two tables (default: rate, linear)")
    named = ("float64", "float32", "tf32", "bfloat16")
    parser.add_argument(
        "--arithmetics",
        nargs="+",
        choices=list(ARITHMETICS),
        help=f"of the first two tables (default: all; {', '.join(named)} of planted defects); a case is of one of them",
    )
    parser.add_argument("--processes", type=int, default=2, help="for the first two tables (default: 2)")
    parser.add_argument("--rows", type=Path, help="file that rows of these are kept in, and taken from by the next run")
    arguments = parser.parse_args()
    models, run = arguments.models or [], partial(rows, processes=arguments.processes, kept=arguments.rows)
    if "correct" in arguments.tables:
        print("Correct backends of the same steps, and their largest figures")
        correct(arguments.cases, arguments.methods, models, arguments.arithmetics or list(ARITHMETICS), run)
    if "planted" in arguments.tables:
        for name in models or [None]:
            print(f"\nPlanted defects{f' in {name}' if name else ''}")
            planted(arguments.arithmetics or list(named), arguments.methods, name, run)
    if "adjoints" in arguments.tables:
        print(f"\nContinuous adjoints{'':<15}{'states':>7}{'theta':>7}{'z0':>7}")
        adjoints()
    if "packages" in arguments.tables:
        print(f"\nPackages{'':<26}{'states':>7}{'theta':>7}{'z0':>7}")
        packages()


if __name__ == "__main__":
    main()
