"""Trials: what is accepted, what is refused and how the refusal says where, and files that are not trials."""

import contextlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.data import example_folder
from kpref.trials import Trials

DATA = Path(__file__).parent / "data"
B, T, N_IN, N_OUT = 4, 5, 3, 2


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trials")


def ones(*shape):
    return np.ones(shape)


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def planted(array, index, value):
    array = array.copy()
    array[index] = value
    return array


shapes = st.tuples(*[st.integers(1, 6)] * 4)


class TestValid:
    @given(shapes, st.sampled_from(["targets", "labels", "labels of steps", "neither"]), st.booleans(), st.data())
    def test_files_and_memory_hold_the_same(self, folder, shape, kind, mask_per_trial, data):
        n_trials, n_steps, n_inputs, n_outputs = shape
        generator = np.random.default_rng(data.draw(st.integers(0, 99)))
        arrays = {"inputs": generator.normal(size=(n_trials, n_steps, n_inputs))}
        if kind == "targets":
            arrays["targets"] = generator.normal(size=(n_trials, n_steps, n_outputs))
        elif kind != "neither":
            size = (n_trials,) if kind == "labels" else (n_trials, n_steps)
            arrays["labels"] = generator.integers(0, 9, size=size)
        mask = generator.random((n_trials, n_steps) if mask_per_trial else (n_steps,)) + 0.1
        trials = Trials(**arrays, mask=mask)
        assert (trials.n_trials, trials.n_steps, trials.n_inputs) == shape[:3]
        (folder / "trials.npz").write_bytes(npz(**arrays, mask=mask))
        loaded = Trials.load(folder / "trials.npz")
        arrays["mask"] = np.broadcast_to(mask, (n_trials, n_steps))
        for name in ("inputs", "targets", "labels", "mask"):
            for one in (getattr(trials, name), getattr(loaded, name)):
                if name in arrays:
                    assert np.array_equal(one, arrays[name])
                    assert one.dtype == (np.int64 if name == "labels" else np.float64)
                else:
                    assert one is None

    def test_later_changes_do_not_reach_the_trials(self):
        inputs, labels, mask = ones(B, T, N_IN), np.zeros(B, dtype=np.int64), ones(B, T)
        trials = Trials(inputs, labels=labels, mask=mask)
        inputs[0], labels[0], mask[0] = np.nan, -1, -1
        assert trials.inputs.min() == trials.inputs.max() == trials.mask.min() == 1
        assert trials.labels[0] == 0

    def test_a_read_only_view_of_writable_memory_is_copied(self):
        inputs = ones(B, T, N_IN)
        view = inputs[:]
        view.setflags(write=False)
        trials = Trials(view)
        inputs[0] = np.nan
        assert np.isfinite(trials.inputs).all()

    @pytest.mark.parametrize("name", ["inputs", "targets", "mask"])
    def test_arrays_are_read_only(self, name):
        trials = Trials(ones(B, T, N_IN), ones(B, T, N_OUT), mask=ones(T))
        with pytest.raises(ValueError, match="read-only"):
            getattr(trials, name)[0] = 0

    def test_booleans_weigh_zero_and_one(self):
        assert Trials(ones(1, 3, 1), mask=[True, False, True]).mask.tolist() == [[1.0, 0.0, 1.0]]

    @pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, ">f8", bool])
    def test_numbers_of_other_types_become_float64(self, dtype):
        assert Trials(ones(B, T, N_IN).astype(dtype)).inputs.dtype == np.dtype(np.float64)

    def test_bundled_example(self):
        trials = Trials.load(example_folder() / "trials.npz")
        assert trials.inputs.shape == trials.targets.shape == (100, 90, 3)
        assert trials.labels is trials.mask is None

    def test_digits(self):
        trials = Trials.load(DATA / "checkpoints" / "digits_gru_h64" / "trials.npz")
        assert trials.inputs.shape == (1797, 8, 8)
        assert np.array_equal(np.unique(trials.labels), np.arange(10))


