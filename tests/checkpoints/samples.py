"""Random networks under PyTorch's names, and files of them."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

DATA = Path(__file__).parents[1] / "data"
DIGITS = DATA / "checkpoints" / "digits_gru_h64"
PT = DIGITS / "checkpoint_02000.pt"
H, N_IN, N_OUT = 4, 3, 2


def network(gates=3, n_states=H, n_inputs=N_IN, prefix="rnn.", suffix="_l0", readout="Wout", seed=0):
    """A state_dict of a random network with all biases."""
    generator = np.random.default_rng(seed)
    rows = gates * n_states
    shapes = {"weight_ih": (rows, n_inputs), "weight_hh": (rows, n_states), "bias_ih": (rows,), "bias_hh": (rows,)}
    arrays = {f"{prefix}{name}{suffix}": generator.normal(size=shape) for name, shape in shapes.items()}
    if readout is not None:
        arrays[f"{readout}.weight"] = generator.normal(size=(N_OUT, n_states))
        arrays[f"{readout}.bias"] = generator.normal(size=N_OUT)
    return arrays


def without(arrays, *names):
    return {name: array for name, array in arrays.items() if name not in names}


def same(one, other):
    """Whether two arrays agree bit by bit (which 0 and -0 do not)."""
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def write(path, arrays):
    """Write arrays in the format that the suffix of the path tells."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    return path


def safetensors_bytes(kind, arrays):
    """A safetensors file written by hand, all tensors of one type: length of the header, header, data."""
    header, data = {}, b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data
