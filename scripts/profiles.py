"""The arithmetics of correct backends, as the oracle measures them: three questions, a table.

For each profile of `apparatus.cases.PROFILES` networks of several kinds are run in it, one a seed. Measured: how often
the profile is found as it is, errors of functions to a factor of 1.5. Declared: how many are right as declared.
Undeclared: how many of those that declare float32 are reported as coarser, with no reason that is not true.

    python scripts/profiles.py [--seeds N] [--profiles NAME ...] [--models NAME ...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))  # which holds the package `apparatus`

from apparatus.cases import PROFILES, emulate, make_flow
from apparatus.offered import offering

from kpref import Flow
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic
from kpref.oracle.measured import Profile
from kpref.oracle.measurement import measure_profile
from kpref.oracle.problem import MODELS
from kpref.oracle.verdict import Report
from kpref.oracle.verification import verify

KINDS = ("gru", "rnn", "lstm", "stacked-gru")
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="problems for each profile and kind (default: 10)")
    parser.add_argument("--profiles", nargs="+", default=[*PROFILES], choices=[*PROFILES])
    parser.add_argument("--models", nargs="+", default=KINDS, choices=KINDS)
    arguments = parser.parse_args()
    print(f"{'profile':<12}{'network':<13}{'measured':>10}{'declared':>10}{'undeclared':>12}")
    notes = []
    tasks = [(name, kind) for name in arguments.profiles for kind in arguments.models]
    for name, kind in tqdm(tasks, disable=None):
        counts = np.zeros(3, dtype=int)
        coarser = bool(reasons(name))
        for seed in range(arguments.seeds):
            flow = problem(kind, seed)
            profile = measure_profile(backends(name, seed), flow)
            right = verify(None, flow, factory=backends(name, seed))
            outcomes = [is_found(profile, PROFILES[name]), right.outcome == "right as declared", False]
            if coarser:
                undeclared = verify(None, flow, factory=backends(name, seed, "float32"))
                outcomes[2] = is_reported(undeclared, name)
            if not outcomes[0]:
                notes.append(f"{name}, {kind}, seed {seed}: {profile}")
            if not outcomes[1]:
                notes.append(f"{name}, {kind}, seed {seed}, declared: {right.outcome}; {right.coarser}")
            if coarser and not outcomes[2]:
                notes.append(f"{name}, {kind}, seed {seed}, undeclared: {undeclared.outcome}; {undeclared.coarser}")
            counts += outcomes
        shown = [f"{count}/{arguments.seeds}" for count in counts]
        print(f"{name:<12}{kind:<13}{shown[0]:>10}{shown[1]:>10}{shown[2] if coarser else '':>12}", flush=True)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