class TestLengths:
    """Steps that exist, taken from arguments, from sequences, or from the end of the mask; and what stands after."""

    def test_all_steps_exist_by_default(self):
        trials = Trials(ones(B, T, N_IN))
        assert trials.lengths.tolist() == [T] * B
        assert trials.lengths.dtype == np.int64
        assert trials.n_points == B * T
        assert trials.notes == ()

    @given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.data())
    def test_sequences_of_arrays_are_padded(self, lengths, labels, data):
        generator = np.random.default_rng(data.draw(st.integers(0, 99)))
        inputs = [generator.normal(size=(length, N_IN)) for length in lengths]
        mask = [generator.random(length) + 0.1 for length in lengths]
        if labels:
            answers = {"labels": [generator.integers(0, 9, size=length) for length in lengths]}
        else:
            answers = {"targets": tuple(generator.normal(size=(length, N_OUT)) for length in lengths)}
        trials = Trials(inputs, mask=mask, **answers)
        assert trials.lengths.tolist() == lengths
        assert trials.n_steps == max(lengths)
        for name, parts in {"inputs": inputs, "mask": mask, **answers}.items():
            whole = getattr(trials, name)
            for trial, part in enumerate(parts):
                assert np.array_equal(whole[trial, : len(part)], part)
                assert not whole[trial, len(part) :].any()
        same = Trials(trials.inputs, trials.targets, trials.labels, trials.mask, lengths)
        assert all(np.array_equal(getattr(same, name), getattr(trials, name)) for name in ("inputs", "lengths", "mask"))

    @given(st.lists(st.integers(1, T), min_size=B, max_size=B), st.sampled_from([0.0, np.nan]))
    def test_zeros_at_the_end_of_the_mask_are_padding_where_the_inputs_are_too(self, lengths, filling):
        inputs, mask = ones(B, T, N_IN), ones(B, T)
        mask[:, 0] = 0  # not scored, and there: what comes after exists
        mask[0], lengths[0] = 0, T  # says nothing
        mask[1], lengths[1] = 1, T
        for trial, length in enumerate(lengths):
            inputs[trial, length:], mask[trial, length:] = filling, 0
            mask[trial, length - 1] = float(trial > 0)
        trials = Trials(inputs, mask=mask)
        assert trials.lengths.tolist() == lengths
        assert np.isfinite(trials.inputs).all()
        assert len(trials.notes) == (0 if min(lengths) == T else 1 if filling == 0 else 2)
        if trials.notes:
            assert "padding" in trials.notes[0]
            assert f"{sum(lengths)} of {B * T} steps exist" in trials.notes[0]
            assert f"give `lengths` with the trials, {T} for each" in trials.notes[0]

    def test_lengths_that_are_given_win(self):
        inputs, mask = np.pad(ones(B, T, N_IN), [(0, 0), (0, 3), (0, 0)]), np.repeat([1.0, 0.0], [T, 3])
        trials = Trials(inputs, mask=mask, lengths=[T + 3] * B)
        assert trials.lengths.tolist() == [T + 3] * B
        assert trials.notes == ()
        assert np.array_equal(trials.mask, np.tile(mask, (B, 1)))

    def test_a_network_that_still_receives_something_lives_on(self):
        inputs, mask = ones(B, T, N_IN), ones(B, T)
        mask[:, 3:], inputs[:, 3:] = 0, 0
        inputs[2, 4, 1] = 0.5
        trials = Trials(inputs, mask=mask)
        assert trials.lengths.tolist() == [T] * B
        assert "taken to exist and only not to be scored" in trials.notes[0]
        assert "give `lengths`" in trials.notes[0]

    def test_padding_in_front_is_not_taken_for_any(self):
        inputs, mask = ones(B, T, N_IN), ones(B, T)
        mask[1:, :2], inputs[1:, :2] = 0, 0
        trials = Trials(inputs, mask=mask)
        assert trials.lengths.tolist() == [T] * B
        assert "start of 3 of 4 trials" in trials.notes[0]
        assert "put it at the end" in trials.notes[0]
        inputs[1, 0] = 1  # a stimulus, and a delay
        assert Trials(inputs, mask=mask).notes == ()

    @pytest.mark.parametrize("answers", ["targets", "labels"])
    def test_what_stands_after_the_end_is_not_looked_at(self, answers):
        """NaN, infinity and -100, by which PyTorch's losses leave labels out."""
        inputs, mask = ones(2, 4, N_IN), ones(2, 4)
        given = {"targets": ones(2, 4, 1)} if answers == "targets" else {"labels": np.ones((2, 4), int)}
        for array, filling in ((inputs, np.inf), (mask, -1.0), *((a, -100) for a in given.values())):
            array[1, 2:] = filling
        trials = Trials(inputs, mask=mask, lengths=[4, 2], **given)
        for name in ("inputs", "mask", answers):
            assert getattr(trials, name)[1, :2].all()
            assert not getattr(trials, name)[1, 2:].any()
        assert len(trials.notes) == 1
        assert "held other numbers than zero" in trials.notes[0]

    def test_nan_at_the_end_asks_for_lengths(self):
        with pytest.raises(
            ValueError, match="inputs holds nan at trial 2, step 3.*if trials end before, give their le"
        ):
            Trials(planted(ones(B, T, N_IN), (2, slice(3, None)), np.nan))

    def test_trimmed(self):
        trials = Trials(
            ones(B, T, N_IN), labels=np.arange(B * T).reshape(B, T), lengths=[3, 2, 1, 3], conditions=[0] * B
        )
        short = trials.trimmed()
        assert short.inputs.shape == (B, 3, N_IN)
        assert np.array_equal(short.labels, trials.labels[:, :3])
        assert np.array_equal(short.lengths, trials.lengths)
        assert np.array_equal(short.conditions, trials.conditions)
        assert short.trimmed() is short
        assert short.notes == trials.notes

    @pytest.mark.parametrize(
        "arrays, message",
        [
            ({"inputs": [ones(5, 3), ones(6, 2)]}, r"inputs\[1\] must have shape \(T_1, 3\); got \(6, 2\)"),
            ({"inputs": [ones(5, 3), ones(6)]}, r"inputs\[1\] must have shape \(T_1, 3\); got \(6,\)"),
            ({"inputs": [ones(5, 3), ones(0, 3)]}, r"inputs\[1\] must have at least one step; got shape \(0, 3\)"),
            ({"inputs": [ones(2, 1), [["a"]]]}, r"inputs\[1\] must be an array of"),
            ({"inputs": [ones(2, 1), ones(3, 1)], "lengths": [2, 2]}, "those of the arrays in inputs"),
            ({"inputs": [ones(2, 1), ones(3, 1)], "targets": [ones(2, 1), ones(4, 1)]},
             r"targets\[1\] must have 3 steps, the length of its trial; got 4"),
            ({"inputs": [ones(2, 1), ones(3, 1)], "labels": [[1, 2], [0, 1, 1.5]]},
             r"labels\[1\] must be an array of integers; got dtype float64"),
            ({"inputs": ones(2, 3, 1), "targets": [ones(3, 1), ones(2, 1)]}, r"targets\[1\] must have 3 steps"),
            ({"inputs": ones(2, 3, 1), "mask": [ones(1), ones(2), ones(3)]}, "one array for each of the 2 trials; "),
            ({"inputs": ones(2, 3, 1), "mask": [1, 0, 0], "lengths": [1, 0]}, "lengths holds 0 at trial 1"),
            ({"inputs": ones(2, 3, 1), "mask": [0, 0, 1], "lengths": [2, 1]}, "mask is zero everywhere"),
            ({"inputs": ones(2, 3, 1), "targets": ones(2, 2, 1), "lengths": [2, 1]}, r"targets must have shape \(2,"),
            ({"inputs": ones(2, 3, 1), "labels": np.ones((3, 2), int), "lengths": [2, 1]}, "labels must have shape"),
        ],
    )  # fmt: skip
    def test_refuses(self, arrays, message):
        with pytest.raises(ValueError, match=message):
            Trials(**arrays)


