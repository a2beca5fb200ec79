"""Damaged and hostile files: refused at once in a sentence that names them, or read to the same numbers."""

import argparse
import io
import json
import os
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from kpref import Trials
from kpref.checkpoints import load_checkpoint, save_checkpoint
from kpref.models import Rate

from .samples import network, safetensors_bytes

READERS = [load_checkpoint, Trials.load]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damage")


def small():
    return {name: array.astype("f4") for name, array in network(1, n_states=2, n_inputs=1).items()}


def numbers(checkpoint):
    model, readout = checkpoint
    return [*(array.tobytes() for array in (*model.parameters.values(), readout.weight, readout.bias))]


def survey(path, whole, places, mask):
    """Flip bits of the byte at each place: refused with the file's name in one short line, or the same numbers."""
    path.write_bytes(whole)
    truth = numbers(load_checkpoint(path))
    refused = 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        try:
            found, text = numbers(load_checkpoint(path)), ""
        except (ValueError, MemoryError) as error:
            found, text = None, str(error)
        refused += found is None
        assert found == truth or (str(path) in text and "\n" not in text and len(text) < len(str(path)) + 700)
    return refused


class TestFlippedBits:
    def test_npz(self, folder):
        stream = io.BytesIO()
        np.savez_compressed(stream, **small())
        whole = stream.getvalue()
        start = whole.index(b"PK\x01\x02")
        places = [*range(0, start, 5), *range(start, len(whole))]
        assert survey(folder / "flipped.npz", whole, places, 0x10) > len(places) / 2

    def test_safetensors(self, folder):
        """The format has no checksum: numbers may change unseen, but not names, types and shapes."""
        whole = safetensors.numpy.save(small(), metadata={"format": "pt"})
        header = range(8 + int.from_bytes(whole[:8], "little"))
        assert survey(folder / "flipped.safetensors", whole, header, 0x10) > len(header) / 2

    @pytest.mark.backends
    def test_pytorch(self, folder):
        torch = pytest.importorskip("torch")
        stream = io.BytesIO()
        torch.save({name: torch.from_numpy(array) for name, array in small().items()}, stream)
        whole = stream.getvalue()
        directory = range(whole.index(b"PK\x01\x02"), len(whole))
        assert survey(folder / "flipped.pt", whole, directory[::3], 0x10) > len(directory) / 12
        assert survey(folder / "flipped.pt", whole, range(0, directory.start, 29), 0x40) > 0

    @pytest.mark.backends
    def test_an_entry_that_the_directory_calls_a_folder_is_read_all_the_same(self, folder):
        torch = pytest.importorskip("torch")
        path = folder / "attribute.pt"
        torch.save({name: torch.from_numpy(array) for name, array in small().items()}, path)
        truth, whole = numbers(load_checkpoint(path)), bytearray(path.read_bytes())
        place = whole.index(b"PK\x01\x02")
        while whole[place : place + 4] == b"PK\x01\x02":
            whole[place + 38] ^= 0x10
            place += 46 + sum(int.from_bytes(whole[place + at : place + at + 2], "little") for at in (28, 30, 32))
        path.write_bytes(whole)
        assert numbers(load_checkpoint(path)) == truth

    @pytest.mark.backends
    def test_each_byte_of_a_tensor_of_pytorch_counts(self, folder):
        torch = pytest.importorskip("torch")
        path = folder / "tensor.pt"
        torch.save({name: torch.from_numpy(array) for name, array in small().items()}, path)
        whole = path.read_bytes()
        start = whole.index(small()["rnn.weight_hh_l0"].tobytes())
        for place in range(start, start + 16):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=r"tensor.pt is a damaged .* its entry '.*data/\d' does not"):
                load_checkpoint(path)


