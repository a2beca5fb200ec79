"""The loss of a network on trials as a function of one vector, with its exact gradient: what optimisers take.

    L(theta) = loss + weight_decay / 2 |theta|^2 + activity / 2 mean(z^2),

the loss of `kpref.loss` in the measure that weighs all points that exist alike, and the mean over these points and the
observed states. No automatic differentiation: the gradient is D^T applied to the derivative of the loss, by the
operators of this package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import finite_array, function, instance, numeric_array, one_of, precision, real_number, short
from kpref.flow_inputs import state_noise
from kpref.loss import DRIVEN_BY, LOSSES
from kpref.models.base import Field, Map, Model
from kpref.readout import Readout
from kpref.training.plain_pass import Evaluated, Network, Pass, PlainPass, Point
from kpref.trials import Trials

if TYPE_CHECKING:
    from kpref.rules import Rule

__all__ = ["AT", "Metrics", "Objective"]

#: Which points a loss observes.
AT = ("all", "last")

_READOUT = ("readout.weight", "readout.bias")
#: What only a field takes, of the arguments of `kpref.Flow`.
_OPTIONS = ("dt", "times", "method", "input_kind")


@dataclass(frozen=True, eq=False)
class Metrics:
    """What training reports of a network on trials.

    Attributes
    ----------
    loss : float
        With the regularisers.
    accuracy : float or None
        Share of observed points that are classified rightly; None for a regression.
    """

    loss: float
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class _Batch:
    """Trials in the form that a pass takes, and what they were made for."""

    trials: Any
    made_for: tuple[object, ...]


class Objective:
    """A loss as a function of the trained parameters in one vector.

    The vector holds the trained arrays, flat, in the order of `names`: those of the model in declared order, then
    "readout.weight", "readout.bias", "z0". Threads may share an objective: they take turns.

    Parameters
    ----------
    model : Model
        A map or a field of `kpref.models`.
    readout : Readout
        Of all states, or of the observed ones alone, such as the h of an LSTM.
    trials : Trials
        With targets or labels. Steps after the end of a trial and steps that the mask leaves out count as in
        `kpref.Flow`: padding is invisible. Noise in the states is added after each step of a map, by the operators of
        a flow: it takes longer.
    loss : {"mse", "cross_entropy"}
    at : {"all", "last"}
        Observe all steps or only the last of each trial.
    trainable : sequence of str, optional
        Names of what is trained, some of the model's parameters, "readout.weight", "readout.bias" and "z0", an initial
        state that all trials share. By default the model's trainable parameters and the readout.
    z0 : array_like, shape (H,), optional
        Where z0 starts, or stays; by default where the model does, zero for most.
    weight_decay, activity : float
        Factors of the regularisers.
    dtype : {float64, float32}
        Precision of the forward pass and the gradient of compiled maps. Of fields, whose states are always computed in
        float64, of the operators.
    rule : callable, optional
        A rule of `kpref.rules`, whose direction takes the place of the gradient by the model's parameters;
        backpropagation by default.
    **options
        Of a field, what `kpref.Flow` takes: dt or times, method, input_kind.

    Attributes
    ----------
    names : tuple of str
        What is trained.
    start : Network
        Model, readout and z0 as given.
    vector : ndarray, shape (M,), float64
        Their trained parameters.

    Raises
    ------
    ValueError, TypeError
        If the trials, the readout and the loss do not belong together, labels are out of range, or an argument is not
        one of those above.

    Examples
    --------
    >>> import numpy as np, kpref, scipy.optimize
    >>> rng = np.random.default_rng(0)
    >>> trials = kpref.Trials(rng.normal(size=(4, 5, 2)), targets=rng.normal(size=(4, 5, 1)))
    >>> model = kpref.models.GRU.init(n_inputs=2, n_states=3, seed=0)
    >>> objective = kpref.training.Objective(model, kpref.Readout(np.ones((1, 3))), trials)
    >>> found = scipy.optimize.minimize(objective.value_and_gradient, objective.vector, jac=True, method="L-BFGS-B")
    >>> bool(found.fun < objective.metrics(objective.vector).loss)
    True
    """

    def __init__(
        self,
        model: Model,
        readout: Readout,
        trials: Trials,
        *,
        loss: str = "mse",
        at: str = "all",
        trainable: Sequence[str] | None = None,
        z0: npt.ArrayLike | None = None,
        weight_decay: float = 0.0,
        activity: float = 0.0,
        dtype: npt.DTypeLike = np.float64,
        rule: Rule | None = None,
        **options: Any,
    ) -> None:
        instance("model", model, Map | Field, "a map or a field of kpref.models")
        instance("readout", readout, Readout, "a kpref.Readout")
        one_of("loss", loss, LOSSES)
        one_of("at", at, AT)
        _check_options(model, options)
        if rule is not None:
            function("rule", rule, "a flow and an error")
        self.loss, self.at, self.dtype = loss, at, precision(dtype)
        self.weight_decay = real_number("weight_decay", weight_decay, least=0)
        self._activity = real_number("activity", activity, least=0)
        start = model.start if z0 is None else finite_array("z0", z0, shape=(model.n_states,))
        self.names = _trained(model, readout, trainable)
        own = [name for name in self.names if name in model.parameters]
        self._model = model.with_trainable(own or None)
        self.start = Network(self._model, readout, start)
        self._wanted = frozenset(["model"] * bool(own) + ["z0"] * ("z0" in self.names))
        self._shapes = {name: array.shape for name, array in self._arrays(self.start).items()}
        self.vector: Array = np.concatenate([np.ravel(array) for array in self._arrays(self.start).values()])
        self.vector.flags.writeable = False
        instance("trials", trials, Trials, "kpref.Trials")
        self._is_noisy = trials.state_noise is not None
        self.require_trials(trials)
        self._pass = self._way(rule, options)
        self.trials, self._batch = trials, self._pass.prepared(trials)
        #: What trials are prepared for: others with the same may share them.
        self._made_for = (
            type(self._pass), type(model), tuple(model.parameters), model.n_inputs, readout.n_outputs, self._is_noisy,
            loss, at, self.dtype,
        )  # fmt: skip

    def _way(self, rule: Rule | None, options: dict[str, Any]) -> Pass:
        from kpref.training.compiled_pass import CompiledPass, can_compile

        if rule is None and not options and not self._is_noisy and can_compile(self._model):
            return CompiledPass(self._model, self.loss, self.at, self._activity, self.dtype)  # type: ignore[arg-type]
        return PlainPass(self.loss, self.at, self._activity, self.dtype, options, rule)

    def require_trials(self, trials: Trials) -> None:
        """See that trials belong to the model, the readout and the loss, or raise ValueError or TypeError."""
        instance("trials", trials, Trials, "kpref.Trials")
        model, readout = self.start.model, self.start.readout
        if trials.n_inputs != model.n_inputs:
            raise ValueError(f"trials must have {model.n_inputs} inputs for {model}; got {trials.n_inputs}")
        if (state_noise(trials, model) is not None) != self._is_noisy:
            raise ValueError(
                f"trials must {'' if self._is_noisy else 'not '}have state_noise, as those that the objective was made "
                f"with; got {trials}"
            )
        seen = model.observed.stop - model.observed.start
        if readout.n_states not in (model.n_states, seen):
            raise ValueError(f"readout must take the {seen} observed states of {model}; got {readout}")
        answers = getattr(trials, DRIVEN_BY[self.loss])
        if answers is None:
            raise ValueError(f'loss "{self.loss}" needs trials with {DRIVEN_BY[self.loss]}; got {trials}')
        if self.loss == "mse" and answers.shape[2] != readout.n_outputs:
            raise ValueError(f"targets must have {readout.n_outputs} channels for {readout}; got {answers.shape[2]}")
        if self.loss == "cross_entropy" and answers.max() >= readout.n_outputs:
            raise ValueError(
                f"labels must lie in 0, ..., {readout.n_outputs - 1}, one for each readout output; got {answers.max()}"
            )
        self._require_scored(trials, np.arange(trials.n_trials))

    def _require_scored(self, trials: Trials, chosen: npt.NDArray[np.int64]) -> None:
        """ValueError if the mask leaves nothing of some of the trials."""
        if trials.mask is None:
            return
        if self.at == "last":
            if not trials.mask[chosen, trials.lengths[chosen] - 1].any():
                raise ValueError('the mask leaves nothing to score at the last steps: take at="all", or more trials')
        elif not trials.mask[chosen].any():
            raise ValueError("the mask leaves nothing to score: take more trials")

    @property
    def size(self) -> int:
        """Number M of trained parameters."""
        return int(self.vector.size)

    def unflatten(self, vector: npt.ArrayLike) -> dict[str, Array]:
        """The trained arrays by name, from a vector (M,), real or complex.

        Raises
        ------
        ValueError
            If the vector has another shape.
        """
        return self._split(self._checked(vector))

    def _checked(self, vector: npt.ArrayLike) -> Array:
        given = numeric_array("vector", vector, "biufc")
        if given.shape != self.vector.shape:
            raise ValueError(f"vector must have shape {self.vector.shape}, the trained parameters; got {given.shape}")
        return given

    def _split(self, given: Array) -> dict[str, Array]:
        arrays, start = {}, 0
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            arrays[name] = given[start : start + size].reshape(shape)
            start += size
        return arrays

    def network(self, vector: npt.ArrayLike) -> Network:
        """Model, readout and z0 with these parameters.

        Raises
        ------
        ValueError
            If a parameter is not finite, or the vector has another shape.
        """
        arrays, old = self.unflatten(vector), self.start
        own = {name: arrays[name] for name in self.names if name in old.model.parameters}
        weight, bias = (arrays.get(name) for name in _READOUT)
        readout = old.readout
        if weight is not None or bias is not None:
            readout = Readout(readout.weight if weight is None else weight, readout.bias if bias is None else bias)
        z0 = finite_array("z0", arrays["z0"]) if "z0" in arrays else old.z0
        return Network(old.model.with_parameters(own) if own else old.model, readout, z0)

    def _point(self, vector: npt.ArrayLike) -> Point:
        """The arrays of `network`, which is asked what is wrong if they are not finite or complex."""
        given, old = self._checked(vector), self.start
        if given.dtype.kind == "c" or not np.isfinite(given).all():
            self.network(given)
        arrays = self._split(given)
        own = {name: array for name, array in arrays.items() if name in old.model.parameters}
        return Point(
            {**old.model.parameters, **own},
            arrays.get("readout.weight", old.readout.weight),
            arrays.get("readout.bias", old.readout.bias),
            arrays.get("z0", old.z0),
            lambda: self.network(given),
        )

    def model_and_readout(self, vector: npt.ArrayLike) -> tuple[Model, Readout]:
        """The model and the readout with these parameters; the initial state is ``unflatten(vector)["z0"]``."""
        network = self.network(vector)
        return network.model, network.readout

    def batch(self, trials: Trials | npt.ArrayLike) -> Any:
        """Other trials, or some of the objective's by their numbers, as `value_and_gradient` takes them.

        Raises
        ------
        ValueError, TypeError
            As the constructor, for other trials, and as `Trials.subset`; if nothing of them is scored.
        """
        if isinstance(trials, Trials):
            self.require_trials(trials)
            return _Batch(self._pass.prepared(trials), self._made_for)
        chosen = self.trials.numbers(trials)
        self._require_scored(self.trials, chosen)
        return _Batch(self._batch.subset(chosen), self._made_for)

    def value_and_gradient(self, vector: npt.ArrayLike, batch: Any = None) -> tuple[float, Array]:
        """The loss and its gradient, as `scipy.optimize` takes them with ``jac=True``.

        Parameters
        ----------
        vector : array_like, shape (M,)
        batch : optional
            What `batch` gave; by default all trials of the objective.

        Returns
        -------
        value : float
        gradient : ndarray, shape (M,)
            In the precision of the objective.

        Raises
        ------
        ValueError
            If a parameter is not finite, the trajectory overflows, or the batch is one of another network or loss.
        """
        metrics, gradient = self.evaluate(vector, batch)
        return metrics.loss, gradient

    def evaluate(self, vector: npt.ArrayLike, batch: Any = None) -> tuple[Metrics, Array]:
        """As `value_and_gradient`, with the accuracy beside the loss."""
        found = self._pass.evaluate(self._point(vector), self._given(batch), self._wanted)
        given = np.asarray(vector)
        gradient = self._gradient(found)
        loss = found.loss
        if self.weight_decay:
            loss += 0.5 * self.weight_decay * float(np.square(given, dtype=np.float64).sum())
            gradient += self.dtype.type(self.weight_decay) * given.astype(self.dtype)
        return Metrics(loss, found.accuracy), gradient

    def metrics(self, vector: npt.ArrayLike, batch: Any = None) -> Metrics:
        """Loss and accuracy alone, for a forward pass."""
        found = self._pass.evaluate(self._point(vector), self._given(batch), frozenset())
        decay = 0.5 * self.weight_decay * float(np.square(np.asarray(vector), dtype=np.float64).sum())
        return Metrics(found.loss + decay, found.accuracy)

    def _given(self, batch: Any) -> Any:
        if batch is None:
            return self._batch
        instance("batch", batch, _Batch, "what the method batch gives")
        if batch.made_for != self._made_for:
            raise ValueError(
                f"batch must be made by the objective that takes it, or by one of the same network and loss; got that "
                f"of another: use the method batch of {self}"
            )
        return batch.trials

    def _arrays(self, network: Network) -> dict[str, Array]:
        parts = {**network.model.parameters, "readout.weight": network.readout.weight, "z0": network.z0}
        if network.readout.bias is not None:
            parts["readout.bias"] = network.readout.bias
        return {name: parts[name] for name in self.names}

    def _gradient(self, found: Evaluated) -> Array:
        parts = {"readout.weight": found.weight, "readout.bias": found.bias, "z0": found.z0}
        rest = [np.ravel(part) for name, part in parts.items() if name in self.names]
        own = [] if found.model is None else [found.model]  # of the trained ones, in the order of the names
        return np.concatenate([*own, *rest], dtype=self.dtype, casting="same_kind")

    def __repr__(self) -> str:
        return f"Objective({self._model!r}, {self.loss} at {self.at}, {self.size} parameters, {self.trials!r})"


def _check_options(model: Model, options: dict[str, Any]) -> None:
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; a field takes {', '.join(_OPTIONS)}")
    if isinstance(model, Map) and options:
        raise ValueError(f"{next(iter(options))} is for models in continuous time; {model} is a map")
    if isinstance(model, Field) and not {"dt", "times"} & set(options):
        raise ValueError(f"{model}, in continuous time, needs dt or times, as kpref.Flow")


def _trained(model: Model, readout: Readout, names: Sequence[str] | None) -> tuple[str, ...]:
    """What is trained, in the order of the vector."""
    known = [*model.parameters, "readout.weight", *(["readout.bias"] if readout.bias is not None else []), "z0"]
    if names is None:
        return tuple(name for name in known if name in model.trainable or name in _READOUT)
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"trainable must be a sequence of names; got {short(names)}")
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"trainable must name some of {', '.join(known)}; got {short(list(names))}")
    return tuple(name for name in known if name in names)