class TestConditions:
    @pytest.mark.parametrize("values", [["go", "stop", "go", "stop"], [3, 1, 1, 3], np.array([0, 1, 2, 3], np.uint8)])
    def test_kept_in_memory_and_in_files(self, tmp_path, values):
        np.savez(tmp_path / "t.npz", inputs=ones(B, T, N_IN), labels=[0] * B, conditions=values, lengths=[T, 1, 2, 3])
        for trials in (Trials(ones(B, T, N_IN), conditions=values), Trials.load(tmp_path / "t.npz")):
            assert trials.conditions.tolist() == list(values)
            assert trials.groups is trials.conditions
            with pytest.raises(ValueError, match="read-only"):
                trials.conditions[0] = values[1]
        assert trials.lengths.tolist() == [T, 1, 2, 3]

    def test_labels_of_trials_tell_them_apart_as_well(self):
        assert Trials(ones(B, T, N_IN), labels=[0, 1, 0, 1]).groups.tolist() == [0, 1, 0, 1]
        assert Trials(ones(B, T, N_IN), labels=np.zeros((B, T), int)).groups is None

    @pytest.mark.parametrize(
        "values, message",
        [
            ([0.0] * B, "must be an array of integers, strings; got dtype float64"),
            ([True] * B, "must be an array of integers, strings; got dtype bool"),
            ([None] * B, "must be an array of integers, strings; got dtype object"),
            (["a"] * (B + 1), r"must have shape \(4,\); got \(5,\)"),
            ("abcd", r"must have shape \(4,\); got \(\)"),
            (np.full(B, 2**63, np.uint64), "holds 9223372036854775808; .* 64 bits"),
            ([["a"]] * B, r"must have shape \(4,\); got \(4, 1\)"),
        ],
    )
    def test_refuses(self, values, message):
        with pytest.raises(ValueError, match=f"conditions {message}"):
            Trials(ones(B, T, N_IN), conditions=values)


