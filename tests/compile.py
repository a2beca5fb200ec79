"""Compiles what most tests use, for one precision: ``scripts/test`` starts it for both, side by side.

Compiled code is kept on disk. Where it is not there yet, each of the processes that run the tests would otherwise
compile all of it for itself.
"""

import sys

import numpy as np

import kpref
from kpref import models

# Enough trials for several blocks: D is then applied in one sweep.
TRIALS = 70


def maps(dtype):
    """Operators of a network in discrete time."""
    inputs = np.ones((TRIALS, 4, 2))
    one, several = (kpref.Flow(models.GRU.init(2, 3, 0), x, dtype=dtype) for x in (inputs[:1], inputs))
    return [one.P, one.P_inverse, one.J, one.D_z0, several.D]


def matrices_of_maps(dtype):
    """Those of a map whose Jacobians are matrices."""
    model = models.UserMap(lambda z, x, p: p["a"] * np.sin(z), 2, 0, parameters={"a": np.ones(2)})
    flow = kpref.Flow(model, np.ones((2, 4, 0)), np.ones((2, 2)), dtype=dtype)
    return [flow.P, flow.P_inverse, flow.J, flow.D, flow.D_z0]


def networks(dtype):
    """Those of a network in continuous time."""
    return stages(kpref.Flow(models.Rate.init(2, 3, 0), np.ones((TRIALS, 4, 2)), dt=0.1, dtype=dtype))


def matrices(dtype):
    """Those of a field whose Jacobians are matrices."""
    return stages(kpref.Flow(models.VanDerPol(1.0), None, np.ones((2, 2)), times=0.1 * np.arange(4), dtype=dtype))


def training(dtype):
    """The passes of a training, which need what no operator does: a forward pass that linearises on its way."""
    trials = kpref.Trials(np.ones((TRIALS, 4, 2)), targets=np.ones((TRIALS, 4, 1)))
    for kind in (models.GRU, models.LSTM, models.RNN):
        model = kind.init(2, 3, 0)
        seen = model.observed.stop - model.observed.start
        kpref.train(model, kpref.Readout(np.ones((1, seen))), trials, steps=1, dtype=dtype)
    return []


def stages(flow):
    return [flow.P, flow.J, flow.D, flow.D_z0, flow.stage.P, flow.adjoint()]


def main(precision):
    dtype = np.dtype(precision)
    # What does not depend on the precision is compiled by one process and found by the other, which starts elsewhere.
    kinds = (maps, networks, matrices, matrices_of_maps, training)
    for kind in kinds if dtype == np.float64 else reversed(kinds):
        for operator in kind(dtype):
            for side in (operator, operator.T):
                side.apply(np.zeros((1, *side.shape_in), dtype))


if __name__ == "__main__":
    main(sys.argv[1])
