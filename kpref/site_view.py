"""The site form of networks with one state a unit and one recurrent weight: a view of their linearised step.

Going away: what still reads it is to read `kpref.step_form.StepForm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref.linearize import require_form, written_out
from kpref.program import Builder
from kpref.step_form import Entry, StepForm, Variable, allot

__all__ = [
    "ParameterLayout",
    "ParameterSite",
    "SiteCoefficients",
    "SiteForm",
    "as_step_form",
    "gru_currents",
    "has_sites",
    "network_current",
    "site_coefficients",
    "site_jacobian",
    "site_jacobian_transpose",
    "site_kernels",
    "site_or_none",
    "site_view",
    "sites_of",
    "with_gates",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ParameterSite:
    """Where a parameter enters the site form.

    Attributes
    ----------
    name : str
    kind : {"recurrent", "input", "bias"}
        What it multiplies: the site variable m, the inputs x, or one.
    gates : tuple of int
        Gate of each consecutive block of H rows of the parameter.
    """

    name: str
    kind: Literal["recurrent", "input", "bias"]
    gates: tuple[int, ...]

    def shape(self, n_states: int, n_inputs: int) -> tuple[int, ...]:
        """Shape of the parameter in a model of this size."""
        rows = len(self.gates) * n_states
        return {"recurrent": (rows, n_states), "input": (rows, n_inputs), "bias": (rows,)}[self.kind]


@dataclass(frozen=True)
class SiteCoefficients:
    """Coefficients of the site form at states of shape (..., H).

    An array without the leading axes is constant over them.

    Attributes
    ----------
    decay : ndarray, shape (..., H) or (H,)
        C0.
    gates : ndarray, shape (..., k, H) or (k, H)
        G.
    slope : ndarray, shape (..., H), or None
        S = dm/dz; None where m = z.
    variable : ndarray, shape (..., H), or None
        m; None where m = z.
    """

    decay: Array
    gates: Array
    slope: Array | None = None
    variable: Array | None = None


@dataclass(frozen=True, eq=False)
class ParameterLayout:
    """Where the entries of a parameter vector (M,) stand in the matrices that the kernels multiply by.

    The kernels know two: one for the recurrent gates, which multiplies the site variable, and one for all gates,
    which multiplies ``(x, 1)``. Both are stored transposed, (columns, gates * H).

    Attributes
    ----------
    sites : tuple of ParameterSite
        The trainable parameters in order.
    n_states, n_inputs, n_gates, n_recurrent_gates : int
    """

    sites: tuple[ParameterSite, ...]
    n_states: int
    n_inputs: int
    n_gates: int
    n_recurrent_gates: int

    @classmethod
    def of(cls, model: Any) -> ParameterLayout:
        """Layout of a model's trainable parameters."""
        sites = tuple(site for site in sites_of(model) if site.name in model.trainable)
        gated = model.parameters["weight_hh"].shape[0] == 3 * model.n_states
        return cls(sites, model.n_states, model.n_inputs, 4 if gated else 1, 3 if gated else 1)

    @property
    def has_recurrent(self) -> bool:
        """Whether a recurrent weight is trainable."""
        return any(site.kind == "recurrent" for site in self.sites)

    @property
    def size(self) -> int:
        """Number M of trainable parameters."""
        return sum(int(np.prod(site.shape(self.n_states, self.n_inputs))) for site in self.sites)

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of the two matrices: recurrent (H, k_r H), with no columns if it is not trainable; driven (n_in + 1, k H)."""
        columns = self.n_recurrent_gates * self.n_states if self.has_recurrent else 0
        return (self.n_states, columns), (self.n_inputs + 1, self.n_gates * self.n_states)

    def zeros(self, count: int, dtype: npt.DTypeLike) -> tuple[Array, Array]:
        """Matrices of zeros for `count` vectors."""
        recurrent, driven = (np.zeros((count, *shape), dtype) for shape in self.shapes)
        return recurrent, driven

    def pack(self, vectors: Array) -> tuple[Array, Array]:
        """Parameter vectors (v, M) as matrices."""
        recurrent, driven = self.zeros(len(vectors), vectors.dtype)
        for site, block, target in self._blocks(vectors, recurrent, driven):
            target += block if site.kind == "bias" else block.swapaxes(1, 2)
        return recurrent, driven

    def unpack(self, recurrent: Array, driven: Array) -> Array:
        """Matrices as parameter vectors (v, M): the transpose of `pack`."""
        vectors = np.empty((len(driven), self.size), driven.dtype)
        for site, block, source in self._blocks(vectors, recurrent, driven):
            block[...] = source if site.kind == "bias" else source.swapaxes(1, 2)
        return vectors

    def _blocks(self, vectors: Array, recurrent: Array, driven: Array) -> Any:
        """Views of each (H rows) block of each parameter in the vectors, and of its place in the matrices."""
        start, units = 0, self.n_states
        for site in self.sites:
            shape = site.shape(units, self.n_inputs)
            size = int(np.prod(shape))
            blocks = vectors[:, start : start + size].reshape(len(vectors), len(site.gates), units, *shape[1:])
            for index, gate in enumerate(site.gates):
                columns = slice(gate * units, (gate + 1) * units)
                if site.kind == "recurrent":
                    place = recurrent[:, :, columns]
                else:
                    place = driven[:, -1, columns] if site.kind == "bias" else driven[:, :-1, columns]
                yield site, blocks[:, index], place
            start += size


@dataclass(frozen=True, eq=False)
class SiteForm:
    """Coefficients of the site form along a trajectory of R rows and B trials.

    See `kpref.models.base` for the equation. H units, k gates of which k_r are recurrent.

    Attributes
    ----------
    decay : ndarray, shape (R or 1, B or 1, H)
        C0.
    gates : ndarray, shape (R or 1, B or 1, k, H)
        G.
    slope : ndarray, shape (R, B, H), or (1, 1, 0) where S = 1
        S.
    variable : ndarray, shape (R, B, H)
        m, what the recurrent weight multiplies.
    drive : ndarray, shape (R, B, n_in + 1)
        The inputs, and ones.
    weight : ndarray, shape (k_r H, H)
        The recurrent weight.
    layout : ParameterLayout
    """

    decay: Array
    gates: Array
    slope: Array
    variable: Array
    drive: Array
    weight: Array
    layout: ParameterLayout

    __repr__ = short_repr

    @property
    def n_steps(self) -> int:
        """Number R of rows."""
        return int(self.variable.shape[0])

    @property
    def n_trials(self) -> int:
        """Number B of trials."""
        return int(self.variable.shape[1])

    @property
    def n_states(self) -> int:
        """Number H of states."""
        return int(self.variable.shape[2])

    @property
    def n_parameters(self) -> int:
        """Number M of trainable parameters."""
        return self.layout.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Floating type of the coefficients."""
        return self.variable.dtype

    @property
    def nbytes(self) -> int:
        """Memory of the coefficients; the site variable may be shared with the trajectory."""
        arrays = (self.decay, self.gates, self.slope, self.variable, self.drive, self.weight)
        return sum(array.nbytes for array in arrays)


