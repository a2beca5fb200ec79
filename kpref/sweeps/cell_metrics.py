"""What is measured of a network at the end of a cell: numbers by name, each computed only if it is asked for.

With P, K, D and NTK = D D* of the trained parameters on the trials of the cell, Err of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.analysis.settings import Objective
from kpref.flow import Flow, GradientFlow
from kpref.models.base import Model
from kpref.readout import Readout
from kpref.spectra import (
    Estimate,
    adjoint_trace,
    alignment,
    effective_dimension,
    eigh,
    kernel_effective_dimension,
    lyapunov_exponents,
    ntk_trace_exact,
    propagator_gram_trace,
)
from kpref.spectra.closed_form import kernel_unit_trace
from kpref.trials import Trials

__all__ = ["METRICS", "Measured", "Metric"]


@dataclass(frozen=True, eq=False)
class Measured:
    """A network on trials, and what metrics share of it."""

    model: Model
    readout: Readout | None
    z0: Array | None
    trials: Trials
    objective: Objective
    trainable: tuple[str, ...] | None
    options: Mapping[str, Any]
    seed: int
    # before it was trained; None of a checkpoint
    first: Model | None = None
    first_z0: Array | None = None
    # on the last batch; NaN where no step was taken
    training_loss: float = math.nan

    def _flow(self, model: Model, z0: Array | None) -> Flow:
        own = None if self.trainable is None else [name for name in self.trainable if name in model.parameters]
        return Flow(model.with_trainable(own or None), self.trials, z0, **self.options)

    @cached_property
    def flow(self) -> Flow:
        """Of the network."""
        return self._flow(self.model, self.z0)

    @cached_property
    def first_flow(self) -> Flow:
        """Of the network before it was trained, on the same trials."""
        assert self.first is not None
        return self._flow(self.first, self.first_z0)

    @cached_property
    def gradient(self) -> GradientFlow:
        """Of the loss, without regularisers.

        Raises ValueError if there is no readout.
        """
        if self.readout is None:
            raise ValueError("the checkpoint holds no readout, without which there is no loss")
        return self.flow.gradient_flow(self.readout, **self.objective.arguments(self.trials))


@dataclass(frozen=True)
class Metric:
    """A metric: its function, and what it is in words.

    Attributes
    ----------
    function : callable
        Of a `Measured`.
    summary : str
    estimated : bool
        Whether it may come from random vectors: the table has its standard error beside it.
    needs : {"", "classes", "training"}
        What it has no meaning without.
    """

    function: Callable[[Measured], float | Estimate]
    summary: str
    estimated: bool = False
    needs: str = ""


def _accuracy(of: Measured) -> float:
    accuracy = of.gradient.loss_value.accuracy
    return math.nan if accuracy is None else accuracy


def _misdirection(of: Measured) -> float:
    space, err, dz = of.flow.space, of.gradient.err, of.gradient.dz
    sizes = space.norm(err) * space.norm(dz)
    if not sizes:
        return math.nan
    return float(np.degrees(np.arccos(np.clip(-space.inner(err, dz) / sizes, -1.0, 1.0))))


METRICS: Mapping[str, Metric] = {
    "loss": Metric(lambda of: of.gradient.loss, "the loss"),
    "accuracy": Metric(_accuracy, "share of points that are classified rightly", needs="classes"),
    "training_loss": Metric(lambda of: of.training_loss, "the loss of the last step of the training", needs="training"),
    "misdirection": Metric(_misdirection, "angle of Err and NTK Err, in degrees"),
    "dimension_K": Metric(lambda of: kernel_effective_dimension(of.flow), "effective dimension of K", True),
    "dimension_PP": Metric(
        lambda of: effective_dimension(of.flow.P.gram(), seed=of.seed), "effective dimension of P P*", True
    ),
    "dimension_NTK": Metric(
        lambda of: effective_dimension(of.flow.NTK, seed=of.seed), "effective dimension of the NTK", True
    ),
    "trace_K": Metric(
        lambda of: float(kernel_unit_trace(of.flow.linearization, of.flow.space.mu).sum()), "trace of K, exact"
    ),
    "trace_PP": Metric(lambda of: propagator_gram_trace(of.flow), "trace of P P*, exact"),
    "trace_NTK": Metric(lambda of: adjoint_trace(of.flow.D, seed=of.seed), "trace of the NTK", True),
    "trace_NTK_exact": Metric(lambda of: ntk_trace_exact(of.flow), "trace of the NTK, exact: B T^2 H^3 flops"),
    "largest_NTK": Metric(
        lambda of: float(eigh(of.flow.NTK, 1, seed=of.seed).values[0]), "largest eigenvalue of the NTK"
    ),
    "alignment_K_NTK": Metric(
        lambda of: alignment(of.flow.K, of.flow.NTK, seed=of.seed), "alignment of K with the NTK", True
    ),
    "alignment_PK_NTK": Metric(
        lambda of: alignment(of.flow.P @ of.flow.K, of.flow.NTK, seed=of.seed), "alignment of P K with the NTK", True
    ),
    "alignment_PP_NTK": Metric(
        lambda of: alignment(of.flow.P.gram(), of.flow.NTK, seed=of.seed), "alignment of P P* with the NTK", True
    ),
    "alignment_first": Metric(
        lambda of: alignment(of.flow.NTK, of.first_flow.NTK, seed=of.seed),
        "alignment of the NTK with that before the training", True, "training",
    ),
    "lyapunov_1": Metric(
        lambda of: float(lyapunov_exponents(of.flow, 1, seed=of.seed).mean[0]),
        "the largest finite-time Lyapunov exponent, mean over trials",
    ),
}  # fmt: skip
"""By name."""
