"""The example that comes with the package: a small trained network, before and after training, and its trials."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def example_folder() -> Path:
    """Folder of the bundled example, a GRU of 128 units on a memory task; its files are described in ``README.md``.

    Returns
    -------
    Path
        Holds ``checkpoint_00000.safetensors`` (before training), ``checkpoint_01500.safetensors`` (after it),
        ``trials.npz`` and ``training.json``.
    """
    return Path(str(files(__name__) / "memory_pro_gru_h128"))