class TestOneNameTwice:
    @pytest.mark.parametrize("read", READERS)
    @pytest.mark.parametrize("names", [("inputs.npy", "inputs.npy"), ("inputs.npy", "inputs")])
    def test_npz(self, folder, names, read):
        entry = io.BytesIO()
        np.save(entry, np.ones((1, 1, 1)))
        with zipfile.ZipFile(folder / "twice.npz", "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of zipfile, about what is done here on purpose
            for name in names:
                archive.writestr(name, entry.getvalue())
        with pytest.raises(ValueError, match=r"twice.npz holds 'inputs(.npy)?' twice, and nothing says which"):
            read(folder / "twice.npz")

    def test_safetensors(self, folder):
        whole = safetensors_bytes("F32", {"weight_hh": np.ones((2, 2), "f4"), "weight_hx": np.zeros((2, 2), "f4")})
        (folder / "twice.safetensors").write_bytes(whole.replace(b"weight_hx", b"weight_hh"))
        with pytest.raises(ValueError, match="twice.safetensors holds 'weight_hh' twice"):
            load_checkpoint(folder / "twice.safetensors")


@pytest.mark.parametrize("first", ["other", b"PK and more"])
def test_two_files_in_one(folder, first):
    """Python's zipfile reads the last archive of a file, whatever stands before it."""
    archives = []
    for seed in (0, 1):
        stream = io.BytesIO()
        np.savez(stream, **network(seed=seed))
        archives.append(stream.getvalue())
    before = archives[0] if first == "other" else first
    path = folder / "two.npz"
    path.write_bytes(before + archives[1])
    with pytest.raises(ValueError, match=rf"two.npz holds {len(before)} bytes before its zip archive"):
        load_checkpoint(path)


class TestWhatIsNoFile:
    @pytest.mark.parametrize("read", READERS)
    def test_pipes_do_not_hang(self, folder, read):
        path = folder / f"pipe of {read.__name__}"
        os.mkfifo(path)
        with pytest.raises(OSError, match=r"pipe of .* is a pipe, a socket or a device; expected a file"):
            read(path)

    @pytest.mark.parametrize("read", READERS)
    def test_devices_folders_loops(self, tmp_path, read):
        loop = tmp_path / "loop"
        loop.symlink_to(loop)
        with pytest.raises(OSError, match="null is a pipe, a socket or a device"):
            read(os.devnull)
        with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder; expected a file"):
            read(tmp_path)
        with pytest.raises(OSError, match="loop"):
            read(loop)

    @pytest.mark.parametrize("read", READERS)
    def test_names_that_no_file_has(self, read):
        with pytest.raises(ValueError, match=r"'a\\x00b' is not the name of a file"):
            read("a\0b")


class TestDeclaredSizes:
    @pytest.mark.parametrize("read", READERS)
    @pytest.mark.parametrize("shape", [(10**12, 3), (10**30,), (1, 2), (-1, -1)])
    def test_shapes_of_an_npz(self, folder, shape, read):
        """NumPy alone would take memory for the shape declared before it reads."""
        entry = io.BytesIO()
        np.lib.format.write_array_header_1_0(entry, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(folder / "declared.npz", "w") as archive:
            archive.writestr("inputs.npy", entry.getvalue() + bytes(8))
        with pytest.raises(ValueError, match=r"declared.npz: entry 'inputs' .* declares float64 of .*, and 8 bytes"):
            read(folder / "declared.npz")

    @pytest.mark.parametrize("read", READERS)
    def test_unpacked_size_of_an_archive(self, folder, read):
        """The directory says 2^32 - 2 bytes for each of many entries: more than there is, whatever they really hold."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for index in range(20_000):
                archive.writestr(f"{index}.npy", b"")
        content = bytearray(stream.getvalue())
        place = content.index(b"PK\x01\x02")
        while content[place : place + 4] == b"PK\x01\x02":
            content[place + 24 : place + 28] = (2**32 - 2).to_bytes(4, "little")
            place += 46 + int.from_bytes(content[place + 28 : place + 30], "little")
        (folder / "bomb.npz").write_bytes(content)
        with pytest.raises(MemoryError, match="unpacking .*bomb.npz needs .* GiB is available"):
            read(folder / "bomb.npz")

    def test_header_of_safetensors(self, folder):
        (folder / "header.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}" + bytes(90))
        with pytest.raises(ValueError, match=f"declares a header of {2**62} bytes and has 100 in all"):
            load_checkpoint(folder / "header.safetensors")

    def test_size_of_safetensors(self, folder):
        """A sparse file takes no room on the disk and much in memory."""
        with open(folder / "sparse.safetensors", "wb") as file:
            file.write((2).to_bytes(8, "little") + b"{}")
            file.truncate(2**42)
        with pytest.raises(MemoryError, match="reading .*sparse.safetensors needs 8.19e[+]03 GiB of memory"):
            load_checkpoint(folder / "sparse.safetensors")


class TestDeepNesting:
    DEEP = "[" * 100_000 + "]" * 100_000

    def test_metadata_of_safetensors(self, folder):
        header = ('{"__metadata__": {"a": ' + self.DEEP + "}}").encode()
        (folder / "deep.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ValueError, match="deep.safetensors is not a whole safetensors file"):
            load_checkpoint(folder / "deep.safetensors")

    def test_recorded_time_constant(self, folder):
        path = folder / "deep.npz"
        save_checkpoint(path, Rate.init(2, 3, seed=0))
        with np.load(path) as saved:
            np.savez(path, **{**saved, "tau": self.DEEP})
        with pytest.raises(ValueError, match=r"deep.npz: the recorded tau must be a number .*; got '\[\[\[.*\.\.\."):
            load_checkpoint(path)

    @pytest.mark.parametrize("text", ["{}", '"a"', "null", "[1, [2]]", "1e999", json.dumps([[1.0]])])
    def test_recorded_time_constants_that_are_none(self, folder, text):
        path = folder / "tau.npz"
        save_checkpoint(path, Rate.init(2, 3, seed=0))
        with np.load(path) as saved:
            np.savez(path, **{**saved, "tau": text})
        with pytest.raises(ValueError, match=r"tau.npz: .*tau"):
            load_checkpoint(path)


@pytest.mark.backends
class TestContentsOfPyTorchFiles:
    @pytest.mark.parametrize("what", ["module", "namespace", "script", "old format", "scalar of NumPy"])
    def test_what_is_more_than_tensors_is_said_in_one_plain_sentence(self, folder, what):
        torch = pytest.importorskip("torch")
        path, module = folder / "more.pt", torch.nn.GRU(3, 8)
        state = module.state_dict()
        if what == "script":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.jit.save(torch.jit.script(module), path)
        else:
            contents = {
                "module": module,
                "namespace": {"state_dict": state, "args": argparse.Namespace(a=1)},
                "old format": state,
                "scalar of NumPy": {"model": state, "loss": np.float64(3)},
            }
            torch.save(contents[what], path, _use_new_zipfile_serialization=what != "old format")
        with pytest.raises(ValueError, match=r"more.pt .*: save its tensors, torch.save\(model.state_dict") as refusal:
            load_checkpoint(path)
        assert not any(words in str(refusal.value) for words in ("\x1b", "\n", "weights_only", "add_safe_globals"))