def has_sites(model: Any) -> bool:
    """Whether a model has a site form."""
    names = set(getattr(model, "parameters", ()))
    return (
        hasattr(model, "program")
        and {"weight_ih", "weight_hh"} <= names
        and len(model.parameters["weight_hh"]) in (model.n_states, 3 * model.n_states)
        and not model.observed.start
        and model.observed.stop == model.n_states
    )


def sites_of(model: Any) -> tuple[ParameterSite, ...]:
    """Every parameter that a model of this kind can have, in declared order."""
    if "bias" in model.parameters or hasattr(model, "gate"):
        return (
            ParameterSite("weight_ih", "input", (0,)),
            ParameterSite("weight_hh", "recurrent", (0,)),
            ParameterSite("bias", "bias", (0,)),
        )
    gated = len(model.parameters["weight_hh"]) == 3 * model.n_states
    driven, recurrent = ((0, 1, 3), (0, 1, 2)) if gated else ((0,), (0,))
    return (
        ParameterSite("weight_ih", "input", driven),
        ParameterSite("weight_hh", "recurrent", recurrent),
        ParameterSite("bias_ih", "bias", driven),
        ParameterSite("bias_hh", "bias", recurrent),
    )


def site_coefficients(model: Any, z: Array, x: Array) -> SiteCoefficients:
    """Coefficients of the site form at states and inputs."""
    numbers = model.numbers(z, x)
    channels = {name.removeprefix("layer0_"): value for name, value in numbers.channels.items()}
    if "update" in channels:
        gates = [channels[name] for name in _GATES]
        return SiteCoefficients(channels["update"], np.stack([np.asarray(gate) for gate in gates], axis=-2))
    if "gate" not in channels:
        return SiteCoefficients(np.zeros(model.n_states), channels["slope"][..., None, :])
    return SiteCoefficients(
        channels["decay"], channels["gate"][..., None, :], channels.get("slope"), numbers.variables.get("rates")
    )


