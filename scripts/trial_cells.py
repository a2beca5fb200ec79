"""Cells of `calibration` for traces trial by trial: networks of 8 to 100 trials, alike and not, trained and not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from calibration import Cell

from kpref import Flow, load_checkpoint
from kpref.data import example_folder
from kpref.models import RNN, Rate
from kpref.spectra.traces import trace
from kpref.trials import Trials

__all__ = ["trial_cells"]

PROBES = (2, 4, 6, 12)
TOLERANCES = (0.1, 0.03, 0.01)


def trial_cells() -> Iterator[Cell]:
    """Few products and tolerances; a network is made once its first cell is asked for."""
    for name, flow in networks():
        for kind, op in (("NTK", flow.NTK), ("K", flow.K)):
            run = partial(trace, op, "trials")
            truth = run(1 << 12).value  # exact: a pass for each state of a trial
            for probes in PROBES:
                words = f"trace trials, {kind}, {name}, {probes} products"
                yield Cell(words, lambda seed, run=run, probes=probes: run(probes, seed=seed), truth)  # type: ignore[misc]
            for tol in TOLERANCES:
                words = f"trace trials, {kind}, {name}, tol {tol:g}"
                yield Cell(words, lambda seed, run=run, tol=tol: run(256, tol, seed), truth)  # type: ignore[misc]


def networks() -> Iterator[tuple[str, Flow]]:
    """Trials that are alike, that end early, and that are not alike; the trained and the untrained GRU."""
    rng = np.random.default_rng(1)
    yield "RNN 8x10x6", Flow(RNN.init(2, 6, 2, gain=1.4), rng.normal(size=(8, 10, 2)))
    lengths = rng.integers(2, 11, size=20)
    yield "RNN 20x10x8, ending early", Flow(RNN.init(2, 8, 2), rng.normal(size=(20, 10, 2)), lengths=lengths)
    yield "RNN 40x20x12", Flow(RNN.init(2, 12, 2, gain=1.4), rng.normal(size=(40, 20, 2)))
    unlike = rng.normal(size=(100, 20, 2)) * np.exp(rng.normal(size=(100, 1, 1)))
    yield "RNN 100x20x12, unlike trials", Flow(RNN.init(2, 12, 2, gain=1.4), unlike)
    yield "rate ODE 30x13x6", Flow(Rate.init(2, 6, 1), rng.normal(size=(30, 13, 2)), dt=0.15)
    inputs: Any = Trials.load(example_folder() / "trials.npz").inputs
    for path in sorted(example_folder().glob("*.safetensors")):
        yield f"GRU 10x3x128, {path.stem}", Flow(load_checkpoint(path)[0], inputs[::10, :3])
