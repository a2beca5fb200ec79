"""The arithmetics of correct backends, as the oracle measures them: three questions, a table.

For each profile of `apparatus.cases.PROFILES` networks of several kinds are run in it, one a seed. Measured: how often
the profile is found as it is, errors of functions to a factor of 1.5. Declared: how many are right as declared.
Undeclared: how many of those that declare float32 are reported as coarser, with no reason that is not true.

    python scripts/profiles.py [--seeds N] [--profiles NAME ...] [--models NAME ...] [--rows FILE]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))  # which holds the package `apparatus`

from apparatus.cases import PROFILES, emulate, make_flow
from apparatus.offered import offering
from apparatus.rows import rows

from kpref import Flow
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic
from kpref.oracle.measured import Profile
from kpref.oracle.measurement import measure_profile
from kpref.oracle.problem import MODELS
from kpref.oracle.verdict import Report
from kpref.oracle.verification import verify

#: Networks all of whose profile is shown, but for the functions of some.
KINDS = ("gru", "rnn", "lstm", "stacked-gru", "leaky", "low-rank", "lru", "s4d", "mlp")
#: And those of which something is not: an MPN has no products of several terms, of W - W^T nothing shows the range.
FURTHER = ("mpn", "antisymmetric", "mgu", "gru-reset-before", "ugrnn", "cornn", "linear", "stacked-rnn", "stacked-lstm")
SUMMATIONS = ("plain", "reversed", "blocks", "pairwise")
FORMULAS = ("accurate", "stored")


def problem(kind: str, seed: int) -> Flow:
    """A problem of a seed: two to four trials, six to twelve steps, six to twenty units."""
    rng = np.random.default_rng([seed, 6])
    units = int(rng.integers(6, 21))
    model: Any = MODELS[kind].init(int(rng.integers(1, 4)), units, seed, 1.2)
    return make_flow(model, (int(rng.integers(2, 5)), int(rng.integers(6, 13))), seed)


def backends(profile: str, seed: int, declared: str | None = None) -> Any:
    """A factory of correct backends in a profile, by the seed's choice of order and formulas."""
    arithmetic = PROFILES[profile]

    def make(flow: Flow) -> Any:
        backend = emulate(flow, arithmetic, summation=SUMMATIONS[seed % 4], formulas=FORMULAS[seed % 2])
        backend = offering(backend, "P", "P_T", "J", "J_T", "K", "NTK", "gradient")
        backend.arithmetic = ARITHMETICS[declared] if declared else arithmetic
        return backend

    return make


def is_found(measured: Profile, true: Arithmetic) -> bool:
    """Whether a profile is as it should be; what is not coarser than storage counts as storage."""
    stored = true.unit
    found = (
        measured.storage,
        max(measured.operand or 0.0, stored),
        max(measured.result or 0.0, stored),
        measured.accumulate,
    )
    right = (stored, max(true.operand, stored), max(true.result, stored), true.accumulate)
    functions = all(
        within(error, max(true.elementary[name])) if name in true.elementary else max(error) <= max(true.error_of(name))
        for name, error in measured.elementary.items()
    )
    known = measured.smallest is not None and measured.largest is not None
    ranged = known and (measured.smallest, measured.largest) == (true.smallest, true.largest)
    return found == right and functions and ranged


def within(error: tuple[float, float], true: float) -> bool:
    """Whether an error is right to a factor of 1.5."""
    return true / 1.5 <= max(error) <= 1.5 * true


def reasons(profile: str) -> set[str]:
    """First words of all that may be said of a profile that is declared to be float32."""
    true, declared = PROFILES[profile], ARITHMETICS["float32"]
    found = {f"{name} errs" for name in true.elementary}
    if true.unit > declared.unit:
        found.add("numbers are")
    if true.smallest > declared.smallest:
        found.add("numbers below")
    if true.operand:
        found.add("operands of")
    if true.result:
        found.add("results of")
    if true.accumulate > declared.accumulate:
        found.add("sums in")
    return found


def is_reported(report: Report, profile: str) -> bool:
    """Whether a report says that the arithmetic is coarser than float32 for exactly the reasons that are true."""
    said = {" ".join(reason.split()[:2]) for reason in report.coarser}
    return said == reasons(profile) and report.outcome == "right as measured"


@dataclass(frozen=True)
class Answers:
    """Of one problem: what is right of the three, and what was said where it is not."""

    profile: str
    kind: str
    measured: bool
    declared: bool
    undeclared: bool | None  # None where there is nothing to report
    notes: list[str]


def ask(task: tuple[str, str, int]) -> Answers:
    """The three questions, of a profile, a kind of network and a seed."""
    name, kind, seed = task
    flow, notes = problem(kind, seed), []
    profile = measure_profile(backends(name, seed), flow)
    found = is_found(profile, PROFILES[name])
    if not found:
        notes.append(str(profile))
    right = verify(None, flow, factory=backends(name, seed))
    declared = right.outcome == "right as declared"
    if not declared:
        notes.append(f"declared: {right.outcome}; {right.coarser}; {[c.identifier for c in right.defects]}")
    reported = None
    if reasons(name):
        report = verify(None, flow, factory=backends(name, seed, "float32"))
        reported = is_reported(report, name)
        if not reported:
            notes.append(f"undeclared: {report.outcome}; {report.coarser}; {[c.identifier for c in report.defects]}")
    return Answers(name, kind, found, declared, reported, [f"{name}, {kind}, seed {seed}: {note}" for note in notes])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="problems for each profile and kind (default: 10)")
    parser.add_argument("--profiles", nargs="+", default=[*PROFILES], choices=[*PROFILES])
    parser.add_argument("--models", nargs="+", default=KINDS, choices=(*KINDS, *FURTHER))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="file that rows are kept in, and taken from by the next run")
    arguments = parser.parse_args()
    tasks = list(itertools.product(arguments.profiles, arguments.models, range(arguments.seeds)))
    found = rows(ask, tasks, Answers, arguments.processes, "profiles", arguments.rows)
    print(f"{'profile':<12}{'network':<13}{'measured':>10}{'declared':>10}{'undeclared':>12}")
    for name, kind in itertools.product(arguments.profiles, arguments.models):
        here = [row for row in found if (row.profile, row.kind) == (name, kind)]
        right = [[row.measured for row in here], [row.declared for row in here]]
        right.append([row.undeclared for row in here if row.undeclared is not None])
        shown = [f"{sum(each)}/{len(each)}" if each else "" for each in right]
        print(f"{name:<12}{kind:<13}{shown[0]:>10}{shown[1]:>10}{shown[2]:>12}")
    print("\n".join(note for row in found for note in row.notes))


if __name__ == "__main__":
    main()
