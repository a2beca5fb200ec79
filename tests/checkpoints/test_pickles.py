"""Pickles are never executed, whatever file they are hidden in."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kpref.checkpoints import load_checkpoint

from .samples import network


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_is_never_executed(tmp_path, suffix, protocol):
    fired, path = tmp_path / "fired", tmp_path / f"bare{suffix}"
    bomb = pickle.dumps(Bomb(fired), protocol)
    path.write_bytes(bomb)
    with pytest.raises(ValueError, match=f"bare{suffix}"):
        load_checkpoint(path)
    assert not fired.exists()
    pickle.loads(bomb)
    assert fired.exists(), "the pickle is one that would have fired"


def test_python_objects_in_an_npz_are_never_built(tmp_path):
    fired, path = tmp_path / "fired", tmp_path / "objects.npz"
    np.savez(path, **network(), extra=np.array([Bomb(fired)], dtype=object))
    with pytest.raises(ValueError, match="objects.npz: entry 'extra' cannot be read"):
        load_checkpoint(path)
    assert not fired.exists()


def test_a_pickle_among_the_entries_of_an_npz_is_never_executed(tmp_path):
    fired, path = tmp_path / "fired", tmp_path / "entry.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weight_hh.npy", pickle.dumps(Bomb(fired)))
    with pytest.raises(ValueError, match="entry.npz: entry 'weight_hh' is not an array"):
        load_checkpoint(path)
    assert not fired.exists()


@pytest.mark.backends
@pytest.mark.parametrize("suffix", [".pt", ".npz"])
@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"state_dict": {"weight_hh": bomb}}])
def test_a_pickle_inside_a_pytorch_file_is_never_executed(tmp_path, suffix, wrap):
    torch = pytest.importorskip("torch")
    fired, path = tmp_path / "fired", tmp_path / f"bomb{suffix}"
    torch.save(wrap(Bomb(fired)), path)
    with pytest.raises(ValueError, match=rf"bomb{suffix} holds Python objects \(getattr\) .*: save its tensors"):
        load_checkpoint(path)
    assert not fired.exists()
    torch.load(path, weights_only=False)
    assert fired.exists(), "the file is one that would have fired"
