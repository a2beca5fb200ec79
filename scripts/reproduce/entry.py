"""What the ledger's scripts share: an entry says what a source claims, a finding what comes out here.

Each script of this folder holds one `ENTRY`, and a function ``find() -> Finding``; run alone, it prints both. Files
whose names begin with an underscore are shared by several of them. `ledger` runs all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOG = "Hazelden, Introduction to K-P Flow (blog, 2025)"
KPFLOW = "arXiv:2507.06381"
GLOBAL_NTK = "arXiv:2605.08746"
TRACES = "arXiv:2511.10796"
COLLAPSE = "arXiv:2605.12763"
UNKNOWN = "not stated here"


@dataclass(frozen=True)
class Entry:
    """A claim of a source.

    Attributes
    ----------
    title : str
    source : str
    claim : str
        In our words.
    setting : str
        Of the experiment here; and of the source, where it is another.
    reports : str
        What the source finds, `UNKNOWN` where we do not know a number.
    quantity : str
        What `Finding.value` is.
    """

    title: str
    source: str
    claim: str
    setting: str
    reports: str
    quantity: str


@dataclass(frozen=True, eq=False)
class Curve:
    """A line of a panel, or marks; `error` as bars."""

    label: str
    x: Any
    y: Any
    error: Any = None
    style: str = "-"


@dataclass(frozen=True, eq=False)
class Panel:
    """Data for a small figure; `log` names the axes that are logarithmic, such as "xy"."""

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    log: str = ""


@dataclass(frozen=True, eq=False)
class Finding:
    """What comes out.

    Attributes
    ----------
    value : float
    error : float
        Standard error over seeds; zero where nothing is random, or all seeds give one number.
    agrees : bool
    words : str
        A sentence with the evidence: where it does not agree, why.
    panel : Panel or None
    """

    value: float
    error: float
    agrees: bool
    words: str
    panel: Panel | None = None


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean of numbers from different seeds, and its standard error."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def timed(find: Callable[[], Finding]) -> tuple[Finding, float]:
    """A finding, and the seconds that it took."""
    begin = time.perf_counter()
    return find(), time.perf_counter() - begin


def report(entry: Entry, find: Callable[[], Finding]) -> None:
    """Print an entry with what is found."""
    finding, seconds = timed(find)
    print(f"{entry.title}\n")
    for name in ("source", "claim", "setting", "reports"):
        print(f"{name:>8}  {getattr(entry, name)}")
    print(f"{'found':>8}  {finding.value:.4g} +- {finding.error:.2g} ({entry.quantity})")
    print(f"{'':>8}  {'agrees' if finding.agrees else 'DOES NOT AGREE'}: {finding.words}")
    print(f"{'seconds':>8}  {seconds:.1f}")
