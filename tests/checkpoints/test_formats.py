"""Formats: safetensors and npz files and numbers of every type give the same network."""

import numpy as np
import pytest

from kpref.checkpoints import load_checkpoint

from .samples import H, network, safetensors_bytes, same, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("disguise", [".npz", ".safetensors", ".pt", ""])
def test_content_decides_not_the_suffix(folder, suffix, disguise):
    path = write(folder / f"network{suffix}", network()).rename(folder / f"disguised{disguise}")
    model, readout = load_checkpoint(str(path))
    assert same(model.parameters["weight_hh"], network()["rnn.weight_hh_l0"])
    assert same(readout.weight, network()["Wout.weight"])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, ">f8"])
def test_numbers_of_other_types_become_float64(folder, dtype):
    arrays = {name: array.astype(dtype) for name, array in network().items()}
    for source in (arrays, write(folder / "types.npz", arrays), write(folder / "types.safetensors", arrays)):
        model, _ = load_checkpoint(source)
        for name, parameter in model.parameters.items():
            assert same(parameter, arrays[f"rnn.{name}_l0"].astype(np.float64))


def test_bfloat16(folder):
    """Bfloat16 is the upper half of float32: numbers of 8 significant bits or fewer are the same in both."""
    exact = np.resize([1.0, -0.0, 0.15625, -2.5, 255.0, 2.0**-130, -3.0e38], (3 * H, H)).astype("<f4")
    exact = (exact.view("<u4") & 0xFFFF0000).view("<f4")
    halves = {name: (exact.view("<u4") >> 16).astype("<u2") for name in ("weight_ih", "weight_hh")}
    path = folder / "bfloat16.safetensors"
    path.write_bytes(safetensors_bytes("BF16", halves))
    model, _ = load_checkpoint(path)
    assert same(model.parameters["weight_hh"], exact.astype(np.float64))


def test_types_that_no_one_reads(folder):
    path = folder / "float8.safetensors"
    path.write_bytes(safetensors_bytes("F8_E4M3", {"weight_hh": np.zeros((H, H), dtype=np.uint8)}))
    with pytest.raises(ValueError, match="float8.safetensors: tensor 'weight_hh' has type F8_E4M3; expected one of"):
        load_checkpoint(path)
