"""Problems of whole numbers: who is right to the last bit, and which planted defects that finds, with no tolerance.

The first table holds backends against `kpref.oracle.verify_exact` on problems of different seeds, networks of relu in
float64 and float32: kpref's own operators, and PyTorch and JAX where they are installed. The second plants the mutants
of `apparatus.mutants` in a correct backend; one that is not caught on one problem is planted in the next.

    python scripts/exact.py [--problems N] [--backends NAME ...] [--defects N] [--rows FILE]
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))  # which holds the package `apparatus`

from apparatus.cases import emulate
from apparatus.further import FURTHER
from apparatus.mutants import MUTANTS
from apparatus.rows import rows

from kpref import Flow
from kpref.oracle import NotExact, flow_backend, integer_flow, jax_backend, torch_backend, verify_exact
from kpref.oracle.arithmetic import ARITHMETICS

PRECISIONS = ("float64", "float32")
#: Trials, steps, units of a problem.
SIZES = (4, 8, 12)


def of_torch(flow: Flow, precision: str) -> Any:
    """The relu network of PyTorch."""
    import torch

    model: Any = flow.model
    module = torch.nn.RNN(model.n_inputs, model.n_units, nonlinearity="relu").to(getattr(torch, precision))
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), model.parameters.values(), strict=True):
            parameter.copy_(torch.tensor(value))
    return torch_backend(module, flow.inputs, flow.z0, "sum")


def relu_step(p: Any, z: Any, x: Any) -> Any:
    """One step in JAX; one function, which is compiled once for all problems."""
    import jax

    return jax.nn.relu(z @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias_ih"] + p["bias_hh"])


def of_jax(flow: Flow, precision: str) -> Any:
    """The relu network written in JAX."""
    parameters = {name: np.asarray(value, precision) for name, value in flow.model.parameters.items()}
    return jax_backend(relu_step, parameters, flow.inputs, flow.z0, "sum")


BACKENDS: dict[str, Callable[[Flow, str], Any]] = {"kpref": flow_backend, "torch": of_torch, "jax": of_jax}


@dataclass(frozen=True)
class Judged:
    """Whether a backend is right on a problem, and how many of its answers are."""

    backend: str
    precision: str
    seed: int
    passed: bool
    answers: int


def seeds(count: int) -> list[int]:
    """The first of so many problems whose numbers fit into float32."""

    def fits(seed: int) -> bool:
        flow = integer_flow("rnn", *SIZES, seed=seed)
        try:
            verify_exact(flow_backend(flow, "float32"), flow)
        except NotExact:
            return False
        return True

    return list(itertools.islice(filter(fits, itertools.count()), count))


def judge(task: tuple[str, str, int]) -> Judged:
    """A backend, in a precision, on the problem of a seed."""
    name, precision, seed = task
    flow = integer_flow("rnn", *SIZES, seed=seed)
    report = verify_exact(BACKENDS[name](flow, precision), flow)
    return Judged(*task, report.passed, sum(check.verdict == "pass" for check in report.checks))


def print_table(found: list[Judged]) -> None:
    """How many problems each backend is right on, and how many answers of its operators were equal."""
    print(f"{'':<8}{'':<10}{'problems':>10}{'equal':>8}{'differ':>8}{'answers':>9}")
    for name, precision in dict.fromkeys((row.backend, row.precision) for row in found):
        here = [row for row in found if (row.backend, row.precision) == (name, precision)]
        equal, answers = sum(row.passed for row in here), sum(row.answers for row in here)
        print(f"{name:<8}{precision:<10}{len(here):>10}{equal:>8}{len(here) - equal:>8}{answers:>9}")
        wrong = [row.seed for row in here if not row.passed]
        print(f"  seeds of those that differ: {wrong}\n" if wrong else "", end="")


def planted(count: int | None) -> str:
    """What becomes of mutants of the relu network: caught on which problem, in the right operator and class."""
    names = [
        name
        for name, mutant in MUTANTS.items()
        # Whole numbers are the same in a coarser arithmetic that holds them, and these problems are small.
        if "rnn" in mutant.models
        and mutant.operator != "metrics"
        and not name.endswith("precision")
        and mutant not in FURTHER
    ]
    chosen = names if count is None else [names[i * len(names) // count] for i in range(count)]
    lines, totals = [f"{'':<34}{'problem':>8}  {'first wrong entry, and the guess at what is wrong'}"], Counter[str]()
    for name in chosen:
        for seed in range(3):
            check = _caught(name, seed)
            if check is not None:
                break
        if check is None:
            lines.append(f"{name:<34}{'escaped':>8}")
            continue
        guess = check.guess or "no guess"
        totals["caught"] += 1
        totals["class"] += guess.split(":")[0] in MUTANTS[name].classes
        lines.append(f"{name:<34}{seed:>8}  {check.message.split(';')[0]}; {guess}")
    return "\n".join([*lines, f"{len(chosen)} planted, {totals['caught']} caught, class right: {totals['class']}"])


def _caught(name: str, seed: int) -> Any:
    """The check that finds a mutant in its own operator; weights of the measure differ from point to point."""
    flow = integer_flow("rnn", *SIZES, seed=seed)
    weights = np.random.default_rng(seed).integers(1, 4, flow.states.shape[:2]).astype(float)
    flow = Flow(flow.model, flow.inputs, flow.z0, weights)
    backend = emulate(flow, ARITHMETICS["float64"])
    MUTANTS[name].plant(backend)
    report = verify_exact(backend, flow)
    return next((check for check in report.defects if check.operator == MUTANTS[name].operator), None)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=200, help="of each backend and precision (default: 200)")
    parser.add_argument("--backends", nargs="+", choices=tuple(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--defects", type=int, help="how many are planted (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="for the first table (default: 2)")
    parser.add_argument("--rows", type=Path, help="file that its rows are kept in, and taken from by the next run")
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    print(f"Whole numbers: {' x '.join(map(str, SIZES))} trials, steps, units; equal to the last bit, or not")
    tasks = list(itertools.product(arguments.backends, PRECISIONS, seeds(arguments.problems)))
    print_table(rows(judge, tasks, Judged, arguments.processes, "exact", arguments.rows))
    print("\nPlanted defects, with no tolerance")
    print(planted(arguments.defects))


if __name__ == "__main__":
    main()
