"""Problems of whole numbers: who is right to the last bit, and which planted defects that finds, with no tolerance.

The first table holds backends against `kpref.oracle.verify_exact` on problems of different seeds, networks of relu in
float64 and float32: kpref's own operators, and PyTorch and JAX where they are installed. The second plants the mutants
of `apparatus.mutants` in a correct backend; one that is not caught on one problem is planted in the next.

JAX compiles every operator of every problem anew, which takes minutes; JAX_DISABLE_JIT=1 leaves that out.

    python scripts/exact.py [--problems N] [--backends NAME ...] [--defects N]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))  # which holds the package `apparatus`

from apparatus.cases import emulate
from apparatus.further import FURTHER
from apparatus.mutants import MUTANTS

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


def of_jax(flow: Flow, precision: str) -> Any:
    """The relu network written in JAX."""
    import jax

    parameters = {name: np.asarray(value, precision) for name, value in flow.model.parameters.items()}

    def step(p: Any, z: Any, x: Any) -> Any:
        return jax.nn.relu(z @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias_ih"] + p["bias_hh"])

    return jax_backend(step, parameters, flow.inputs, flow.z0, "sum")


BACKENDS: dict[str, Callable[[Flow, str], Any]] = {"kpref": flow_backend, "torch": of_torch, "jax": of_jax}


def problems(count: int) -> Iterator[Flow]:
    """So many problems whose numbers fit into float32, each from the first seed that is left."""
    seed = found = 0
    while found < count:
        flow = integer_flow("rnn", *SIZES, seed=seed)
        seed += 1
        try:
            verify_exact(flow_backend(flow, "float32"), flow)
        except NotExact:
            continue
        found += 1
        yield flow


def table(flows: list[Flow], names: list[str]) -> Iterator[str]:
    """Lines: how many problems each backend is right on, and how many answers of its operators were equal."""
    yield f"{'':<8}{'':<10}{'problems':>10}{'equal':>8}{'differ':>8}{'answers':>9}"
    for name in names:
        for precision in PRECISIONS:
            counts: Counter[str] = Counter()
            for flow in tqdm(flows, desc=f"{name}, {precision}", disable=None):
                report = verify_exact(BACKENDS[name](flow, precision), flow)
                counts["equal" if report.passed else "differ"] += 1
                counts["answers"] += sum(check.verdict == "pass" for check in report.checks)
            numbers = f"{len(flows):>10}{counts['equal']:>8}{counts['differ']:>8}{counts['answers']:>9}"
            yield f"{name:<8}{precision:<10}{numbers}"


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
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    print(f"Whole numbers: {' x '.join(map(str, SIZES))} trials, steps, units; equal to the last bit, or not")
    for line in table(list(problems(arguments.problems)), arguments.backends):
        print(line, flush=True)
    print("\nPlanted defects, with no tolerance")
    print(planted(arguments.defects))


if __name__ == "__main__":
    main()
