"""Parts of a backend, and all of it: what a law says of one operator needs no answers of the others, and no metrics."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from apparatus.emulation import EmulatedBackend
from kpref.oracle.evaluation import FACTORS


def offering(backend: Any, *operators: str) -> Any:
    """A backend that offers its states and these operators, and nothing else."""
    declared = ("dtype", "arithmetic", "loss_scale", "unscaled", "states")
    names = [name for name in (*declared, *operators) if hasattr(backend, name)]
    return SimpleNamespace(**{name: getattr(backend, name) for name in names})


def everything(backend: EmulatedBackend) -> Any:
    """An emulated backend that offers all that can be judged, what follows from its operators made of them."""
    wrap = backend.wrap

    def weigh(tensor: Any) -> Any:
        return np.asarray(wrap(tensor) * wrap(backend.space.mu)[:, :, None])

    def chain(operator: str) -> Any:
        def call(tensor: Any) -> Any:
            for factor in FACTORS[operator]:
                tensor = getattr(backend, factor)(tensor)
            return tensor

        return call

    def inverse_transpose(g: Any) -> Any:
        g = np.array(wrap(g))
        for step in range(g.shape[1] - 1):
            g[:, step] = wrap(wrap(g[None, :, step]) - backend.retreat(step + 1, g[None, :, step + 1]))[0]
        return g

    def from_start(start: Any) -> Any:
        forcing = np.zeros(backend.states.shape)
        forcing[:, 0] = backend.advance(0, np.asarray(wrap(start))[None])[0]
        return backend.P(forcing)

    return SimpleNamespace(
        **vars(offering(backend, *_OWN)), P_inverse_T=inverse_transpose, D=chain("D"), D_T=chain("D_T"),
        D_z0=from_start, D_z0_T=lambda g: np.asarray(backend.retreat(0, backend.P_T(g)[None, :, 0]))[0],
        K_T=lambda q: weigh(chain("K_T")(q)), NTK_T=lambda q: weigh(chain("NTK_T")(q)),
        gradient_T=lambda theta: weigh(chain("gradient_T")(theta)),
    )  # fmt: skip


#: What an `EmulatedBackend` has itself.
_OWN = ("P", "P_T", "P_inverse", "J", "J_T", "K", "NTK", "gradient", "metrics")