@pytest.mark.parametrize("name", ["inputs", "targets", "labels", "mask", "lengths", "conditions"])
@pytest.mark.parametrize("inside", [False, True])
def test_masked_arrays_are_refused(name, inside):
    """NumPy would drop what they hide: it may stand in a list of arrays as well."""
    arrays = {
        "inputs": ones(B, T, N_IN),
        "targets": ones(B, T, N_OUT),
        "labels": np.zeros((B, T), int),
        "mask": ones(B, T),
        "lengths": np.full(B, T),
        "conditions": np.arange(B),
    }
    hidden = np.ma.masked_array(arrays[name], np.zeros(arrays[name].shape, bool))
    hidden[1] = np.ma.masked
    arrays = {"inputs": arrays["inputs"], name: list(hidden) if inside and hidden.ndim > 1 else hidden}
    with pytest.raises(
        ValueError, match=f"{name} must be an array of .* without masked entries.* is masked: fill them"
    ):
        Trials(**arrays)
    shorter = [np.ma.masked_array(ones(2, 1), [[False], [True]]), ones(3, 1)]
    with pytest.raises(ValueError, match=r"inputs\[0\] must be an array of .* without masked entries"):
        Trials(shorter)


def test_short_repr():
    trials = Trials(ones(B, T, N_IN), ones(B, T, N_OUT), mask=ones(T), lengths=[T, 1, 2, T], conditions=list("abab"))
    assert repr(trials) == "Trials(4 trials of 1 to 5 steps: 3 inputs, 2 targets, mask, conditions)"


class TestSubset:
    trials = Trials(np.arange(12.0).reshape(4, 3, 1), labels=np.arange(4), mask=np.arange(12.0).reshape(4, 3) + 1)

    @pytest.mark.parametrize(
        "indices, expected",
        [([2, 0], [2, 0]), ([-1, 1, 1], [3, 1, 1]), (np.array([True, False, False, True]), [0, 3]), (range(2), [0, 1])],
    )
    def test_takes_trials_in_the_order_given(self, indices, expected):
        part = self.trials.subset(indices)
        assert part.labels.tolist() == expected
        assert np.array_equal(part.inputs, self.trials.inputs[expected])
        assert np.array_equal(part.mask, self.trials.mask[expected])
        assert part.targets is None

    def test_keeps_lengths_conditions_and_notes(self):
        """The mask of a part is not read anew: what is padding in all trials may be none in some."""
        mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
        inputs = mask[:, :, None]
        trials = Trials(inputs, mask=mask, conditions=["a", "b", "c"])
        assert trials.lengths.tolist() == [2, 3, 1]
        part = trials.subset([2, 1])
        assert part.lengths.tolist() == [1, 3]
        assert part.n_steps == 4
        assert part.conditions.tolist() == ["c", "b"]
        assert part.notes == trials.notes
        scored = Trials(inputs, mask=mask, lengths=[4] * 3).subset([0])
        assert scored.lengths.tolist() == [4]

    @pytest.mark.parametrize(
        "indices, message",
        [
            ([0, 4], "no trial 4 among 4 trials"),
            ([-5], "no trial -5 among 4 trials"),
            ([], "at least one trial"),
            ([False] * 4, "at least one trial"),
            ([True], r"must have shape \(4,\); got \(1,\)"),
            ([0.5], "indices must be an array of booleans, integers"),
            ([[0]], r"must have shape \(k,\); got \(1, 1\)"),
        ],
    )
    def test_refuses(self, indices, message):
        with pytest.raises(ValueError, match=message):
            self.trials.subset(indices)


