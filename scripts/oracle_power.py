"""What the oracle catches, and whom it accuses: two tables.

The first plants every mutant of `apparatus.mutants` in every kind of network that it makes sense for, in float64,
float32, TF32 and bfloat16. A mutant that escapes is planted once more in float64, where it is all that is wrong, and
its size given in deviations of the rounding errors of the arithmetic: below the bound of the check it is counted as
hidden, above it as escaped, and as one of those beyond 30 if it is so many times as large as the errors of right
backends in the same check: the root mean square over eight of them, which sum in different orders. The second shows
correct backends, suspicious ones included, to the oracle, in these arithmetics or in others of
`apparatus.cases.PROFILES` that they declare.

    python scripts/oracle_power.py [--models NAME ...] [--arithmetics NAME ...] [--cases N] [--problems N] [--rows FILE]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))  # which holds the package `apparatus`

from apparatus.cases import NETWORKS, PROFILES, correct_backend, emulate, make_flow, random_flow
from apparatus.mutants import MUTANTS
from apparatus.rows import rows

from kpref import Flow
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.problem import MODELS
from kpref.oracle.verdict import Report
from kpref.oracle.verification import verify

#: Right backends that a defect is measured by.
_RIGHT = 8

NAMES = ("float64", "float32", "tf32", "bfloat16")
#: Networks that mutants are planted in, and options beside their size.
KINDS: dict[str, dict[str, Any]] = {
    "gru": {},
    "rnn": {},
    "leaky": {"alpha": 0.3},
    "lstm": {},
    "low-rank": {"alpha": 0.3},
    "stacked-gru": {},
}


@dataclass(frozen=True)
class Catch:
    """What became of a mutant.

    Attributes
    ----------
    mutant, kind, arithmetic : str
    outcome : {"caught", "hidden", "escaped"}
    right_operator : bool
        Whether no operator is named that it cannot show in.
    right_class : bool
    guess : str
        Of the first defect found in its operator.
    size : float
        Largest error in deviations; of one that is hidden, of the defect alone.
    seed : int
        Of the problem.
    excess : float
        Of one that was not caught, the largest error of the defect alone over that of right backends, by check.
    """

    mutant: str
    kind: str
    arithmetic: str
    outcome: str
    right_operator: bool
    right_class: bool
    guess: str
    size: float
    seed: int
    excess: float = 0.0


@dataclass(frozen=True)
class Alarm:
    """What the oracle said to a correct backend."""

    seed: int
    backend: str
    arithmetic: str
    verdict: str
    complaints: Sequence[str]
    largest: dict[str, float]  # figure, by kind of check


#: Kinds of checks of a correct backend whose largest figures are shown.
COLUMNS = ("residual", "value", "swept", "identity")


def mutant_flow(kind: str, weighted: bool, seed: int = 0, shape: tuple[int, int] = (3, 12), units: int = 6) -> Flow:
    """The problem that mutants are planted in."""
    model: Any = MODELS[kind].init(2, units, seed, gain=1.2, **KINDS.get(kind, {}))
    weights = np.random.default_rng([seed, 4]).uniform(0.1, 2.0, size=shape)
    return make_flow(model, shape, seed, weights if weighted else "mean")


def try_mutant(
    task: tuple[str, str, str, int], offered: Callable[[Any], Any] = lambda backend: backend, **size: Any
) -> Catch:
    """Plant a mutant in a kind of network, in an arithmetic, for a seed.

    `offered` makes of the backend what the oracle is shown, `size` goes to `mutant_flow` unless the mutant has one.
    """
    name, kind, arithmetic, seed = task
    mutant = MUTANTS[name]
    flow = mutant_flow(kind, mutant.weighted, seed, **(mutant.size or size))
    backend = emulate(flow, ARITHMETICS[arithmetic])
    mutant.plant(backend)
    report = verify(offered(backend), flow, seed=seed)
    accused = {check.operator for check in report.defects}
    found = [check for check in report.defects if check.operator == mutant.operator]
    if not found:
        alone = _alone(name, flow, arithmetic, seed)
        figures = [c.figure for c in alone.checks if c.operator == mutant.operator and c.figure is not None]
        spread = right_spread(flow, arithmetic, offered)
        excess = max(
            (
                (c.figure or 0.0) / spread[c.identifier]
                for c in alone.checks
                if c.operator == mutant.operator and spread.get(c.identifier)
            ),
            default=0.0,  # a network that has nothing of the kind: what was planted is a right backend, to the last bit
        )
        hidden = not any(check.operator == mutant.operator for check in alone.defects)
        outcome = "hidden" if hidden else "escaped"
        return Catch(name, kind, arithmetic, outcome, False, False, "", max(figures, default=0.0), seed, excess)
    right = mutant.operator in accused and accused <= mutant.affected
    guess = next((check.guess for check in found if check.guess), "")
    classes = guess.split(":")[0] in mutant.classes
    size = max(check.figure or np.inf for check in found)
    return Catch(name, kind, arithmetic, "caught", right, classes, guess, size, seed)


def right_spread(flow: Flow, arithmetic: str, offered: Callable[[Any], Any]) -> dict[str, float]:
    """Root mean square of the figures that right backends have in problems like this one, by check.

    One backend is no measure: the error of a single number may be near zero by chance, and where sums are taken in
    pairs it is far below that of sums one after another, which are as right. Nor is one problem: all right backends may
    store the same number, which may lie near the exact one by chance.
    """
    figures: dict[str, list[float]] = {}
    for seed in range(_RIGHT):
        near = Flow(flow.model, flow.inputs * (1 + seed / 64), flow.z0, flow.space.mu)
        _, backend = correct_backend(near, ARITHMETICS[arithmetic], seed)
        for check in verify(offered(backend), near, seed=seed).checks:
            if check.figure is not None:
                figures.setdefault(check.identifier, []).append(check.figure)
    return {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in figures.items()}


def _alone(name: str, flow: Flow, arithmetic: str, seed: int) -> Report:
    """The mutant in a backend that does not round otherwise, judged by the bounds of the arithmetic."""
    round_ = ARITHMETICS[arithmetic].round
    model = flow.model.with_parameters({key: round_(value) for key, value in flow.model.parameters.items()})
    exact = Flow(model, round_(flow.inputs), round_(flow.z0), flow.space.mu)
    backend = emulate(exact, ARITHMETICS["float64"])
    MUTANTS[name].plant(backend)
    return verify(backend, exact, arithmetic, seed)


def mutant_tasks(
    arithmetics: Iterable[str] = NAMES, problems: int = 1, kinds: Collection[str] = tuple(KINDS)
) -> list[tuple[str, str, str, int]]:
    """Every mutant in every kind of network and arithmetic that it can exist in, in a number of problems each.

    In networks beyond `KINDS` are those planted that make sense for all of these.
    """
    further = tuple(kind for kind in kinds if kind not in KINDS)
    return [
        (name, kind, arithmetic, seed)
        for (name, mutant), arithmetic in itertools.product(MUTANTS.items(), arithmetics)
        if arithmetic in mutant.arithmetics
        for kind in (*mutant.models, *(further if set(mutant.models) == set(KINDS) else ()))
        if kind in kinds
        for seed in range(problems)
    ]


def try_correct(task: tuple[str, int], names: Sequence[str] = ()) -> Alarm:
    """Show a correct backend to the oracle, of any network or one of those that are named."""
    arithmetic, seed = task
    flow = random_flow(seed, names)
    name, backend = correct_backend(flow, PROFILES[arithmetic], seed)
    report = verify(backend, flow, seed=seed)
    complaints = tuple(str(check) for check in report.checks if check.verdict in ("defect", "could not run"))
    largest = dict.fromkeys(COLUMNS, 0.0)
    for check in report.checks:
        kind = kind_of(check.identifier)
        largest[kind] = max(largest[kind], check.figure or 0.0)
    verdict = "defect" if report.defects else "pass" if report.passed else "could not run"
    return Alarm(seed, f"{name}; {flow}", arithmetic, verdict, complaints, largest)


def kind_of(identifier: str) -> str:
    """The column of `COLUMNS` that a check belongs to."""
    operator, kind = identifier.split(".")
    if kind == "value" and operator in ("NTK", "gradient"):
        return "swept"
    if operator == "J" and kind.startswith(("weight", "bias")):
        return "value"
    return kind if kind in COLUMNS else "identity"


def power_table(catches: list[Catch]) -> str:
    """Counts for each arithmetic, and every mutant that was not caught, or was put in the wrong class."""
    lines = [
        f"{'':<10}{'planted':>9}{'caught':>9}{'hidden':>9}{'escaped':>9}{'beyond 30':>11}{'operator':>10}{'class':>9}"
    ]
    for name in dict.fromkeys(catch.arithmetic for catch in catches):
        here = [catch for catch in catches if catch.arithmetic == name]
        caught = [catch for catch in here if catch.outcome == "caught"]
        counts = [sum(catch.outcome == outcome for catch in here) for outcome in ("caught", "hidden", "escaped")]
        beyond = sum(catch.outcome != "caught" and catch.excess > 30 for catch in here)
        operator, kind = (sum(getattr(c, f"right_{what}") for c in caught) for what in ("operator", "class"))
        lines.append(
            f"{name:<10}{len(here):>9}" + "".join(f"{count:>9}" for count in counts)
            + f"{beyond:>11}"
            + f"{operator / max(len(caught), 1):>10.1%}{kind / max(len(caught), 1):>9.1%}"
        )  # fmt: skip
    for title, wanted in (
        ("hidden below the arithmetic's own noise (largest error of the defect alone, in deviations)", "hidden"),
        ("escaped", "escaped"),
    ):
        chosen = [catch for catch in catches if catch.outcome == wanted]
        lines += [f"{title}:"] * bool(chosen)
        lines += [
            f"  {c.arithmetic:<9} {c.kind:<11} {c.mutant:<32} {c.size:.3g} in problem {c.seed}, "
            f"{c.excess:.3g} times a right backend's"
            for c in chosen
        ]
    wrong = [c for c in catches if c.outcome == "caught" and not (c.right_operator and c.right_class)]
    lines += ["caught, but the operator or the class is wrong:"] * bool(wrong)
    for c in wrong:
        what = "class" if c.right_operator else "operator"
        lines.append(
            f"  {c.arithmetic:<9} {c.kind:<11} {c.mutant:<32} in problem {c.seed}, {what}: {c.guess or 'no guess'}"
        )
    return "\n".join(lines)


def alarm_table(alarms: list[Alarm]) -> str:
    """Counts for each arithmetic, the largest figures, and every accusation."""
    lines = [f"{'':<10}{'cases':>8}{'accused':>9}{'no run':>8}" + "".join(f"{c:>10}" for c in COLUMNS)]
    for name in dict.fromkeys(alarm.arithmetic for alarm in alarms):
        here = [alarm for alarm in alarms if alarm.arithmetic == name]
        largest = {kind: max(alarm.largest.get(kind, 0.0) for alarm in here) for kind in COLUMNS}
        counts = [sum(alarm.verdict == verdict for alarm in here) for verdict in ("defect", "could not run")]
        lines.append(
            f"{name:<10}{len(here):>8}{counts[0]:>9}{counts[1]:>8}" + "".join(f"{v:>10.3g}" for v in largest.values())
        )
    for alarm in alarms:
        if alarm.verdict != "pass":
            lines.append(f"seed {alarm.seed}, {alarm.arithmetic}, {alarm.backend}:")
            lines += [f"  {line}" for text in alarm.complaints for line in text.splitlines()]
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="correct backends per arithmetic (default: 2000)")
    parser.add_argument("--problems", type=int, default=1, help="problems for each mutant and kind (default: 1)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--arithmetics", nargs="+", default=NAMES, choices=[*PROFILES])
    parser.add_argument("--models", nargs="+", choices=NETWORKS, help="networks (default: all)")
    tables = ("mutants", "correct")
    parser.add_argument("--tables", nargs="+", default=tables, choices=tables)
    parser.add_argument("--rows", type=Path, help="file that rows are kept in, and taken from by the next run")
    arguments = parser.parse_args()
    names, kept = tuple(arguments.models or ()), arguments.rows
    if "mutants" in arguments.tables:
        chosen = [name for name in arguments.arithmetics if name in NAMES]
        planted = mutant_tasks(chosen, arguments.problems, names or KINDS)
        catches = rows(try_mutant, planted, Catch, arguments.processes, "mutants", kept)
        print(f"Power: {len(MUTANTS)} mutants planted in correct backends")
        print(power_table(catches), flush=True)
    if "correct" in arguments.tables:
        cases = list(itertools.product(arguments.arithmetics, range(arguments.cases)))
        title = " ".join(("correct backends", *names))
        alarms = rows(partial(try_correct, names=names), cases, Alarm, arguments.processes, title, kept)
        print("\nFalse alarms: correct backends, and the largest figure of each kind of check")
        print(alarm_table(alarms))


if __name__ == "__main__":
    main()
