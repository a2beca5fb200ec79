"""Files that are no checkpoints, and truncated ones: a sentence that names the file, never another exception."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.checkpoints import load_checkpoint
from kpref.data import example_folder

from .samples import N_OUT, PT, H, network, same, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("path", [example_folder() / "checkpoint_00000.safetensors", PT], ids=["safetensors", "pt"])
def test_truncated(folder, path):
    whole = path.read_bytes()
    short = folder / f"truncated{path.suffix}"
    for length in {*range(40), *np.linspace(40, len(whole) - 1, 60).astype(int)}:
        short.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated"):
            load_checkpoint(short)


@given(st.floats(0, 1, exclude_max=True))
def test_truncated_npz(folder, share):
    whole = write(folder / "whole.npz", network()).read_bytes()
    path = folder / "truncated.npz"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="truncated.npz"):
        load_checkpoint(path)


def test_a_changed_directory_of_an_npz_is_noticed_or_does_not_matter(folder):
    """No entry, a bias say, may be lost without a word: every byte of the directory of the zip archive counts."""
    whole = write(folder / "whole.npz", network()).read_bytes()
    path = folder / "changed.npz"
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(ValueError, MemoryError):
            model, readout = load_checkpoint(path)
            assert list(model.parameters) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
            assert readout.weight.shape == (N_OUT, H)
            assert same(readout.bias, network()["Wout.bias"])


@given(
    st.one_of(
        st.binary(max_size=99),
        st.text(max_size=30).map(str.encode),
        st.binary(max_size=99).map(b"\x89PNG\r\n\x1a\n".__add__),
        st.binary(max_size=99).map(b"PK\x03\x04".__add__),
        st.tuples(st.integers(0, 99), st.text(max_size=30)).map(
            lambda pair: pair[0].to_bytes(8, "little") + b"{" + pair[1].encode()
        ),
    )
)
def test_foreign(folder, content):
    path = folder / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="foreign.safetensors"):
        load_checkpoint(path)


def test_says_what_a_foreign_file_begins_with(folder):
    path = folder / "figure.pt"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"figure.pt is not a .* \(it begins with b'\\x89PNG"):
        load_checkpoint(path)


def test_missing_file_and_folder(folder):
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        load_checkpoint(folder / "absent.pt")
    with pytest.raises(OSError, match=folder.name):
        load_checkpoint(folder)


def test_trials_are_not_a_checkpoint():
    with pytest.raises(ValueError, match=r"trials.npz: found no recurrent layer.*'inputs', 'targets'"):
        load_checkpoint(example_folder() / "trials.npz")
