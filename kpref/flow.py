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
from kpref._types import Array
from kpref._validate import precision, real_number, short
from kpref.dynamics import Dynamics, FieldDynamics, MapDynamics, StageOperators
from kpref.flow_inputs import field_inputs, initial_states, map_inputs, state_noise, time_grid, with_lengths
from kpref.integrate import Solution, Tableau, get_tableau
from kpref.linearize import Form
from kpref.loss import LossValue, evaluate_loss
from kpref.models.base import Field, Map, Model
from kpref.operators import TensorOperator
from kpref.readout import Readout
from kpref.space import TrajectorySpace
from kpref.trials import Trials

__all__ = ["Flow", "GradientFlow", "require_flow", "require_noiseless_flow"]


class Flow(MadeOfFunctions):
    """A model on given trials: its trajectory, and the operators of the K-P flow along it.

    Building it runs the model; the operators share the coefficients of its linearisation, O(B T H) numbers for each.
    A model in discrete time takes `inputs`; one in continuous time also the time grid, by `times` or `dt`.

    Parameters
    ----------
    model : Model
        A map or a vector field of `kpref.models`.
    inputs : array_like, shape (B, T, n_inputs), or sequence of B arrays, or Trials, or callable, or None
        One row for each step of a map, or for each time of the grid; of `Trials` their inputs and lengths are taken,
        and the noise of the states of a map, which moves the trajectory and enters no operator.
        Arrays (T_b, n_inputs) of different lengths are padded, and `lengths` is then theirs.
        For a field it may be a function of time that returns (B, n_inputs), and None if the field has no inputs.
    z0 : array_like, shape (H,) or (B, H), optional
        Initial states, shared or one a trial; by default where the model starts, zero for most (`Model.start`).
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
        See `kpref.operators.propagation` and, for fields, `kpref.operators.stage_space`.

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
        #: What is added to the states after each step, (B, T, H), or None.
        self.state_noise: Array | None = state_noise(inputs, model)
        inputs, ends = with_lengths(inputs, lengths)
        if isinstance(model, Map):
            of_fields = {"dt": dt, "times": times, "method": method, "rtol": rtol, "atol": atol,
                         "input_kind": input_kind, "forcing": forcing, "stage_memory": stage_memory}  # fmt: skip
            given = [name for name, value in of_fields.items() if value is not None]
            if given:
                verb = "is" if len(given) == 1 else "are"
                raise ValueError(f"{' and '.join(given)} {verb} for models in continuous time; {model} is a map")
            self.inputs: Any = map_inputs(inputs, model, self.dtype)
            self.z0: Array = initial_states(z0, self.inputs.shape[0], model)
            self._dynamics: Dynamics = MapDynamics(
                model, self.inputs, self.z0, measure, self.dtype, ends, self.state_noise
            )
        elif isinstance(model, Field):
            grid = time_grid(times, dt, inputs)
            self.inputs, self.z0 = field_inputs(inputs, z0, model, grid, self.dtype)
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


class GradientFlow:
    """Gradient descent on a loss, seen in parameters, dynamics and states. Made by `Flow.gradient_flow`.

    What it would do to each, predicted,

        grad_theta = D^T Mu Err,    df = -J grad_theta = -K P* Err,    dz = -D grad_theta = -P K P* Err

    per unit learning rate, and realised. The loss falls at the rate ``<Err, NTK Err>_X = |grad_theta|^2`` (Hazelden et
    al., arXiv:2507.06381).

    Attributes
    ----------
    flow : Flow
    loss_value : LossValue
    """

    def __init__(self, flow: Flow, loss_value: LossValue) -> None:
        self.flow, self.loss_value = flow, loss_value

    def __repr__(self) -> str:
        return f"GradientFlow({self.flow!r}, loss={self.loss:.6g})"

    @property
    def loss(self) -> float:
        """The loss L."""
        return self.loss_value.value

    @property
    def err(self) -> Array:
        """``Err``, shape (B, T, H): the derivative of the loss density by the states."""
        return self.loss_value.err

    @cached_property
    def grad_theta(self) -> Array:
        """Gradient of the loss by the trainable parameters, ``D^T Mu Err``, shape (M,), the readout held fixed."""
        return np.asarray(self.flow.D.T(self.flow.space.weigh(self.err)))

    @cached_property
    def df(self) -> Array:
        """Change of the dynamics per unit learning rate, ``-K P* Err``, shape (B, T, H)."""
        return np.asarray(-self.flow.J(self.grad_theta))

    @cached_property
    def dz(self) -> Array:
        """Predicted change of the states per unit learning rate, ``-P K P* Err``, shape (B, T, H)."""
        return np.asarray(-self.flow.D(self.grad_theta))

    @property
    def loss_rate(self) -> float:
        """Predicted change of the loss per unit learning rate, ``-|grad_theta|^2``."""
        return -self.flow.D.space_in.inner(self.grad_theta, self.grad_theta)

    def realised(self, eta: float) -> Array:
        """Change of the states, shape (B, T, H), after the parameter step ``-eta grad_theta``.

        It differs from ``eta * dz`` by O(eta^2). Costs a forward pass.

        Raises
        ------
        ValueError
            If `eta` is not finite, or the trajectory overflows after the step.
        """
        eta = real_number("eta", eta)
        model = self.flow.model
        after = self.flow.rerun(model.with_vector(model.vector - eta * self.grad_theta))
        return np.asarray(after - self.flow.states)


def require_noiseless_flow(flow: object) -> Flow:
    """A flow without noise in its states, of which a backend that is judged against it would know nothing."""
    given = require_flow(flow)
    if given.state_noise is not None:
        raise ValueError(
            "the states of the flow have noise, of which backends know nothing: make it of the inputs alone, "
            "Flow(model, trials.inputs, lengths=trials.lengths)"
        )
    return given


def require_flow(flow: object) -> Flow:
    """A flow as it is, or TypeError."""
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a kpref.Flow; got {short(flow)}")
    return flow


def _tolerances(rtol: npt.ArrayLike | None, atol: npt.ArrayLike | None) -> dict[str, Any] | None:
    if rtol is None and atol is None:
        return None
    given = {"rtol": rtol, "atol": atol}
    return {name: value for name, value in given.items() if value is not None}