class TestInvalid:
    @given(
        st.sampled_from(["inputs", "targets"]),
        st.integers(0, B - 1),
        st.integers(0, T - 1),
        st.integers(0, N_OUT - 1),
        st.sampled_from([np.nan, np.inf, -np.inf]),
    )
    def test_says_where_a_number_is_not_finite(self, name, trial, step, channel, value):
        arrays = {"inputs": ones(B, T, N_IN), "targets": ones(B, T, N_OUT)}
        arrays[name] = planted(arrays[name], (trial, step, channel), value)
        with pytest.raises(
            ValueError, match=f"^{name} holds {value} at trial {trial}, step {step}, channel {channel};"
        ):
            Trials(**arrays)

    @pytest.mark.parametrize(
        "arrays, message",
        [
            ({"inputs": ones(0, T, N_IN)}, r"at least one trial; got shape \(0, 5, 3\)"),
            ({"inputs": ones(B, 0, N_IN)}, r"at least one step; got shape \(4, 0, 3\)"),
            ({"inputs": ones(B, T, 0)}, r"at least one input channel; got shape \(4, 5, 0\)"),
            ({"inputs": ones(B, T)}, r"inputs must have shape \(B, T, n_in\); got \(4, 5\)"),
            ({"inputs": None}, "inputs must be an array of"),
            ({"inputs": [[[1.0], [1.0, 2.0]]]}, "inputs must be an array of .* cannot be converted"),
            ({"inputs": np.full((B, T, N_IN), "a")}, "inputs must be an array of .* got dtype <U1"),
            ({"inputs": 1j * ones(B, T, N_IN)}, "inputs must be an array of .* got dtype complex128"),
            ({"inputs": np.full((1, 1, 1), object())}, "inputs must be an array of .* got dtype object"),
            ({"targets": ones(B, T + 1, N_OUT)}, r"targets must have shape \(4, 5, n_out\); got \(4, 6, 2\)"),
            ({"targets": ones(B, T)}, r"targets must have shape \(4, 5, n_out\); got \(4, 5\)"),
            ({"targets": ones(B, T, 0)}, r"at least one output channel; got shape \(4, 5, 0\)"),
            ({"targets": ones(B, T, 1), "labels": [0] * B}, "targets or labels, not both"),
            ({"labels": [0] * (B + 1)}, r"labels must have shape \(4,\) or \(4, 5\); got \(5,\)"),
            ({"labels": [0, 1, -2, 3]}, "labels holds -2 at trial 2;"),
            ({"labels": planted(np.zeros((B, T), int), (1, 3), -7)}, "labels holds -7 at trial 1, step 3;"),
            (
                {"labels": np.array([0, 2**64 - 1, 0, 0], dtype=np.uint64)},
                "labels holds 18446744073709551615 at trial 1;",
            ),
            ({"labels": [0, 1.5, 2, 3]}, "labels must be an array of integers; got dtype float64"),
            ({"labels": [True] * B}, "labels must be an array of integers; got dtype bool"),
            ({"mask": ones(B)}, r"mask must have shape \(5,\) or \(4, 5\); got \(4,\)"),
            ({"mask": ones(B, T, 1)}, r"mask must have shape \(5,\) or \(4, 5\); got \(4, 5, 1\)"),
            ({"mask": np.zeros(T)}, "mask is zero everywhere"),
            ({"mask": planted(ones(T), 3, -0.5)}, "mask holds -0.5 at step 3;"),
            ({"mask": planted(ones(B, T), (2, 3), -0.5)}, "mask holds -0.5 at trial 2, step 3;"),
            ({"mask": planted(ones(T), 3, np.nan)}, "mask holds nan at step 3;"),
            ({"mask": planted(ones(B, T), (2, 3), np.inf)}, "mask holds inf at trial 2, step 3;"),
        ],
    )
    def test_says_what_was_expected(self, arrays, message):
        arrays = {"inputs": ones(B, T, N_IN), **arrays}
        with pytest.raises(ValueError, match=message):
            Trials(**arrays)


