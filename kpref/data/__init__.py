"""What comes with the package: small trained networks, before and after training, their trials, and digits."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

EXAMPLES = ("memory_pro_gru_h128", "memory_pro_lstm_h32", "memory_pro_gru_2x32")
"""Names of the bundled examples."""


def example_folder(name: str = EXAMPLES[0]) -> Path:
    """Folder of a bundled example, a network on a memory task; its files are described in ``README.md``.

    Parameters
    ----------
    name : {"memory_pro_gru_h128", "memory_pro_lstm_h32", "memory_pro_gru_2x32"}
        A GRU of 128 units, an LSTM of 32, or a GRU of two layers of 32.

    Returns
    -------
    Path
        Holds ``checkpoint_00000.safetensors`` (before training), one or more of later, ``trials.npz`` and
        ``training.json``.

    Raises
    ------
    ValueError
        For another name.
    """
    if name not in EXAMPLES:
        raise ValueError(f"the examples are {', '.join(EXAMPLES)}; got {name!r}")
    return Path(str(files(__name__) / name))


def data_file(name: str) -> Path:
    """A file that lies beside the examples, such as ``digits.npz``; ``README.md`` says where each comes from."""
    return Path(str(files(__name__) / name))