_GATES = ("reset_gate", "update_gate", "hidden", "candidate")


def site_view(form: StepForm) -> SiteForm:
    """The site form of a linearised step that has one, or TypeError."""
    channels = {name.removeprefix("layer0_"): name for name in form.places}
    one = (1, 1, form.n_states)
    if set(channels) == {"update", *_GATES}:
        decay, slope = form.channel(channels["update"]), None
        gates = np.stack([form.channel(channels[name]) for name in _GATES], axis=2)
        blocks = form.weights["recurrent0"].reshape(3, form.n_states, form.n_states)
        weight, m, drive = blocks[[1, 2, 0]].reshape(-1, form.n_states), form.states, form.variable("drive0")
    elif set(channels) == {"slope"} and "recurrent0" in form.weights:
        decay, slope = np.zeros(one, form.dtype), None
        gates = form.channel(channels["slope"])[:, :, None]
        weight, m, drive = form.weights["recurrent0"], form.states, form.variable("drive0")
    elif {"decay", "gate"} <= set(channels):
        decay, gates = form.channel("decay"), form.channel("gate")[:, :, None]
        slope = form.channel("slope") if "slope" in channels else None
        weight, m, drive = form.weights["recurrent"], form.variable("rates"), form.variable("drive")
    else:
        raise TypeError(
            "this quantity has a closed form for networks of one state a unit (Linear, RNN, GRU, leaky, rate) and "
            "for dense systems; for LSTM, low-rank and stacked networks estimate it from the operators of the flow"
        )
    return SiteForm(
        np.ascontiguousarray(decay), np.ascontiguousarray(gates),
        np.empty((1, 1, 0), form.dtype) if slope is None else np.ascontiguousarray(slope),
        np.ascontiguousarray(m), _with_ones(form, drive), weight, _layout(form),
    )  # fmt: skip


def _with_ones(form: StepForm, drive: Array) -> Array:
    inputs = _inputs(form)
    if drive.shape[2] > inputs:
        return np.ascontiguousarray(drive)
    return np.concatenate([drive, np.ones((*drive.shape[:2], 1), drive.dtype)], axis=2)


def _inputs(form: StepForm) -> int:
    """Number of inputs."""
    if "weight_ih" in form.shapes:
        return form.shapes["weight_ih"][1]
    (name,) = (name for name in form.known if name.startswith("drive"))
    return form.known[name].width - any(parameter.startswith("bias") for parameter in form.shapes)


def _layout(form: StepForm) -> ParameterLayout:
    gated = "layer0_update" in form.places
    driven, recurrent = ((0, 1, 3), (0, 1, 2)) if gated else ((0,), (0,))
    kinds: dict[str, tuple[Literal["recurrent", "input", "bias"], tuple[int, ...]]] = {
        "weight_ih": ("input", driven),
        "weight_hh": ("recurrent", recurrent),
        "bias_ih": ("bias", driven),
        "bias_hh": ("bias", recurrent),
        "bias": ("bias", (0,)),
    }
    sites = tuple(ParameterSite(name, *kinds[name]) for name in form.shapes)
    return ParameterLayout(sites, form.n_states, _inputs(form), 4 if gated else 1, 3 if gated else 1)


def with_gates(form: Any) -> Any:
    """A linearisation whose parameter operator has a closed form by gates, or TypeError."""
    if isinstance(form, SiteForm):
        return form
    return site_view(form) if isinstance(require_form(form), StepForm) else written_out(form)


def site_or_none(form: Any) -> SiteForm | None:
    """The site form of a linearisation, if it has one."""
    try:
        return site_view(form) if isinstance(form, StepForm) else None
    except TypeError:
        return None