class TestFiles:
    def test_says_which_file_and_where(self, folder):
        path = folder / "nan.npz"
        path.write_bytes(npz(inputs=planted(ones(B, T, N_IN), (1, 2, 0), np.nan)))
        with pytest.raises(ValueError, match="nan.npz: inputs holds nan at trial 1, step 2, channel 0;"):
            Trials.load(path)

    def test_missing_file(self, folder):
        with pytest.raises(FileNotFoundError, match="absent.npz"):
            Trials.load(folder / "absent.npz")

    @pytest.mark.parametrize("path", [5, None, b"trials.npz"])
    def test_something_else_than_a_path(self, path):
        with pytest.raises(TypeError, match="path must be that of an npz file; got"):
            Trials.load(path)

    def test_folder(self, folder):
        with pytest.raises(OSError, match=folder.name):
            Trials.load(folder)

    @pytest.mark.parametrize(
        "arrays, message",
        [
            ({"x": ones(2), "targets": ones(2)}, "'x'; expected inputs, targets, labels, mask, lengths, conditions"),
            ({"inputs": ones(B, T, N_IN), "dt": ones(1), "tau": ones(1)}, "'dt', 'tau'; expected"),
            ({"inputs": ones(B, T, N_IN), "task": np.array("memory")}, "'task'; expected"),
            ({"inputs": np.array("memory")}, "'inputs'; expected"),
            ({"targets": ones(B, T, N_OUT)}, "no entry 'inputs'; it holds targets"),
            ({}, "no entry 'inputs'; it holds nothing"),
        ],
    )
    def test_entries_missing_or_unknown(self, folder, arrays, message):
        path = folder / "keys.npz"
        path.write_bytes(npz(**arrays))
        with pytest.raises(ValueError, match=f"keys.npz has .*{message}"):
            Trials.load(path)

    @given(st.floats(0, 1, exclude_max=True))
    def test_truncated(self, folder, share):
        whole = (example_folder() / "trials.npz").read_bytes()
        path = folder / "truncated.npz"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="truncated.npz"):
            Trials.load(path)

    @given(st.sampled_from([np.savez, np.savez_compressed]), st.data())
    def test_a_changed_byte_is_noticed_or_does_not_matter(self, folder, save, data):
        """A zip archive has checksums of its contents, and bytes that nothing depends on, such as its dates."""
        file = io.BytesIO()
        save(file, inputs=np.arange(60.0).reshape(B, T, N_IN))
        whole = bytearray(file.getvalue())
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        path = folder / "changed.npz"
        path.write_bytes(whole)
        with contextlib.suppress(ValueError, MemoryError):  # MemoryError: the size of an entry became enormous
            assert np.array_equal(Trials.load(path).inputs, np.arange(60.0).reshape(B, T, N_IN))

    def test_a_shape_damaged_to_a_smaller_one_is_noticed(self, folder):
        """Reading the smaller array would stop before the end of the entry, where its checksum is compared."""
        path = folder / "smaller.npz"
        np.savez(path, inputs=ones(B, T, N_IN))
        path.write_bytes(path.read_bytes().replace(b"(4, 5, 3)", b"(3, 5, 3)"))
        with pytest.raises(ValueError, match="smaller.npz: entry 'inputs.npy' is damaged, its checksum is wrong"):
            Trials.load(path)

    @given(
        st.one_of(st.binary(max_size=99), st.text(max_size=30).map(str.encode), st.binary().map(b"PK\x03\x04".__add__))
    )
    def test_foreign(self, folder, content):
        path = folder / "foreign.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="foreign.npz"):
            Trials.load(path)

    @pytest.mark.parametrize("disguise", ["bare", "object array", "entry"])
    def test_a_pickle_is_never_executed(self, tmp_path, disguise):
        fired, path = tmp_path / "fired", tmp_path / "pickle.npz"
        bomb = pickle.dumps(Bomb(fired))
        if disguise == "bare":
            path.write_bytes(bomb)
        elif disguise == "object array":
            path.write_bytes(npz(inputs=np.array([Bomb(fired)], dtype=object)))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("inputs.npy", bomb)
        with pytest.raises(ValueError, match="pickle.npz"):
            Trials.load(path)
        assert not fired.exists()
        pickle.loads(bomb)
        assert fired.exists(), "the pickle is one that would have fired"

    def test_an_archive_larger_than_memory_is_not_unpacked(self, tmp_path, monkeypatch):
        path = tmp_path / "bomb.npz"
        path.write_bytes(npz(inputs=np.zeros((100, 100, 100))))
        assert path.stat().st_size < 100_000
        monkeypatch.setattr("kpref.memory.available_memory", lambda: 1_000_000)
        with pytest.raises(MemoryError, match="bomb.npz needs 0.00745 GiB"):
            Trials.load(path)


def test_entry_of_an_npz_that_is_not_an_array(tmp_path):
    path = tmp_path / "notes.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", "not an array")
    with pytest.raises(ValueError, match="notes.npz: entry 'inputs' is not an array in npy format"):
        Trials.load(path)
