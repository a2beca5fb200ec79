"""`Flow`: a model on its trials, with the operators of its linearised dynamics. The front door of kpref."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref import operators
from kpref._foreign import read_only
from kpref._frozen import MadeOfFunctions
from kpref._reprs import html_table
from kpref._validate import check_shape, finite_array, numeric_array, precision, real_number, short
from kpref.dynamics import Dynamics, FieldDynamics, MapDynamics, StageOperators
from kpref.gradient import GradientFlow
from kpref.integrate import Solution, Tableau, check_times, get_tableau
from kpref.lengths import joined
from kpref.linearize import Form
from kpref.loss import evaluate_loss
from kpref.memory import require_memory
from kpref.models.base import DenseModel, Field, Map, Model
from kpref.models.step import StepModel
from kpref.operators import TensorOperator
from kpref.readout import Readout
from kpref.space import TrajectorySpace
from kpref.trials import Trials

__all__ = ["Flow", "require_flow"]

Array = npt.NDArray[Any]


class Flow(MadeOfFunctions):
    """A model on given trials: its trajectory, and the operators of the K-P flow along it.

    Building it runs the model; the operators share the coefficients of its linearisation, O(B T H) numbers for each.
    A model in discrete time takes `inputs`; one in continuous time also the time grid, by `times` or `dt`.

    Parameters
    ----------
    model : Model
        A map or a vector field of `kpref.models`.
    inputs : array_like, shape (B, T, n_inputs), or sequence of B arrays, or Trials, or callable, or None
        One row for each step of a map, or for each time of the grid; of `Trials` their inputs and lengths are taken.
        Arrays (T_b, n_inputs) of different lengths are padded, and `lengths` is then theirs.
        For a field it may be a function of time that returns (B, n_inputs), and None if the field has no inputs.
    z0 : array_like, shape (H,) or (B, H), optional
        Initial states, shared or one a trial; zero by default.
    measure : {"mean", "sum"} or array_like
        Weights of trials and time in the inner product; see `TrajectorySpace`. A weight of zero takes a point out of
        sums, and out of the adjoint of P; steps that are only not scored belong into the mask of `gradient_flow`.
    dtype : {float64, float32}
        Precision of the operators. The trajectory and the linearisation are computed in float64 in any case.
    lengths : array_like of int, shape (B,), optional
        How many of the T rows of each trial exist. No number depends on the others: their weights are zero, nothing
        enters or leaves them in any operator, and states are zero there. All of them by default.
    dt : float, optional
        Step of an even time grid that starts at 0, in the unit of time of the field. Fields only.
    times : array_like, shape (N + 1,), optional
        The time grid, T = N + 1. Fields only.
    method : str or Tableau, optional
        Explicit Runge-Kutta method, "rk4" by default; `kpref.integrate.TABLEAUS` lists them. One step for each interval
        of the grid, unless `rtol` is given. Fields only, as all that follows.
    rtol, atol : float or array_like of shape (H,), optional
        Tolerances of adaptive steps, for all units or one each; see `kpref.integrate.adaptive`. They control the
        error of the states, not that of the operators, which are exact for the steps taken: where the states rest, the
        steps grow, and the operators are those of a coarse method.
    input_kind : {"hold", "linear", "cubic"}, optional
        How inputs extend between grid times, "hold" by default.
    forcing : {"linear", "cubic"}, optional
        How P, "linear" by default, interpolates a forcing from the grid to the stages of the method.
    stage_memory : float, optional
        Bytes for the coefficients at the stages; beyond it they are computed anew each time, to the same bits.

    Attributes
    ----------
    model : Model
    z0 : ndarray, shape (B, H)
    states : ndarray, shape (B, T, H)
        z[1..T] of a map; the states at the grid times of a field, row 0 being z0. Zero after the end of a trial.
        Read-only.
    space : TrajectorySpace
    P, P_inverse, J, K, NTK, D, D_z0 : TensorOperator
        See `kpref.operators.propagation` and, for fields, `kpref.operators.stages`.

    Raises
    ------
    ValueError
        If shapes do not match, a number is not finite, the trajectory overflows (names trial and step or time), or a
        map is given what only a field has.
    MemoryError
        Before anything is allocated, if the flow would not fit.

    Examples
    --------
    >>> import numpy as np, kpref
    >>> model = kpref.models.GRU.init(n_inputs=3, n_states=16, seed=0)
    >>> flow = kpref.Flow(model, np.random.default_rng(0).normal(size=(5, 20, 3)))
    >>> flow.NTK(np.ones(flow.states.shape)).shape
    (5, 20, 16)
    >>> field = kpref.models.Rate.init(n_inputs=3, n_states=16, seed=0)
    >>> kpref.Flow(field, np.ones((5, 20, 3)), dt=0.1, method="rk4").stage.P.shape_in
    (5, 19, 4, 16)
    """

    def __init__(
        self,
        model: Model,
        inputs: npt.ArrayLike | Trials | Callable[[float], npt.ArrayLike] | None = None,
        z0: npt.ArrayLike | None = None,
        measure: str | npt.ArrayLike = "mean",
        dtype: npt.DTypeLike = np.float64,
        *,
        lengths: npt.ArrayLike | None = None,
        dt: float | None = None,
        times: npt.ArrayLike | None = None,
        method: str | Tableau | None = None,
        rtol: npt.ArrayLike | None = None,
        atol: npt.ArrayLike | None = None,
        input_kind: str | None = None,
        forcing: str | None = None,
        stage_memory: float | None = None,
    ) -> None:
        self.model: Model = model
        self.dtype: np.dtype[Any] = precision(dtype)
        inputs, ends = _with_lengths(inputs, lengths)
        if isinstance(model, Map):
            of_fields = {"dt": dt, "times": times, "method": method, "rtol": rtol, "atol": atol,
                         "input_kind": input_kind, "forcing": forcing, "stage_memory": stage_memory}  # fmt: skip
            given = [name for name, value in of_fields.items() if value is not None]
            if given:
                verb = "is" if len(given) == 1 else "are"
                raise ValueError(f"{' and '.join(given)} {verb} for models in continuous time; {model} is a map")
            self.inputs: Any = _inputs(inputs, model, self.dtype)
            self.z0: Array = _initial_states(z0, self.inputs.shape[0], model.n_states)
            self._dynamics: Dynamics = MapDynamics(model, self.inputs, self.z0, measure, self.dtype, ends)
        elif isinstance(model, Field):
            grid = _time_grid(times, dt, inputs)
            self.inputs, self.z0 = _field_inputs(inputs, z0, model, grid, self.dtype)
            tolerances = _tolerances(rtol, atol)
            memory = None if stage_memory is None else real_number("stage_memory", stage_memory, least=0)
            tableau = get_tableau("rk4" if method is None else method)
            self._dynamics = FieldDynamics(
                model, self.inputs, "hold" if input_kind is None else input_kind, grid, self.z0, tableau, tolerances,
                "linear" if forcing is None else forcing, measure, self.dtype, memory, ends,
            )  # fmt: skip
        else:
            raise TypeError(f"model must be one of kpref.models; got {type(model).__name__}")
        self.space: TrajectorySpace = self._dynamics.space

    @cached_property
    def states(self) -> Array:
        """States (B, T, H) along the trajectory, read-only."""
        return read_only(self._dynamics.states)

    @property
    def dynamics(self) -> Dynamics:
        """The discrete flow behind the operators: a map, or a Runge-Kutta method with its stages."""
        return self._dynamics

    @property
    def linearization(self) -> Form:
        """Coefficients of the linearisation at the points of the trajectory."""
        return self._dynamics.linearization

    @cached_property
    def P(self) -> TensorOperator:
        """Linearised flow propagator: how a change of the dynamics travels through time.

        Its adjoint ``P.star`` is that of the space restricted to points with weight: with a weight of zero before one
        that is not, it carries nothing through that step, and neither ``P K P*`` nor ``J* P* Err`` are what they stand
        for. `NTK` and `gradient_flow` are made of D and its transpose, which are right in every measure.
        """
        return self._dynamics.propagator()

    @cached_property
    def P_inverse(self) -> TensorOperator:
        """Inverse of the propagator of a map: the forcing that a response comes from."""
        if not isinstance(self._dynamics, MapDynamics):
            raise TypeError("P_inverse is defined for maps; P of a Runge-Kutta flow is not invertible")
        return operators.propagator_inverse(self.linearization, self.space)

    @cached_property
    def J(self) -> TensorOperator:
        """Parameter Jacobian: what a parameter step does to the dynamics at each point."""
        return operators.parameter_jacobian(self.linearization, self.space)

    @cached_property
    def K(self) -> TensorOperator:
        """Parameter operator ``K = J J*``."""
        return operators.kernel(self.linearization, self.space)

    @cached_property
    def D(self) -> TensorOperator:
        """Sensitivity of the states to the parameters, ``dZ/dtheta``, exact for the discrete flow."""
        return self._dynamics.sensitivity()

    @cached_property
    def NTK(self) -> TensorOperator:
        """Neural tangent kernel of the states, ``D D*``, exact.

        It is ``P K P*`` for maps and the limit of that for fields, where no weight of zero comes before one that is
        not. Otherwise ``P @ K @ P.star`` restricts the dynamics to the observed points too, and is another operator.
        """
        return self.D.gram("NTK")

    @cached_property
    def D_z0(self) -> TensorOperator:
        """``dZ/dz0``: initial states (B, H) to trajectories. With trainable z0 the kernel is ``NTK + D_z0.gram()``."""
        return self._dynamics.initial_state_sensitivity()

    @property
    def stage(self) -> StageOperators:
        """Operators of a field on stage space: exact for the discrete flow."""
        return self._field_dynamics().stage

    @property
    def solution(self) -> Solution:
        """The solution of a field: its steps, and dense output ``solution(t)``."""
        return self._field_dynamics().solution

    def adjoint(self, kind: str = "discrete") -> TensorOperator:
        """Adjoint equation of a field as an operator g -> l on trajectories.

        ``-dl/dt = A(t)^T l + g``, l(t_end) = 0: "continuous" solves it backwards along the dense output of the
        trajectory; "discrete" is its counterpart for the discrete flow. They differ by the error of the method.

        Raises
        ------
        ValueError
            For another kind.
        TypeError
            If the model is a map, for which ``P.T`` is the adjoint.
        """
        return self._field_dynamics().adjoint(kind)

    def _field_dynamics(self) -> FieldDynamics:
        if not isinstance(self._dynamics, FieldDynamics):
            raise TypeError(f"stages, solution and adjoint belong to models in continuous time; {self.model} is a map")
        return self._dynamics

    def rerun(self, model: Model) -> Array:
        """States (B, T, H) of another model of the same kind on the same trials and initial states.

        Raises
        ------
        TypeError
            If it is not a model of the same kind.
        ValueError
            If its sizes differ, or the trajectory overflows.
        """
        kind = Map if isinstance(self.model, Map) else Field
        if not isinstance(model, kind):
            raise TypeError(f"model must be a {kind.__name__} like {self.model}; got {short(model)}")
        if (model.n_states, model.n_inputs) != (self.model.n_states, self.model.n_inputs):
            raise ValueError(f"model must have the states and inputs of {self.model}; got {model}")
        return self._dynamics.rerun(model)

    def gradient_flow(
        self,
        readout: Readout,
        targets: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        loss: str = "mse",
        mask: npt.ArrayLike | None = None,
        at: str = "all",
    ) -> GradientFlow:
        """What gradient descent on a loss would do to the parameters, the dynamics and the states.

        Parameters are those of `kpref.loss.evaluate_loss`. A readout may also take the observed states alone, such as
        the h of an LSTM: the error has no part in the others then.
        """
        observed = readout.over(self.model.n_states, self.model.observed) if isinstance(readout, Readout) else readout
        value = evaluate_loss(self.states, self.space, observed, targets, labels, loss, mask, at)
        return GradientFlow(self, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "states"}

    def __repr__(self) -> str:
        return f"Flow({self.model}, states {self.states.shape}, measure {self.space.measure!r}, {self.dtype})"

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        trials, steps, units = self.states.shape
        ends = self.space.lengths
        lengths = "" if ends is None else f", of which trials have {ends.min()} to {ends.max()}"
        rows = [
            ("model", repr(self.model)),
            ("trials", f"{trials}"),
            ("steps", f"{steps}{lengths}"),
            ("units", f"{units}"),
            ("measure", f"{self.space.measure}"),
            ("operators", f"{self.dtype}"),
        ]
        if isinstance(self._dynamics, FieldDynamics):
            times, tableau = self.solution.times, self.solution.tableau
            rows[2] = ("times", f"{steps} from {times[0]:g} to {times[-1]:g}{lengths}")
            rows.insert(3, ("method", f"{tableau.name}, {len(self.solution.h)} steps"))
        return html_table(rows)


def require_flow(flow: object) -> Flow:
    """A flow as it is, or TypeError."""
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a kpref.Flow; got {short(flow)}")
    return flow


def _with_lengths(inputs: Any, lengths: npt.ArrayLike | None) -> tuple[Any, Any]:
    """Inputs and the lengths of their trials; sampled inputs are cleared of what stands after the ends."""
    if not isinstance(inputs, Trials):
        inputs, sizes = joined("inputs", inputs, ("n_inputs",))
        lengths = sizes if lengths is None else lengths
        if lengths is None or inputs is None or callable(inputs) or np.shape(inputs)[2:] == (0,):
            return inputs, lengths
        inputs = Trials(inputs, lengths=lengths)  # type: ignore[arg-type]
    elif lengths is not None:
        raise ValueError("trials have lengths of their own: give lengths with an array of inputs only")
    return inputs.inputs, inputs.lengths


def _inputs(inputs: Any, model: Model, dtype: np.dtype[Any]) -> Array:
    """The inputs, checked; that there is memory for the flow as well, before they are copied."""
    given = numeric_array("inputs", inputs, "biuf")
    check_shape("inputs", given, ndim=3)
    if 0 in given.shape[:2] or given.shape[2] == 0 < model.n_inputs:
        raise ValueError(f"inputs must have at least one trial, step and channel; got shape {given.shape}")
    if given.shape[2] != model.n_inputs:
        raise ValueError(f"inputs must have shape (B, T, {model.n_inputs}) for this model; got {given.shape}")
    _check_memory(model, given.shape[0], given.shape[1], dtype)
    return finite_array("inputs", given, axes=("trial", "step", "channel"))


def _initial_states(z0: npt.ArrayLike | None, trials: int, units: int) -> Array:
    array = np.zeros(units) if z0 is None else finite_array("z0", z0)
    if array.shape not in ((units,), (trials, units)):
        raise ValueError(f"z0 must have shape ({units},) or ({trials}, {units}); got {array.shape}")
    return np.broadcast_to(array, (trials, units))  # read-only


def _check_memory(model: Model, trials: int, steps: int, dtype: np.dtype[Any]) -> None:
    """States and coefficients, and three tensors for a product with the NTK; in one precision and float64 states.

    The inputs are there three times: as given, time first, and among the coefficients.
    """
    if isinstance(model, StepModel):
        coefficients = sum(model.program.channels.values())
    else:
        coefficients = model.n_states * (2 + (model.n_stored if isinstance(model, DenseModel) else 0))
    states = 8.0 * model.n_states + dtype.itemsize * (coefficients + 3.0 * model.n_states)
    inputs = model.n_inputs * (16.0 + dtype.itemsize)
    require_memory(trials * steps * (states + inputs), f"a flow of {model} over {trials} trials of {steps} steps")


def _time_grid(times: npt.ArrayLike | None, dt: float | None, inputs: Any) -> Array:
    if (times is None) == (dt is None):
        raise ValueError("a model in continuous time needs its time grid: give either times or dt")
    if times is not None:
        return check_times(times)
    if callable(inputs) or inputs is None:
        raise ValueError("dt needs sampled inputs, one for each time; give times with a function of time or no inputs")
    step = real_number("dt", dt, above=0)
    shape = numeric_array("inputs", inputs, "biuf").shape
    if len(shape) != 3:
        raise ValueError(f"inputs must have shape (B, T, n_inputs); got {shape}")
    return check_times(step * np.arange(shape[1]))


def _field_inputs(inputs: Any, z0: Any, model: Field, times: Array, dtype: np.dtype[Any]) -> tuple[Any, Array]:
    """Inputs and initial states of a field, checked against each other."""
    length = len(times)
    if inputs is None and model.n_inputs:
        raise ValueError(f"{model} needs inputs of shape (B, {length}, {model.n_inputs}), or a function of time")
    if callable(inputs):
        source, trials = inputs, _trials_of_function(inputs, model, float(times[0]))
    elif model.n_inputs == 0:
        given = None if inputs is None else numeric_array("inputs", inputs, "biuf").shape
        starts = () if z0 is None else numeric_array("z0", z0, "biuf").shape
        if given is not None and (len(given) != 3 or given[0] == 0 or given[1:] != (length, 0)):
            raise ValueError(
                f"inputs of {model}, which has none, must be None or of shape (B, {length}, 0); got {given}"
            )
        trials = given[0] if given is not None else starts[0] if len(starts) == 2 else 1
        _check_memory(model, trials, length, dtype)
        source = np.zeros((trials, length, 0))
        source.flags.writeable = False
    else:
        source = _inputs(inputs, model, dtype)
        trials = len(source)
        if source.shape[1] != length:
            raise ValueError(f"inputs must have one row for each of the {length} times; got shape {source.shape}")
    _check_memory(model, trials, length, dtype)
    return source, _initial_states(z0, trials, model.n_states)


def _trials_of_function(inputs: Callable[[float], npt.ArrayLike], model: Field, start: float) -> int:
    shape = np.shape(inputs(start))
    if len(shape) != 2 or shape[0] == 0 or shape[1] != model.n_inputs:
        raise ValueError(
            f"the input function must return shape (B, {model.n_inputs}) for this model; got {shape} at t = {start}"
        )
    return int(shape[0])


def _tolerances(rtol: npt.ArrayLike | None, atol: npt.ArrayLike | None) -> dict[str, Any] | None:
    if rtol is None and atol is None:
        return None
    given = {"rtol": rtol, "atol": atol}
    return {name: value for name, value in given.items() if value is not None}