def as_step_form(form: SiteForm) -> StepForm:
    """A site form, perhaps a changed one, as a linearised step."""
    units, gates = form.n_states, form.gates.shape[2]
    recurrent, sloped = len(form.weight) // units, form.slope.size > 0
    build = Builder()
    old, new = build.state(units)
    source = old
    if sloped:
        source = build.register(units)
        build.scale(source, old, "slope")
    currents = build.register(gates * units)
    first = type(currents)(currents.register, 0, recurrent * units)
    build.product(first, source, "recurrent", "rates")
    build.product(currents, None, "driven", "drive")
    build.scale(new, old, "decay")
    for gate in range(gates):
        build.scale(new, currents.part(gate, units), f"gate{gate}")
    channels = {"decay": form.decay} | {f"gate{gate}": form.gates[:, :, gate] for gate in range(gates)}
    if sloped:
        channels["slope"] = form.slope
    places, total = allot({name: np.shape(value) for name, value in channels.items()}, form.n_steps, form.n_trials)
    numbers = np.empty(total, form.dtype)
    for name, value in channels.items():
        places[name].view(numbers)[...] = value
    inputs, everything = form.drive.shape[2] - 1, slice(0, units)
    known = {"rates": Variable(False, 0, units), "drive": Variable(False, units, inputs + 1)}
    columns = {"input": slice(0, inputs), "bias": slice(inputs, inputs + 1), "recurrent": everything}
    entries = tuple(
        Entry(
            site.name, "recurrent" if site.kind == "recurrent" else "driven",
            slice(index * units, (index + 1) * units), slice(gate * units, (gate + 1) * units), columns[site.kind],
        )
        for site in form.layout.sites
        for index, gate in enumerate(site.gates)
    )  # fmt: skip
    shapes = {site.name: site.shape(units, inputs) for site in form.layout.sites}
    weights = {"recurrent": np.array(form.weight), "driven": np.zeros((gates * units, inputs + 1), form.dtype)}
    variables = np.concatenate([form.variable, form.drive], axis=2)
    return StepForm(
        build.program(), numbers, places, np.empty((form.n_steps, form.n_trials, 0), form.dtype),
        np.require(variables, form.dtype, ["C", "W"]), known, weights, entries, shapes,
    )  # fmt: skip


def _row(coefficient: Array, step: int) -> Array:
    return coefficient[step if len(coefficient) > 1 else 0]


def _slope(form: Any, step: int) -> Array | float:
    return _row(form.slope, step) if form.slope.size else 1.0


def site_jacobian(form: Any, step: int, x: Array) -> Array:
    """``A[step] x`` for x of shape (v, B, H), in plain NumPy."""
    currents = (_slope(form, step) * x).reshape(-1, x.shape[2]) @ form.weight.T  # one product, not one for each v
    split = currents.reshape(*x.shape[:2], -1, x.shape[2])
    recurrent = _row(form.gates, step)[:, : split.shape[2]]
    return _row(form.decay, step) * x + (recurrent * split).sum(axis=2)


def site_jacobian_transpose(form: Any, step: int, x: Array) -> Array:
    """``A[step]^T x``."""
    recurrent = _row(form.gates, step)[:, : len(form.weight) // form.n_states]
    split = recurrent * x[:, :, None, :]
    currents = split.reshape(len(x) * x.shape[1], -1) @ form.weight
    return _row(form.decay, step) * x + _slope(form, step) * currents.reshape(x.shape)


def network_current(parameters: Any, m: Array, x: Array) -> Array:
    """``W m + U x`` and whichever biases there are."""
    current = m @ parameters["weight_hh"].T + x @ parameters["weight_ih"].T
    for name in ("bias", "bias_ih", "bias_hh"):
        if name in parameters:
            current = current + parameters[name]
    return current


def gru_currents(parameters: Any, h: Array, x: Array) -> tuple[Array, Array, Array, Array]:
    """``a_r + c_r``, ``a_u + c_u``, ``a_n`` and ``c_n``."""
    a = h @ parameters["weight_hh"].T
    c = x @ parameters["weight_ih"].T
    if "bias_hh" in parameters:
        a = a + parameters["bias_hh"]
    if "bias_ih" in parameters:
        c = c + parameters["bias_ih"]
    a_r, a_u, a_n = np.split(a, 3, axis=-1)
    c_r, c_u, c_n = np.split(c, 3, axis=-1)
    return a_r + c_r, a_u + c_u, a_n, c_n


_known: WeakKeyDictionary[SiteForm, StepForm] = WeakKeyDictionary()


class _SiteKernels:
    """`kpref.kernels` over site forms."""

    def __getattr__(self, name: str) -> Any:
        from kpref import kernels

        function = getattr(kernels, name)

        def call(form: SiteForm, *arguments: Any) -> Any:
            if form not in _known:
                _known[form] = as_step_form(form)
            return function(_known[form], *arguments)

        return call


site_kernels: Any = _SiteKernels()
