"""A correct backend in any arithmetic, emulated: every elementary operation rounded, products as accelerators do them.

`Rounded` is an array whose operations round their results to the storage of an arithmetic; matrix products round their
operands first and accumulate in the precision of sums. The plain NumPy code of kpref's models and of its reference
products then runs in that arithmetic unchanged. Only for tests: it is slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kpref.kernels import reference
from kpref.linearize import ParameterLayout, SiteForm
from kpref.models.base import SiteMap
from kpref.oracle.arithmetic import Arithmetic
from kpref.space import TrajectorySpace

__all__ = ["EmulatedBackend", "Rounded", "Summation"]

Array = npt.NDArray[Any]

#: In which order inner products are summed: as NumPy does, backwards, or in blocks of eight terms one after another.
Summation = Literal["plain", "reversed", "blocks"]


class Rounded(np.ndarray):
    """An array that rounds the result of each operation.

    Build one with `Rounded.of`.
    """

    arithmetic: Arithmetic
    summation: Summation

    @classmethod
    def of(cls, values: npt.ArrayLike, arithmetic: Arithmetic, summation: Summation = "plain") -> Rounded:
        """Values rounded to storage."""
        array = np.array(arithmetic.round(values)).view(cls)
        array.arithmetic, array.summation = arithmetic, summation
        return array

    def __array_finalize__(self, other: Any) -> None:
        if other is not None:
            self.arithmetic = getattr(other, "arithmetic", None)  # type: ignore[assignment]
            self.summation = getattr(other, "summation", "plain")

    def _wrap(self, values: Any) -> Any:
        if isinstance(values, np.ndarray | np.generic) and np.asarray(values).dtype.kind == "f":
            return Rounded.of(values, self.arithmetic, self.summation)
        return values

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [np.asarray(value) if isinstance(value, Rounded) else value for value in inputs]
        with np.errstate(all="ignore"):
            if ufunc is np.matmul:
                result = self._product(*plain)
            else:
                result = getattr(ufunc, method)(*plain, **options)
        result = self._wrap(result)
        if out is None:
            return result
        out[0][...] = result
        return out[0]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._wrap(super().__array_function__(function, types, args, kwargs))

    def _product(self, a: Array, b: Array) -> Array:
        kind = np.float64 if self.arithmetic.accumulate < 2.0**-30 else np.float32
        a = self.arithmetic.round_operand(a).astype(kind)
        b = self.arithmetic.round_operand(b).astype(kind)
        if self.summation == "reversed":
            a, b = np.ascontiguousarray(a[..., ::-1]), np.ascontiguousarray(b[::-1])
        if self.summation == "blocks":
            total = np.zeros((*a.shape[:-1], b.shape[1]), kind)
            for start in range(0, len(b), 8):
                total += a[..., start : start + 8] @ b[start : start + 8]
            return total
        return np.asarray(a @ b)


@dataclass
class EmulatedBackend:
    """All operators of a map in an arithmetic: callables on tensors, as `kpref.oracle.verify` takes them.

    Attributes
    ----------
    model : SiteMap
    inputs : ndarray, shape (B, T, n_in)
    z0 : ndarray, shape (B, H)
    space : TrajectorySpace
    arithmetic : Arithmetic
    summation : {"plain", "reversed", "blocks"}
    """

    model: SiteMap
    inputs: Array
    z0: Array
    space: TrajectorySpace
    arithmetic: Arithmetic
    summation: Summation = "plain"
    states: Array = field(init=False)
    form: SiteForm = field(init=False)

    def __post_init__(self) -> None:
        wrap = self.wrap
        model = _with_rounded_parameters(self.model, wrap)
        z, starts = wrap(self.z0), []
        drive = [wrap(x) for x in np.moveaxis(self.inputs, 1, 0)]
        for x in drive:
            starts.append(z)
            z = model.step(z, x)
        before = wrap(np.stack([np.asarray(start) for start in starts]))
        self.states = np.moveaxis(np.stack([*(np.asarray(start) for start in starts[1:]), np.asarray(z)]), 0, 1)
        self.form = self._linearize(model, before, wrap(np.moveaxis(self.inputs, 1, 0)))

    def wrap(self, values: npt.ArrayLike) -> Rounded:
        """Values in this backend's arithmetic."""
        return Rounded.of(values, self.arithmetic, self.summation)

    def _linearize(self, model: SiteMap, before: Rounded, x: Rounded) -> SiteForm:
        part = model.coefficients(before, x)
        shape = before.shape

        def full(value: Any, trailing: int) -> Rounded:
            array = np.asarray(value)
            return self.wrap(array[None, None] if array.ndim == trailing else array)

        ones = np.ones((*shape[:2], 1))
        return SiteForm(
            decay=full(part.decay, 1),
            gates=full(part.gates, 2),
            slope=self.wrap(np.empty((1, 1, 0))) if part.slope is None else full(part.slope, 1),
            variable=before if part.variable is None else full(part.variable, 1),
            drive=self.wrap(np.concatenate([np.asarray(x), ones], axis=2)),
            weight=self.wrap(model.parameters["weight_hh"]),
            weight_transposed=self.wrap(model.parameters["weight_hh"].T),
            layout=ParameterLayout.of(self.model),
        )

    def P(self, q: Array) -> Array:
        """``P q``."""
        return np.asarray(reference.tangent(self.form, self.wrap(q)[None])[0])

    def P_T(self, g: Array) -> Array:
        """``P^T g``."""
        return np.asarray(reference.adjoint(self.form, self.wrap(g)[None])[0])

    def P_inverse(self, y: Array) -> Array:
        """``P^-1 y``."""
        return np.asarray(reference.inverse(self.form, self.wrap(y)[None])[0])

    def J(self, theta: Array) -> Array:
        """``J theta``."""
        form = self.form
        recurrent, driven = (self.wrap(part[0]) for part in form.layout.pack(np.asarray(theta)[None]))
        gates, units = driven.shape[1] // form.n_states, form.n_states
        currents = form.drive @ driven
        if recurrent.shape[1]:
            extra = np.zeros(currents.shape)
            extra[..., : recurrent.shape[1]] = np.asarray(form.variable @ recurrent)
            currents = currents + self.wrap(extra)
        terms = form.gates * currents.reshape(*currents.shape[:2], gates, units)
        total: Any = terms[:, :, 0]
        for gate in range(1, gates):
            total = total + terms[:, :, gate]
        return np.moveaxis(np.asarray(total), 0, 1)

    def J_T(self, g: Array) -> Array:
        """``J^T g``."""
        form = self.form
        terms = form.gates * self.wrap(np.moveaxis(np.asarray(g), 1, 0))[:, :, None]
        flat = terms.reshape(-1, terms.shape[2] * terms.shape[3])
        columns = form.layout.zeros(1, np.float64)[0].shape[2]
        driven = form.drive.reshape(len(flat), -1).T @ flat
        recurrent = (
            form.variable.reshape(len(flat), -1).T @ flat[:, :columns] if columns else np.zeros((form.n_states, 0))
        )
        return form.layout.unpack(np.asarray(recurrent)[None], np.asarray(driven)[None])[0]

    def K(self, q: Array) -> Array:
        """``K q``."""
        return self.J(self.J_T(np.asarray(self.wrap(q) * self.wrap(self.space.mu)[:, :, None])))

    def NTK(self, q: Array) -> Array:
        """``NTK q``."""
        return self.P(self.J(self.gradient(q)))

    def gradient(self, err: Array) -> Array:
        """``J^T P^T Mu Err``."""
        return self.J_T(self.P_T(np.asarray(self.wrap(err) * self.wrap(self.space.mu)[:, :, None])))


def _with_rounded_parameters(model: SiteMap, wrap: Any) -> SiteMap:
    """The same model computing with rounded parameters; its own checks would make plain arrays of them."""
    import copy

    twin = copy.copy(model)
    twin.parameters = {name: wrap(value) for name, value in model.parameters.items()}
    return twin
