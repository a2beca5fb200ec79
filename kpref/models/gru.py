"""The gated recurrent unit of torch.nn.GRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from kpref.models.base import Array, Parameters, ParameterSite, SiteCoefficients, SiteMap, initial_parameters
from kpref.models.nonlinearity import sigmoid, sigmoid_pair, tanh_slope
from kpref.models.registry import TorchLayout, register

__all__ = ["GRU"]


class GRU(SiteMap):
    """The gated recurrent unit in PyTorch's form (Cho et al. 2014, the reset gate after the product).

    With ``a_g = W_g h + b_hh,g`` and ``c_g = U_g x + b_ih,g`` for the gates g = r, u, n,

        r = sigmoid(a_r + c_r),  u = sigmoid(a_u + c_u),  n = tanh(c_n + r * a_n),  h' = (1 - u) * n + u * h.

    Differentiating, with ``s = (1 - u) * (1 - n**2)``,

        dh' = u * dh + (h - n) u (1 - u) * d(a_u + c_u) + s * (dc_n + r * da_n + a_n r (1 - r) * d(a_r + c_r)).

    Site form: m = h, C0 = u, and four gates, the first three recurrent:
    G_r = s a_n r (1 - r), G_u = (h - n) u (1 - u), G_hn = s r for a_n, G_in = s for c_n.

    Parameters
    ----------
    weight_ih : array_like, shape (3 H, n_inputs)
        Blocks of H rows in the order r, u, n (PyTorch: r, z, n).
    weight_hh : array_like, shape (3 H, H)
    bias_ih, bias_hh : array_like, shape (3 H,), optional
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    n_gates = 4
    n_recurrent_gates = 3
    sites = (
        ParameterSite("weight_ih", "input", (0, 1, 3)),
        ParameterSite("weight_hh", "recurrent", (0, 1, 2)),
        ParameterSite("bias_ih", "bias", (0, 1, 3)),
        ParameterSite("bias_hh", "bias", (0, 1, 2)),
    )
    optional = ("bias_ih", "bias_hh")

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias_ih: npt.ArrayLike | None = None,
        bias_hh: npt.ArrayLike | None = None,
        trainable: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}, trainable
        )

    @classmethod
    def init(cls, n_inputs: int, n_states: int, seed: int, gain: float = 1.0, bias: bool = True) -> Self:
        """A random network; see `initial_parameters` in `kpref.models.base`."""
        return cls(**initial_parameters(cls, n_inputs, n_states, seed, gain, bias))

    @staticmethod
    def _currents(parameters: Parameters, h: Array, x: Array) -> tuple[Array, Array, Array, Array]:
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

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        reset, update, a_n, c_n = self._currents(parameters, z, x)
        u, complement = sigmoid_pair(update)
        return complement * np.tanh(c_n + sigmoid(reset) * a_n) + u * z

    def coefficients(self, z: Array, x: Array) -> SiteCoefficients:
        """Coefficients of the site form, as the class derives them."""
        reset, update, a_n, c_n = self._currents(self.parameters, z, x)
        (r, r_complement), (u, u_complement) = sigmoid_pair(reset), sigmoid_pair(update)
        candidate = c_n + r * a_n
        gates = np.empty((*z.shape[:-1], 4, z.shape[-1]))
        s = np.multiply(u_complement, tanh_slope(candidate), out=gates[..., 3, :])
        s_r = np.multiply(s, r, out=gates[..., 2, :])
        np.multiply(z - np.tanh(candidate), u * u_complement, out=gates[..., 1, :])
        np.multiply(s_r * r_complement, a_n, out=gates[..., 0, :])
        return SiteCoefficients(decay=u, gates=gates)


register("gru", GRU, GRU.init, variants=({}, {"bias": False}), torch=TorchLayout(blocks=3))
