"""`ShardedFlow`: a flow over more trials than fit into memory, or into one computer.

With D_s the rows of ``D = dZ/dtheta`` at the trials of a shard s, and the measure mu over all trials,

    D* D = sum_s D_s^T Mu_s D_s            M x M, self-adjoint and positive,
    NTK = D D*,                            with the eigenvalues of D* D, and eigenfunctions D v / sigma.

So whatever the spectrum of the NTK tells is found from products of D* D with vectors of as many numbers as there are
parameters, each a sum over shards; and eigenfunctions, which have as many numbers as the states, are made shard by
shard at the end. A residual ``r = D* D v - sigma^2 v`` becomes ``NTK u - sigma^2 u = D r / sigma``, of at most the
length ``(sigma_1 / sigma) |r|``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import finite_array, instance, integer, one_of, real_number
from kpref.distributed import tasks_of_shards as tasks
from kpref.distributed.dask_engine import DaskEngine
from kpref.distributed.engines import Engine, InProcess
from kpref.distributed.gram_alignment import gram_alignment
from kpref.distributed.gram_operator import gram_operator
from kpref.distributed.saved_modes import save_all
from kpref.distributed.sharded_problem import Problem
from kpref.distributed.sharded_step import after_step
from kpref.distributed.totals import ShardedGradient, gradient_of, trace_of
from kpref.distributed.tree import Node, tree_sum
from kpref.integrate import Tableau
from kpref.memory import available_memory
from kpref.models.base import Model
from kpref.operators import TensorOperator
from kpref.readout import Readout
from kpref.spectra import Eigen, Estimate, effective_dimension, eigh
from kpref.training.objective import AT
from kpref.training.optimizers import Optimizer, State, get_optimizer
from kpref.trials import Trials

__all__ = ["ShardedFlow", "ShardedGradient", "ShardedStep"]

#: Share of the memory that flows are kept in, unless that is given.
_SHARE = 0.5


class ShardedFlow:
    """A model on trials that are worked on in shards, one after the other or on the workers of a Dask cluster.

    Numbers are those of `kpref.Flow` over all trials, to rounding; their bits depend on the problem and on the size of
    a shard, and on nothing else: neither on the number of workers or of threads, nor on what is kept in memory, nor on
    workers that are lost on the way.

    Parameters
    ----------
    model : Model
    trials : Trials or path
        Of a folder of npy files, of an npz file without compression, or of a Zarr store, with arrays named as the
        parameters of `Trials`. Workers read files themselves, of which a few trials at a time are in memory: the path
        has to lead there from each of them.
    client : distributed.Client, optional
        Of a cluster whose workers have one thread for tasks each. None: shard after shard in this process.
    shard_size : int, optional
        Trials of a shard, at most; shards differ by one. By default so many that their states have two million numbers.
    z0, measure, dtype : optional
        As for `Flow`: a measure says how much each trial counts among all of them.
    dt, times, method : optional
        As for `Flow`, of models in continuous time.
    keep : float, optional
        Bytes of flows that a process keeps from one product to the next; of the others the model is run anew each time.
        By default half the memory available; on a cluster two fifths of each worker's limit, nothing without a limit.

    Attributes
    ----------
    model : Model
    shape : tuple of int
        (B, T, H), of the states.
    bounds : tuple of slice
        The trials of each shard.
    gram : TensorOperator
        ``D* D`` on parameters: for `kpref.eigh`, `kpref.spectral_density` and whatever else takes a self-adjoint
        operator.

    Raises
    ------
    ValueError, TypeError
        As for `Flow`, of which a shard's errors name its trials; if the workers have more than one thread, or share a
        process.
    OSError
        If files cannot be opened.
    ImportError
        If a client or a Zarr store is given and its package is not there.
    RuntimeError
        Here and of all methods: if the scheduler of a cluster is lost, or workers are lost again and again.

    Examples
    --------
    >>> import numpy as np, kpref
    >>> from kpref.distributed import ShardedFlow
    >>> model = kpref.models.GRU.init(n_inputs=2, n_states=8, seed=0)
    >>> trials = kpref.Trials(np.random.default_rng(0).normal(size=(10, 6, 2)))
    >>> sharded, flow = ShardedFlow(model, trials, shard_size=3), kpref.Flow(model, trials)
    >>> np.allclose(sharded.eigh(2).values, kpref.eigh(flow.NTK, 2).values)
    True
    """

    def __init__(
        self,
        model: Model,
        trials: Trials | str | os.PathLike[str],
        client: Any = None,
        shard_size: int | None = None,
        *,
        z0: npt.ArrayLike | None = None,
        measure: str | npt.ArrayLike = "mean",
        dtype: npt.DTypeLike = np.float64,
        dt: float | None = None,
        times: npt.ArrayLike | None = None,
        method: str | Tableau | None = None,
        keep: float | None = None,
    ) -> None:
        self._problem = Problem(model, trials, shard_size, z0, measure, dtype, dt, times, method)
        self.shape, self.bounds, self.dtype = self._problem.shape, self._problem.bounds, self._problem.dtype
        shards, room = self._problem.shards(), None if keep is None else real_number("keep", keep, least=0)
        if client is None:
            self._engine: Engine = InProcess(shards, _SHARE * (available_memory() or 0) if room is None else room)
        else:
            self._engine = DaskEngine(client, shards, room)
        self._look_at(model)

    def _look_at(self, model: Model) -> None:
        self.model, self.gram = model, gram_operator(self._engine, model, self.dtype)

    # Spectra

    def eigh(self, k: int, seed: int = 0, tol: float = 1e-10, **options: Any) -> Eigen:
        """The k largest eigenvalues of the NTK, and the directions of parameters v that its eigenfunctions come of.

        Parameters
        ----------
        k : int
            At most the number of parameters.
        seed, tol, \\*\\*options
            See `kpref.eigh`.

        Returns
        -------
        Eigen
            Of `gram`: its vectors (k, M) are orthonormal; `modes` gives the eigenfunctions.
        """
        return eigh(self.gram, k, seed, tol, **options)

    def modes(self, pairs: Eigen) -> Iterator[Array]:
        """Eigenfunctions ``u = D v / sigma`` of the NTK, shard by shard.

        They are orthonormal in the measure over all trials. The sign is that of v, whose entry of largest magnitude is
        positive.

        Parameters
        ----------
        pairs : Eigen
            Of `eigh`.

        Yields
        ------
        ndarray, shape (k, b, T, H)

        Raises
        ------
        ValueError
            If an eigenvalue is zero to rounding, whose eigenfunctions are arbitrary.
        """
        return self._engine.each(tasks.lift, (self.model,), self._lifted(pairs))

    def save_modes(self, pairs: Eigen, folder: str | os.PathLike[str]) -> list[Path]:
        """Write eigenfunctions into a new folder, one npy file a shard, by whoever has the shard.

        Parameters
        ----------
        pairs : Eigen
            Of `eigh`.
        folder : path
            Must not exist; its parent must, and lead to the same place from each worker. The folder is there once all
            of it is.

        Returns
        -------
        list of Path
            Files ``modes-000000.npy``, ... of shape (k, b, T, H), in the order of the trials.

        Raises
        ------
        OSError
            If the folder exists, or a file cannot be written; nothing is left then.
        ValueError
            See `modes`.
        """
        vectors = self._lifted(pairs)

        def write(staging: str) -> Iterator[str]:
            return self._engine.each(tasks.save_lifted, (self.model,), (*vectors, staging))

        return save_all(folder, write)

    def trace(self, probes: int = 64, tol: float | None = None, seed: int = 0) -> Estimate:
        """Trace of the NTK: the sum of those over shards, which are estimated independently.

        Each shard is gone through once. Terms between shards are no part of the noise.

        Parameters
        ----------
        probes, tol
            Of each shard; see `kpref.trace`. The relative error of the sum is smaller than the largest of theirs.
        seed : int
            Of the random vectors, which are others in each shard.

        Returns
        -------
        Estimate
        """
        options = {"probes": probes, "tol": None if tol is None else real_number("tol", tol, above=0)}
        integer("probes", probes, 1)
        return trace_of(self._engine.total(tasks.trace_terms, (self.model,), options, integer("seed", seed, 0)))

    def effective_dimension(self, probes: int = 60, seed: int = 0) -> Estimate:
        """Effective dimension ``tr(NTK)^2 / tr(NTK^2)``, see `kpref.effective_dimension`."""
        return effective_dimension(self.gram, probes=probes, seed=seed)

    def alignment(self, other: ShardedFlow, probes: int = 60, seed: int = 0) -> Estimate:
        """Alignment of the NTK with that of another model on the same trials, as `kpref.alignment` defines it.

        From products with matrices of parameters alone: see `kpref.distributed.gram_alignment`.

        Parameters
        ----------
        other : ShardedFlow
            On the same trials, initial states and measure, with as many states and shards of the same trials.
        probes : int
            Products with each of the three matrices, at least 6.
        seed : int
            Of the random vectors, the same for all three.

        Returns
        -------
        Estimate
            From 0 to 1; exact up to 400 parameters, or as many as probes.

        Raises
        ------
        ValueError
            If the two differ in more than the model, or one of the kernels is zero.
        """
        instance("other", other, ShardedFlow, "a ShardedFlow")
        differ = self._problem.difference(other._problem)
        if differ is not None:
            raise ValueError(f"two flows that are aligned must have the same {differ}; got {self} and {other}")
        count, seed = integer("probes", probes, 6), integer("seed", seed, 0)
        forward, transpose = (partial(self._cross, other.model, transposed) for transposed in (False, True))
        spaces = other.gram.space_in, self.gram.space_in
        cross = TensorOperator(forward, transpose, *spaces, self.dtype, "D* E")
        return gram_alignment(cross, self.gram, other.gram, count, seed)

    # Products

    def gradient(self, readout: Readout, at: str = "all") -> ShardedGradient:
        """Loss of a readout over all trials, and its gradient by the parameters.

        Parameters
        ----------
        readout : Readout
        at : {"all", "last"}
            See `kpref.Flow.gradient_flow`. Targets or labels, of which the loss follows, and the mask are those of the
            trials.

        Returns
        -------
        ShardedGradient
        """
        instance("readout", readout, Readout, "a kpref.Readout")
        one_of("at", at, AT)
        sums = self._engine.total(tasks.gradient_terms, (self.model,), readout, at)
        return gradient_of(sums, self.model, readout, self.dtype)

    def training_step(
        self,
        readout: Readout,
        state: State | None = None,
        *,
        at: str = "all",
        optimizer: str | Optimizer = "adam",
        learning_rate: float = 1e-3,
        clip: float | None = None,
    ) -> ShardedStep:
        """A step of an optimiser on all trials: the model's trainable parameters and the readout move.

        Flows of the shards are made for the gradient and are not kept, as the parameters are others afterwards.

        Parameters
        ----------
        readout, at
            As for `gradient`.
        state : dict of str to ndarray, optional
            Of the optimiser, as the step before this one returned it; None at first.
        optimizer, learning_rate, clip
            See `kpref.train`.

        Returns
        -------
        ShardedStep
            Its `flow`, `readout` and `state` are what the next step begins with. This flow stays as it is.

        Raises
        ------
        ValueError, TypeError
            If an argument is none of these, the state is that of another optimiser or network, or the loss or its
            gradient is not finite.
        """
        instance("readout", readout, Readout, "a kpref.Readout")
        one_of("at", at, AT)
        way, rate = get_optimizer(optimizer), real_number("learning_rate", learning_rate, above=0)
        sums = self._engine.total(tasks.step_terms, (), self.model, readout, at)
        gradient = gradient_of(sums, self.model, readout, np.float64)
        moved = after_step(self.model, readout, gradient, state, way, rate, clip)
        after = copy.copy(self)
        after._look_at(moved.model)
        return ShardedStep(after, moved.readout, moved.state, gradient.loss, gradient.accuracy, moved.gradient_norm)

    def states(self) -> Iterator[Array]:
        """States, shard by shard: (b, T, H)."""
        return self._engine.each(tasks.states, (self.model,), ())

    def P(self, q: Any) -> Iterator[Array]:
        """``P q``, shard by shard, of an array (B, T, H) whose slices are read when they are needed."""
        return self._engine.each(tasks.propagate, (self.model,), (), self._problem.parts(q))

    def J(self, theta: npt.ArrayLike) -> Iterator[Array]:
        """``J theta``, shard by shard, of a vector (M,)."""
        return self._factor("J", theta)

    def D(self, theta: npt.ArrayLike) -> Iterator[Array]:
        """``D theta``, shard by shard, of a vector (M,): what a step of the parameters does to the states."""
        return self._factor("D", theta)

    def J_star(self, q: Any) -> Array:
        """``J* q``, shape (M,), of an array (B, T, H) whose slices are read when they are needed."""
        return self._pulled("J", q)

    def D_star(self, q: Any) -> Array:
        """``D* q``, shape (M,), of an array (B, T, H) whose slices are read when they are needed."""
        return self._pulled("D", q)

    def K(self, q: Any) -> Iterator[Array]:
        """``K q = J J* q``, shard by shard: all shards are gone through once before the first result."""
        return self.J(self.J_star(q))

    def NTK(self, q: Any) -> Iterator[Array]:
        """``NTK q = D D* q``, shard by shard: all shards are gone through once before the first result."""
        return self.D(self.D_star(q))

    def __repr__(self) -> str:
        return f"ShardedFlow({self.model}, states {self.shape}, {len(self.bounds)} shards, {self.dtype})"

    def _cross(self, model: Model, transposed: bool, batch: Array) -> Array:
        return self._engine.total(tasks.cross_gram, (self.model, model), batch, transposed)

    def _factor(self, name: str, theta: npt.ArrayLike) -> Iterator[Array]:
        vector = finite_array("theta", theta, shape=(self.model.n_parameters,))
        return self._engine.each(tasks.apply_factor, (self.model,), (name, vector))

    def _pulled(self, name: str, q: Any) -> Array:
        parts = self._engine.each(tasks.pull, (self.model,), (name,), self._problem.parts(q))

        def known(node: Node) -> Array | None:
            return np.asarray(next(parts), np.float64) if node[1] - node[0] == 1 else None

        return tree_sum((0, len(self.bounds)), known).astype(self.dtype)

    def _lifted(self, pairs: Eigen) -> tuple[Array, Array]:
        """Directions (k, M), and the singular values (k,)."""
        instance("pairs", pairs, Eigen, "what eigh of this flow returned")
        vectors = finite_array("the vectors of pairs", pairs.vectors, shape=("k", self.model.n_parameters))
        rounding = float(np.finfo(self.dtype).eps) * self.model.n_parameters * max(float(pairs.values[0]), 0.0)
        if not float(pairs.values.min()) > rounding:
            raise ValueError(
                f"modes need eigenvalues above rounding, {rounding:.2g}; got {float(pairs.values.min()):.2g}: ask for "
                "fewer"
            )
        return vectors, np.sqrt(pairs.values)


@dataclass(frozen=True, eq=False)
class ShardedStep:
    """A network after a step of training, and what was found before it; see `ShardedFlow.training_step`.

    Attributes
    ----------
    flow : ShardedFlow
        Of the model after the step, on the same shards and workers.
    readout : Readout
        After the step.
    state : dict of str to ndarray
        Of the optimiser.
    loss : float
        Before the step.
    accuracy : float or None
        Before the step; None for a regression.
    gradient_norm : float
        Before it was clipped.
    """

    flow: ShardedFlow
    readout: Readout
    state: State
    loss: float
    accuracy: float | None
    gradient_norm: float

    __repr__ = short_repr
