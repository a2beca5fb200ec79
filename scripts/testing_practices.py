"""How implementations of gradients and products are tested, and what of it would have noticed: one table, one figure.

    python scripts/testing_practices.py [--models NAME ...] [--arithmetics NAME ...] [--cases N] [--figure PATH]
                                        [--rows FILE]

Every practice is shown the same backends: correct ones with a defect planted in them (`apparatus.mutants`; those that
the rounding of their arithmetic hides are left out, see `oracle_power`), and correct ones, suspicious ones included, on
random problems. A defect is missed if no test of the practice fails; a false alarm is a correct backend of which one
does. Tolerances are those that the tools have by default, or that their own users take for short formats:

    allclose     every operator and the states against a right answer, |a - b| <= atol + rtol |b|, with the tolerances
                 of torch.testing.assert_close for the type (1e-7, 1e-7 in float64; 1.3e-6, 1e-5 in float32; 1.6e-2,
                 1e-5 in bfloat16), and 5e-3 for TF32, as in PyTorch's own tests
    gradcheck    torch.autograd.gradcheck in its fast mode, forward and backward, of the states by the parameters: a
                 projection of the Jacobian against central differences of the backend's own forward pass, eps 1e-6,
                 atol 1e-5, rtol 1e-3; in float64 alone, as it asks for
    check_grads  jax.test_util.check_grads, first order, both modes: eps 1e-4, tolerances by type (1e-5 in float64, 2e-3
                 in float32, 1e-1 in bfloat16), which it multiplies by the number of entries
    dot test     <A q, g> = <q, A^T g> for P, J, K and the NTK, as in PyLops: relative 1e-6; 1e-3 for float32, 1e-2
                 for TF32, 3e-2 for bfloat16
    Taylor test  what is left of the loss after its linear part falls as the square of the step: four halvings from 1e-2
                 on, smallest rate above 1.9, as in dolfin-adjoint
    twice        at most twice the error that another right implementation in the same arithmetic makes, as in the tests
                 of FlashAttention
    kpref        `kpref.oracle.verify`

Defects of metrics are none that the others could see, and are left out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))  # which holds the package `apparatus`

from apparatus.cases import NETWORKS, correct_backend, emulate, random_flow
from apparatus.mutants import MUTANTS
from apparatus.rows import rows
from oracle_power import KINDS, NAMES, mutant_flow, mutant_tasks, try_correct, try_mutant

from kpref import Flow
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.backend import OPERATORS

#: rtol and atol of an answer; tolerance of a gradient; relative one of a dot test.
ALLCLOSE = {"float64": (1e-7, 1e-7), "float32": (1.3e-6, 1e-5), "tf32": (5e-3, 5e-3), "bfloat16": (1.6e-2, 1e-5)}
GRADIENT = {"float64": 1e-5, "float32": 2e-3, "tf32": 2e-3, "bfloat16": 1e-1}
DOT = {"float64": 1e-6, "float32": 1e-3, "tf32": 1e-2, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Subject:
    """A backend that is tested, and what tests of it may use."""

    make: Callable[[Flow], Any]  # the backend of a problem; of the same problem with other parameters too
    flow: Flow
    arithmetic: str
    seed: int

    @cached_property
    def backend(self) -> Any:
        """The backend of the problem itself."""
        return self.make(self.flow)

    @cached_property
    def exact(self) -> Flow:
        """The reference, of the data that the backend holds."""
        store, model = ARITHMETICS[self.arithmetic].round, self.flow.model
        rounded = model.with_parameters({name: store(value) for name, value in model.parameters.items()})
        return Flow(rounded, store(self.flow.inputs), store(self.flow.z0), self.flow.space.mu)

    def states(self, parameters: np.ndarray) -> np.ndarray:
        """Those of the backend with other parameters (M,)."""
        flow, model = self.flow, self.flow.model.with_vector(parameters)
        return np.asarray(self.make(Flow(model, flow.inputs, flow.z0, flow.space.mu)).states, dtype=np.float64)

    def apply(self, operator: str, tensor: np.ndarray) -> np.ndarray:
        """What the backend answers."""
        return np.asarray(getattr(self.backend, operator)(tensor), dtype=np.float64)

    def probes(self) -> Iterator[tuple[str, np.ndarray]]:
        """An argument for each operator, which the arithmetic can hold."""
        rng = np.random.default_rng([self.seed, 7])
        for operator, (domain, _) in OPERATORS.items():
            if getattr(self.backend, operator, None) is not None:
                shape = self.flow.states.shape if domain == "trajectory" else (self.flow.model.n_parameters,)
                yield operator, ARITHMETICS[self.arithmetic].round(rng.normal(size=shape))

    def drawn(self, size: Any) -> np.ndarray:
        """Normal numbers."""
        return np.random.default_rng([self.seed, 8]).normal(size=size)


def right_answer(flow: Flow, operator: str, tensor: np.ndarray) -> np.ndarray:
    """Of the reference."""
    if operator == "gradient":
        return np.asarray(flow.D.T(flow.space.weigh(tensor)))
    name, _, transposed = operator.partition("_T")
    found = getattr(flow, name)
    return np.asarray((found.T if transposed or operator.endswith("_T") else found)(tensor))


# Practices: whether a test fails


def allclose(subject: Subject) -> bool:
    """Of the states, or of an operator."""
    rtol, atol = ALLCLOSE[subject.arithmetic]
    pairs = itertools.chain(
        [(np.asarray(subject.backend.states, dtype=np.float64), subject.exact.states)],
        ((subject.apply(name, q), right_answer(subject.exact, name, q)) for name, q in subject.probes()),
    )
    return not all(np.allclose(mine, right, rtol=rtol, atol=atol) for mine, right in pairs)


def _projections(subject: Subject, eps: float) -> tuple[np.ndarray, np.ndarray, float, float, float]:
    """The derivative along a direction by differences and by the backend, and its products with a cotangent."""
    theta = subject.flow.model.vector
    v, g = subject.drawn(theta.shape), np.random.default_rng([subject.seed, 9]).normal(size=subject.flow.states.shape)
    numerical = (subject.states(theta + eps * v) - subject.states(theta - eps * v)) / (2 * eps)
    tangent = subject.apply("P", subject.apply("J", v))
    backward = float(subject.apply("J_T", subject.apply("P_T", g)) @ v)
    in_the_measure = float(subject.apply("gradient", g) @ v)
    return numerical, tangent, float(np.vdot(g, numerical)), backward, in_the_measure - _weighed(subject, g, numerical)


def _weighed(subject: Subject, g: np.ndarray, numerical: np.ndarray) -> float:
    return float(np.vdot(subject.flow.space.weigh(g), numerical))


def gradcheck(subject: Subject) -> bool | None:
    """None where PyTorch would not run it."""
    if subject.arithmetic != "float64":
        return None
    numerical, tangent, projected, backward, gap = _projections(subject, 1e-6)
    u = subject.drawn(numerical.shape)
    forward, by_differences = float(np.vdot(u, tangent)), float(np.vdot(u, numerical))
    near = [
        abs(forward - by_differences) <= 1e-5 + 1e-3 * abs(by_differences),
        abs(backward - projected) <= 1e-5 + 1e-3 * abs(projected),
        abs(gap) <= 1e-5 + 1e-3 * abs(projected),
    ]
    return not all(near)


def check_grads(subject: Subject) -> bool:
    """The number of entries multiplies the tolerances, as in JAX."""
    numerical, tangent, projected, backward, gap = _projections(subject, 1e-4)
    tolerance = GRADIENT[subject.arithmetic]
    many = tolerance * numerical.size
    near = [
        np.allclose(tangent, numerical, rtol=many, atol=many),
        abs(backward - projected) <= tolerance * (1 + abs(projected)),
        abs(gap) <= tolerance * (1 + abs(projected)),
    ]
    return not all(near)


def dot_test(subject: Subject) -> bool:
    """Of P and J with their transposes, of K and the NTK with themselves in the measure."""
    rng, rtol = np.random.default_rng([subject.seed, 10]), DOT[subject.arithmetic]
    weigh, shape = subject.flow.space.weigh, subject.flow.states.shape
    near = []
    for operator, other in (("P", "P_T"), ("J", "J_T"), ("K", "K"), ("NTK", "NTK")):
        q = rng.normal(size=shape if operator != "J" else subject.flow.model.n_parameters)
        g = rng.normal(size=shape)
        left, right = subject.apply(operator, q), subject.apply(other, g)
        if operator == other:
            q, g = weigh(q), weigh(g)
        near.append(np.isclose(np.vdot(left, g), np.vdot(q, right), rtol=rtol, atol=1e-21))
    return not all(near)


def taylor_test(subject: Subject) -> bool:
    """Of the loss ``E |z - y|^2 / 2`` along a direction of unit length."""
    theta, space = subject.flow.model.vector, subject.flow.space
    wanted, direction = subject.drawn(space.shape), subject.drawn(theta.shape)
    direction /= np.linalg.norm(direction)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        gap = subject.states(parameters) - wanted
        return float(np.vdot(space.weigh(gap), gap)) / 2, gap

    value, gap = loss(theta)
    slope = float(subject.apply("gradient", ARITHMETICS[subject.arithmetic].round(gap)) @ direction)
    steps = 0.01 * 0.5 ** np.arange(5)
    left = np.array([abs(loss(theta + h * direction)[0] - value - h * slope) for h in steps])
    with np.errstate(divide="ignore", invalid="ignore"):
        return not bool((np.log2(left[:-1] / left[1:]) > 1.9).all())


def twice(subject: Subject) -> bool:
    """Of the largest error of each operator, and of the states."""
    other = emulate(subject.flow, ARITHMETICS[subject.arithmetic], summation="reversed")
    mine, exact = subject.backend, subject.exact
    pairs = [(np.asarray(mine.states, dtype=np.float64), other.states, exact.states)]
    for name, q in subject.probes():
        pairs.append((subject.apply(name, q), getattr(other, name)(q), right_answer(exact, name, q)))
    return not all(np.abs(a - right).max() <= 2 * np.abs(b - right).max() for a, b, right in pairs)


PRACTICES: dict[str, Callable[[Subject], bool | None]] = {
    "allclose": allclose,
    "gradcheck": gradcheck,
    "check_grads": check_grads,
    "dot test": dot_test,
    "Taylor test": taylor_test,
    "twice": twice,
}
OURS = "kpref"


@dataclass(frozen=True)
class Noticed:
    """By which practice a backend is accused; by none at all that is not shown to them."""

    arithmetic: str
    by: dict[str, bool | None]


def failed(subject: Subject) -> dict[str, bool | None]:
    """For each practice whether a test of it fails; one that raises does."""
    found: dict[str, bool | None] = {}
    with np.errstate(all="ignore"):
        for name, practice in PRACTICES.items():
            try:
                found[name] = practice(subject)
            except Exception:  # a backend that cannot be called is noticed by everybody
                found[name] = True
    return found


# Who is tested


def planted(task: tuple[str, str, str, int]) -> Noticed:
    """What notices a mutant; nothing for one that rounding hides."""
    name, kind, arithmetic, seed = task
    catch = try_mutant(task)
    if catch.outcome == "hidden":
        return Noticed(arithmetic, {})
    mutant = MUTANTS[name]

    def make(flow: Flow) -> Any:
        backend = emulate(flow, ARITHMETICS[arithmetic])
        mutant.plant(backend)
        return backend

    subject = Subject(make, mutant_flow(kind, mutant.weighted, seed), arithmetic, seed)
    return Noticed(arithmetic, {**failed(subject), OURS: catch.outcome == "caught"})


def correct(task: tuple[str, int], names: tuple[str, ...] = ()) -> Noticed:
    """What accuses a correct backend."""
    arithmetic, seed = task

    def make(flow: Flow) -> Any:
        return correct_backend(flow, ARITHMETICS[arithmetic], seed)[1]

    subject = Subject(make, random_flow(seed, names), arithmetic, seed)
    return Noticed(arithmetic, {**failed(subject), OURS: try_correct(task, names).verdict == "defect"})


# What is shown


def counts(defects: list[Noticed], right: list[Noticed]) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    """Of a practice in an arithmetic: defects missed and shown, correct backends accused and shown."""
    table = {}
    for practice, arithmetic in itertools.product((*PRACTICES, OURS), dict.fromkeys(d.arithmetic for d in defects)):
        seen, shown = (
            [each.by[practice] for each in them if each.arithmetic == arithmetic and each.by.get(practice) is not None]
            for them in (defects, right)
        )
        table[practice, arithmetic] = (seen.count(False), len(seen), shown.count(True), len(shown))
    return table


def print_table(table: dict[tuple[str, str], tuple[int, int, int, int]]) -> None:
    """Missed of the defects that rounding does not hide, and accused of the correct backends."""
    arithmetics = list(dict.fromkeys(name for _, name in table))
    print("| practice | " + " | ".join(f"{name}: missed | accused" for name in arithmetics) + " |")
    print("| --- |" + " --- | --- |" * len(arithmetics))
    for practice in (*PRACTICES, OURS):
        cells = []
        for name in arithmetics:
            missed, shown, accused, right = table[practice, name]
            cells += [f"{missed} of {shown}" if shown else "", f"{accused} of {right}" if right else ""]
        print(f"| {practice} | " + " | ".join(cells) + " |")


def draw(table: dict[tuple[str, str], tuple[int, int, int, int]], path: Path) -> None:
    """Both shares of each practice, all arithmetics together: in the corner, nothing is missed and nobody accused."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    ax = figure.add_subplot()
    for practice in (*PRACTICES, OURS):
        missed, shown, accused, right = np.sum([row for key, row in table.items() if key[0] == practice], axis=0)
        x, y = 100 * accused / max(right, 1), 100 * missed / max(shown, 1)
        ours = practice == OURS
        ax.plot(x, y, "o", ms=10 if ours else 7, color="#c2410c" if ours else "#334155", clip_on=False, zorder=3)
        place = "left" if x < 20 else "center"  # of the numbers there is a table
        ax.annotate(practice, (x, y), xytext=(0, 9), textcoords="offset points", ha=place, fontsize=10)
    ax.set_xlabel("correct backends accused, %")
    ax.set_ylabel("planted defects missed, %")
    ax.set_xlim(0, 1.12 * ax.get_xlim()[1])
    ax.set_ylim(0, 1.12 * ax.get_ylim()[1])
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200, help="correct backends per arithmetic (default: 200)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--arithmetics", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--models", nargs="+", choices=NETWORKS, help="networks (default: all)")
    parser.add_argument("--figure", type=Path, help="where the figure goes")
    parser.add_argument("--rows", type=Path, help="file that rows are kept in, and taken from by the next run")
    options = parser.parse_args()
    names = tuple(options.models or ())
    tasks = [
        task
        for task in mutant_tasks(options.arithmetics, 1, names or tuple(KINDS))
        if MUTANTS[task[0]].operator != "metrics"
    ]
    defects = rows(planted, tasks, Noticed, options.processes, "mutants", options.rows)
    cases = list(itertools.product(options.arithmetics, range(options.cases)))
    title = " ".join(("correct backends", *names))
    right = rows(partial(correct, names=names), cases, Noticed, options.processes, title, options.rows)
    table = counts(defects, right)
    print_table(table)
    if options.figure is not None:
        draw(table, options.figure)


if __name__ == "__main__":
    main()
