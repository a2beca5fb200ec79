"""Modules of PyTorch as steps and runs: their states, whatever a module calls them, as one tensor (n, states)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["CellStep", "SequenceStep", "step_of"]

Call = Callable[[Any, Any], Any]  # (inputs, state) to what the module returns


class CellStep:
    """A module that takes inputs (n, n_in) and a state, and returns the new state.

    `widths`: those of the tensors (n, width) that the state is a tuple of; None where it is one tensor.
    """

    runs_at_once = False

    def __init__(self, module: Any, widths: Sequence[int] | None) -> None:
        self.module, self._widths = module, None if widths is None else list(widths)

    def __call__(self, call: Call, z: Any, x: Any) -> Any:
        """New states, the module or a copy of it with other parameters being called as `call`."""
        import torch

        if self._widths is None:
            return call(x, z)
        return torch.cat(tuple(call(x, z.split(self._widths, dim=1))), dim=1)

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Context in which kernels are chosen that have the derivatives that there are."""
        yield


class SequenceStep:
    """An nn.RNN, GRU or LSTM: the layers one after the other, each h, or h and then c.

    A run over a sequence returns h of the last layer at all times. Where that is all of the state, the run is the
    module's own, in one call; else the module is called for one step after the other.
    """

    def __init__(self, module: Any) -> None:
        import torch

        self.module, self._parts = module, 2 if isinstance(module, torch.nn.LSTM) else 1
        self.runs_at_once = module.num_layers * self._parts == 1

    def __call__(self, call: Call, z: Any, x: Any) -> Any:
        """New states, the module or a copy of it with other parameters being called as `call`."""
        import torch

        parts = z.reshape(len(z), self.module.num_layers, self._parts, -1).permute(2, 1, 0, 3).contiguous()
        new = call(x.unsqueeze(1 if self.module.batch_first else 0), tuple(parts) if self._parts > 1 else parts[0])[1]
        stacked = torch.stack(new if self._parts > 1 else [new])
        return stacked.permute(2, 1, 0, 3).reshape(len(z), -1)

    def run(self, z: Any, x: Any) -> Any:
        """States (B, T, H) of the module run at once from states (B, H) under inputs (B, T, n_in)."""
        if self.module.batch_first:
            return self.module(x, z[None])[0]
        return self.module(x.swapaxes(0, 1), z[None])[0].swapaxes(0, 1)

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Context in which kernels are chosen that have the derivatives that there are: not those of cuDNN."""
        import torch

        before = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = False
        try:
            yield
        finally:
            torch.backends.cudnn.enabled = before


def step_of(module: Any, z0: Any) -> tuple[CellStep | SequenceStep, int | None]:
    """The step of a module whose initial state is given, and the size of its state where the module knows it.

    Raises TypeError if it can have none, ValueError if it is a network of another kind than those that are known.
    """
    import torch

    if isinstance(module, torch.nn.RNNBase):
        if module.bidirectional or module.proj_size:
            raise ValueError(f"module must have one direction and no projection; got {module}")
        if module.dropout and module.training:
            raise ValueError(f"module drops entries at random: call its eval() first; got {module}")
        parts = 2 if isinstance(module, torch.nn.LSTM) else 1
        return SequenceStep(module), module.num_layers * parts * module.hidden_size
    if isinstance(module, torch.nn.LSTMCell):
        return CellStep(module, [module.hidden_size] * 2), 2 * module.hidden_size
    if isinstance(module, torch.nn.RNNCellBase):
        return CellStep(module, None), module.hidden_size
    if not isinstance(module, torch.nn.Module) or z0 is None:
        raise TypeError(
            "module must be a torch.nn.RNN, GRU, LSTM, a cell of these, or, with z0 given, any that takes "
            f"(inputs, state) and returns the new state; got {type(module).__module__}.{type(module).__name__}"
        )
    return CellStep(module, [part.shape[1] for part in z0] if isinstance(z0, tuple) else None), None
