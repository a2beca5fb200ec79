"""Sharded flows: the numbers of one flow over all trials, and the same bits whoever works on them."""

import gc
import pickle
from weakref import ref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kpref
from kpref.distributed import ShardedFlow
from kpref.distributed.shards import Shard
from kpref.distributed.tree import largest_nodes, tree_sum
from kpref.operators.precision import in_single

B, T, H = 13, 7, 4
RNG = np.random.default_rng(0)
MODEL = kpref.models.GRU.init(2, H, seed=0)
READOUT = kpref.Readout(RNG.normal(size=(3, H)), RNG.normal(size=3))
#: Ends of trials, a mask that scores nothing of the first shards, and initial states: whatever may go astray in cuts.
TRIALS = kpref.Trials(
    RNG.normal(size=(B, T, 2)),
    targets=RNG.normal(size=(B, T, 3)),
    mask=np.where(np.arange(B)[:, None] < 4, 0.0, RNG.random((B, T))),
    lengths=RNG.integers(3, T + 1, B),
)
Z0 = RNG.normal(size=(B, H))
FLOW = kpref.Flow(MODEL, TRIALS, Z0)
#: Sums of some hundred numbers of order one, in another order.
ROUNDING = 1e-13


def sharded(trials=TRIALS, **options):
    return ShardedFlow(MODEL, trials, **{"shard_size": 3, "z0": Z0} | options)


def close(a, b):
    return np.allclose(a, b, rtol=ROUNDING, atol=ROUNDING)


# The tree


@given(st.integers(1, 200), st.data())
def test_whoever_holds_what_adds_up_the_same_tree(number, data):
    values = np.random.default_rng(number).normal(size=number) * 10.0 ** np.arange(number) ** 0.3

    def known(node):
        return values[node[0]] if node[1] - node[0] == 1 else None

    whole = tree_sum((0, number), known)
    cuts = sorted({0, number, *data.draw(st.lists(st.integers(0, number), max_size=6))})
    parts = {
        node: tree_sum(node, known)
        for held in zip(cuts, cuts[1:], strict=False)
        for node in largest_nodes((0, number), held)
    }
    assert tree_sum((0, number), parts.get) == whole
    # Each level of the tree has two nodes that end at no border of the range above, at most.
    assert len(parts) <= 2 * number.bit_length() * (len(cuts) - 1)
    assert np.isclose(whole, values.sum(), rtol=1e-12)


def test_ranges_of_a_power_of_two_are_one_node():
    assert [largest_nodes((0, 12), (first, first + 4)) for first in (0, 4, 8)] == [[(0, 4)], [(4, 8)], [(8, 12)]]


# The numbers of one flow


@pytest.mark.parametrize("measure", ["mean", "sum", RNG.random((B, T)) + 0.1])
@pytest.mark.parametrize("size", [1, 4, B])
def test_products_are_those_of_one_flow(measure, size):
    flow, shards = kpref.Flow(MODEL, TRIALS, Z0, measure), sharded(measure=measure, shard_size=size)
    q, theta = RNG.normal(size=(B, T, H)), RNG.normal(size=MODEL.n_parameters)
    for name, argument in {"P": q, "K": q, "NTK": q, "J": theta, "D": theta}.items():
        assert close(np.concatenate(list(getattr(shards, name)(argument))), getattr(flow, name)(argument)), name
    assert close(shards.J_star(q), flow.J.star(q))
    assert close(shards.D_star(q), flow.D.star(q))
    assert close(shards.gram @ theta, flow.D.star(flow.D(theta)))
    assert np.array_equal(np.concatenate(list(shards.states())), flow.states)


def test_eigenpairs_are_those_of_one_flow():
    shards = sharded()
    pairs, wanted = shards.eigh(4), kpref.eigh(FLOW.NTK, 4)
    assert close(pairs.values, wanted.values)
    modes = np.concatenate(list(shards.modes(pairs)), axis=1)
    overlaps = [[FLOW.space.inner(u, w) for w in wanted.vectors] for u in modes]
    # Vectors are known to the residual over the gap between values, 1e-10 over 1e-2.
    assert np.allclose(np.abs(overlaps), np.eye(4), atol=1e-7)


def test_products_in_float32_are_those_of_one_flow_and_certified():
    theta = RNG.normal(size=MODEL.n_parameters)
    exact, single = sharded().gram @ theta, in_single(sharded().gram)
    # Some tens of units of rounding, 6e-8, of sums whose terms do not cancel to more than a tenth.
    assert 0 < np.abs(single @ theta - exact).max() < 1e-5 * np.abs(exact).max()
    wanted, options = kpref.eigh(FLOW.NTK, 4), {"tol": 1e-6, "method": "lanczos"}
    found = sharded().eigh(4, **options)
    # An eigenvalue is as near as the residual, computed anew in float64, says of the largest one.
    assert 0 < found.n_single < found.n_products
    assert np.abs(found.values - wanted.values).max() <= found.residuals.max() * wanted.values[0] + ROUNDING
    for keep in (0.0, 1e9):
        assert np.array_equal(sharded(keep=keep).eigh(4, **options).vectors, found.vectors)


@pytest.mark.parametrize("at", ["all", "last"])
def test_the_gradient_is_that_of_one_flow(at):
    mask = np.where(TRIALS.mask > 0, TRIALS.mask, 0) + (np.arange(B)[:, None] == 5)
    trials = kpref.Trials(TRIALS.inputs, targets=TRIALS.targets, mask=mask, lengths=TRIALS.lengths)
    found = sharded(trials).gradient(READOUT, at)
    wanted = FLOW.gradient_flow(READOUT, targets=trials.targets, mask=mask, at=at)
    changes = np.einsum("bt,bto,bth->oh", FLOW.space.mu, wanted.loss_value.output_gradient, FLOW.states)
    assert close(found.weight, changes)
    assert close(found.loss, wanted.loss)
    assert close(found.grad_theta, wanted.grad_theta)
    assert found.accuracy is None


def test_the_gradient_of_labels_is_that_of_one_flow():
    labels = RNG.integers(0, 3, B)
    trials = kpref.Trials(TRIALS.inputs, labels=labels, mask=TRIALS.mask, lengths=TRIALS.lengths)
    found = sharded(trials).gradient(READOUT)
    wanted = FLOW.gradient_flow(READOUT, labels=labels, mask=TRIALS.mask, loss="cross_entropy")
    assert close(found.grad_theta, wanted.grad_theta)
    assert close([found.loss, found.accuracy], [wanted.loss, wanted.loss_value.accuracy])


def test_traces_dimensions_and_alignments_are_those_of_one_flow():
    shards, many = sharded(), 4 * MODEL.n_parameters
    other = kpref.models.GRU.init(2, H, seed=1)
    assert close(shards.trace(many).value, kpref.trace(FLOW.NTK, "krylov", many).value)
    assert close(shards.effective_dimension().value, kpref.effective_dimension(FLOW.NTK).value)
    found = shards.alignment(ShardedFlow(other, TRIALS, shard_size=3, z0=Z0), many)
    assert found.exact
    assert close(found.value, kpref.alignment(FLOW.NTK, kpref.Flow(other, TRIALS, Z0).NTK, many).value)
    assert close(shards.alignment(shards, many).value, 1.0)


def test_an_estimated_trace_keeps_its_interval():
    exact = kpref.trace(FLOW.NTK, "krylov", 4 * MODEL.n_parameters).value
    found = sharded(shard_size=B).trace(probes=8)
    low, high = found.interval(0.9999)
    assert not found.exact
    assert low <= exact <= high


def test_a_field_in_shards_is_one_flow():
    model = kpref.models.Rate.init(2, H, seed=0)
    flow = kpref.Flow(model, TRIALS, Z0, dt=0.1, method="heun")
    shards = ShardedFlow(model, TRIALS, shard_size=5, z0=Z0, dt=0.1, method="heun")
    theta = RNG.normal(size=model.n_parameters)
    assert close(shards.gram @ theta, flow.D.star(flow.D(theta)))


# Bits


def test_what_is_kept_changes_no_bit():
    theta = RNG.normal(size=(2, MODEL.n_parameters))
    one = sharded()
    wanted = one.gram.apply(theta)
    for keep in (0.0, 1e4, 1e9):
        assert np.array_equal(sharded(keep=keep).gram.apply(theta), wanted)
    assert np.array_equal(one.gram.apply(theta), wanted)


@pytest.mark.parametrize(("keep", "times"), [(0.0, 3), (1.0, 3), (None, 1), (1e9, 1)])
def test_no_more_is_kept_than_there_is_room_for(monkeypatch, keep, times):
    """Where there is no room, each product runs the model anew."""
    run, plain = [], Shard.flow
    monkeypatch.setattr(Shard, "flow", lambda shard, model: run.append(shard.index) or plain(shard, model))
    flow = sharded(keep=keep)
    for _ in range(3):
        flow.gram.apply(np.ones((1, MODEL.n_parameters)))
    assert run == [*range(5)] * times


def test_flows_of_the_model_in_use_are_kept_and_those_of_others_give_way(monkeypatch):
    """In a training that looks at each step's network, memory would be full of networks that nobody has any more."""
    flow, moved = sharded(keep=1e9), []
    for _ in range(4):  # with room for all
        flow = flow.training_step(READOUT).flow
        flow.gradient(READOUT)
        moved.append(ref(flow.model))
    gc.collect()
    assert [model() is not None for model in moved] == [False, False, True, True]
    assert [len(flows) for flows in flow._engine._group._kept.values()] == [2] * 5
    run, plain = [], Shard.flow
    flow = sharded()
    flow.gram.apply(np.ones((1, MODEL.n_parameters)))
    kept = flow._engine._group._kept
    room = 1.01 * sum(size for flows in kept.values() for size in flows.values())
    flow = sharded(keep=room)
    monkeypatch.setattr(Shard, "flow", lambda shard, model: run.append(shard.index) or plain(shard, model))
    for _ in range(3):
        flow = flow.training_step(READOUT).flow
        run.clear()
        for _ in range(2):
            flow.gram.apply(np.ones((1, MODEL.n_parameters)))
        assert run == [*range(5)]  # the second product finds all of them


def test_a_flow_aligned_with_itself_runs_each_shard_once(monkeypatch):
    run, plain = [], Shard.flow
    monkeypatch.setattr(Shard, "flow", lambda shard, model: run.append(shard.index) or plain(shard, model))
    flow = sharded()
    assert flow.alignment(flow, 4 * MODEL.n_parameters).value == pytest.approx(1.0, abs=1e-12)
    assert run == [*range(5)]


def test_threads_and_batches_of_engines_change_no_bit():
    theta, before = RNG.normal(size=(2, MODEL.n_parameters)), kpref.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            kpref.set_num_threads(threads)
            found.append((sharded().gram.apply(theta), sharded().gradient(READOUT).grad_theta))
    finally:
        kpref.set_num_threads(before)
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_shards_that_were_sent_away_give_the_same_bits():
    from kpref.distributed import tasks_of_shards as tasks
    from kpref.distributed.shards import Group

    here = sharded()._engine._group
    there = pickle.loads(pickle.dumps(Group([shard.detached() for shard in here.shards], 1e9)))
    model, readout = pickle.loads(pickle.dumps((MODEL, READOUT)))
    theta = RNG.normal(size=(1, MODEL.n_parameters))
    for task, mine, theirs in (
        (tasks.gram, (theta,), (theta,)),
        (tasks.gradient_terms, (READOUT, "all"), (readout, "all")),
    ):
        a = here.total(here.held, task, (MODEL,), *mine)
        b = there.total(there.held, task, (model,), *theirs)
        assert np.array_equal(a, b, equal_nan=True), task.__name__


# Files


def npy_folder(path):
    path.mkdir()
    for name, array in TRIALS.arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def mapped_npz(path):
    np.savez(path, **TRIALS.arrays)
    return path


def zarr_store(path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w")
    for name, array in TRIALS.arrays.items():
        group.create_array(name, data=np.array(array), chunks=(5, *array.shape[1:]))
    return path


@pytest.mark.parametrize("write", [npy_folder, mapped_npz, zarr_store])
def test_trials_of_files_give_the_same_bits(write, tmp_path):
    path = write(tmp_path / "trials.npz")
    stored, held = sharded(path), sharded()
    assert np.array_equal(stored.gradient(READOUT).grad_theta, held.gradient(READOUT).grad_theta)
    assert stored.alignment(sharded(path), 4 * MODEL.n_parameters).exact


def test_files_that_are_no_trials_are_refused_in_words(tmp_path):
    TRIALS.save(tmp_path / "small.npz")
    with pytest.raises(ValueError, match=r"compressed.*Trials\.load"):
        sharded(tmp_path / "small.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither npy files nor a Zarr group"):
        sharded(tmp_path / "empty")
    folder = npy_folder(tmp_path / "short")
    file = folder / "inputs.npy"
    file.write_bytes(file.read_bytes()[:-80])
    with pytest.raises(ValueError, match="cannot be read"):
        sharded(folder)
    folder = npy_folder(tmp_path / "wrong")
    inputs = np.array(TRIALS.inputs)
    inputs[7, 1, 0] = np.nan
    np.save(folder / "inputs.npy", inputs)
    with pytest.raises(ValueError, match=r"shard of trials 7 to 9: .*inputs"):
        sharded(folder).gram @ np.ones(MODEL.n_parameters)
    np.save(folder / "others.npy", inputs)
    with pytest.raises(ValueError, match="'others'"):
        sharded(folder)
    with pytest.raises(FileNotFoundError):
        sharded(tmp_path / "nothing")


ANSWERS = {"inputs": TRIALS.inputs, "targets": TRIALS.targets}
WRONG = {
    "mask of trials": (ANSWERS | {"mask": np.ones(B)}, r"mask of .* must have shape .* = \(13, 7\), .*; got \(13,\)"),
    "mask of outputs": (ANSWERS | {"mask": np.ones((B, T, 3))}, r"mask of .* must have shape .*; got \(13, 7, 3\)"),
    "NaN in a mask": (
        ANSWERS | {"mask": np.where(np.arange(B)[:, None] == 7, np.nan, np.ones((B, T)))},
        "shard of trials 7 to 9: .*mask holds nan",
    ),
    "lengths": (ANSWERS | {"lengths": np.full(B, T + 1)}, r"trials\.npz: lengths holds 8"),
    "outputs": (ANSWERS | {"targets": np.ones((B, T, 2))}, "shard of trials 0 to 1: targets must have shape"),
    "labels": (
        {"inputs": TRIALS.inputs, "labels": np.where(np.arange(B) == 7, 9, 0)}, "shard of trials 7 to 9: labels must",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_files_says_where(wrong, tmp_path):
    arrays, words = WRONG[wrong]
    np.savez(tmp_path / "trials.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        sharded(tmp_path / "trials.npz").gradient(READOUT)


@pytest.mark.parametrize("mask", [np.arange(T) >= 2, np.arange(B)[:, None] >= 2, np.ones((B, T))])
def test_masks_of_files_are_those_of_trials(mask, tmp_path):
    np.savez(tmp_path / "trials.npz", mask=mask, **ANSWERS)
    found = sharded(tmp_path / "trials.npz").gradient(READOUT)
    wanted = FLOW.gradient_flow(READOUT, TRIALS.targets, mask=mask)
    whole = kpref.Flow(MODEL, TRIALS.inputs, Z0).gradient_flow(READOUT, TRIALS.targets, mask=mask)
    assert not close(found.loss, wanted.loss)  # of trials that end earlier
    assert close(found.loss, whole.loss)
    assert close(found.grad_theta, whole.grad_theta)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_that_are_lost_or_damaged_are_no_zeros(zarr_format, tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "store", mode="w", zarr_format=zarr_format)
    arrays = {"inputs": np.array(TRIALS.inputs), "lengths": np.array(TRIALS.lengths)}
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=(5, *array.shape[1:]))
    chunks = {}  # of trials 0 to 4, 5 to 9 and 10 to 12
    for name in arrays:
        files = [path for path in (tmp_path / "store" / name).rglob("*") if path.is_file()]
        chunks[name] = sorted(path for path in files if not path.name.startswith((".z", "zarr")))
        assert len(chunks[name]) == 3
    theta = np.ones(MODEL.n_parameters)
    wanted = ShardedFlow(MODEL, tmp_path / "store", shard_size=3).gram @ theta
    damaged = chunks["inputs"][1]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"shard of trials 5 to 6: .*inputs cannot be read"):
        ShardedFlow(MODEL, tmp_path / "store", shard_size=3).gram @ theta
    damaged.unlink()
    with pytest.raises(ValueError, match=r"shard of trials 5 to 6: .*inputs lacks 1 of its chunks.*write_empty_chunks"):
        ShardedFlow(MODEL, tmp_path / "store", shard_size=3).gram @ theta
    damaged.write_bytes(whole)
    assert np.array_equal(ShardedFlow(MODEL, tmp_path / "store", shard_size=3).gram @ theta, wanted)
    chunks["lengths"][2].unlink()
    with pytest.raises(ValueError, match=r"store: lengths lacks 1 of its chunks"):
        ShardedFlow(MODEL, tmp_path / "store")


def test_chunks_of_zeros_that_were_written_are_read(tmp_path):
    zarr = pytest.importorskip("zarr")
    for kept in (True, False):
        group = zarr.open_group(tmp_path / str(kept), mode="w")
        zeros = np.zeros(TRIALS.inputs.shape)
        group.create_array("inputs", data=zeros, chunks=(5, T, 2), config={"write_empty_chunks": kept})
    stored, held = (ShardedFlow(MODEL, where, shard_size=3) for where in (tmp_path / "True", kpref.Trials(zeros)))
    assert np.array_equal(np.concatenate(list(stored.states())), np.concatenate(list(held.states())))
    with pytest.raises(ValueError, match="lacks"):
        list(ShardedFlow(MODEL, tmp_path / "False", shard_size=3).states())


def test_modes_are_written_wholly_or_not_at_all(tmp_path, monkeypatch):
    from kpref.distributed import tasks_of_shards as tasks

    shards = sharded()
    pairs = shards.eigh(2)
    files = shards.save_modes(pairs, tmp_path / "modes")
    for file, part in zip(files, shards.modes(pairs), strict=True):
        assert np.array_equal(np.load(file), part)
    with pytest.raises(FileExistsError, match="new folder"):
        shards.save_modes(pairs, tmp_path / "modes")

    def full(shard, *arguments):
        if shard.index == 2:
            raise OSError(28, "No space left on device")
        return save(shard, *arguments)

    save = tasks.save_lifted
    monkeypatch.setattr(tasks, "save_lifted", full)
    with pytest.raises(OSError, match="No space"):
        shards.save_modes(pairs, tmp_path / "others")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["modes"]


# Bad arguments


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: sharded(shard_size=0), "shard_size must be"),
        (lambda: sharded(keep=-1), "keep must be"),
        (lambda: sharded(dt=0.1), "dt, times and method are for models in continuous time"),
        (lambda: sharded(z0=np.ones((2, H))), "z0 must have shape"),
        (lambda: sharded(trials=3), "trials must be"),
        (lambda: sharded().P(np.ones((B, T))), "q must be an array of shape"),
        (lambda: sharded().D(np.ones(3)), "theta"),
        (lambda: sharded().gradient(3), "readout must be"),
        (lambda: sharded().gradient(READOUT, "first"), "at must be"),
        (lambda: sharded().alignment(sharded(shard_size=4)), "the same shards"),
        (lambda: sharded().alignment(sharded(measure="sum")), "the same measure"),
        (lambda: sharded().alignment(FLOW), "other must be"),
        (lambda: sharded(measure=np.arange(B)[:, None] >= 3.0).gram @ np.ones(MODEL.n_parameters), "trials 0 to 1"),
        (lambda: ShardedFlow(3, TRIALS), "model must be"),
        (lambda: ShardedFlow(MODEL, kpref.Trials(TRIALS.inputs)).gradient(READOUT), "neither targets nor labels"),
    ],
)  # fmt: skip
def test_bad_arguments(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_repr():
    assert repr(sharded()) == "ShardedFlow(GRU(2 inputs, 4 states, 96 trainable), states (13, 7, 4), 5 shards, float64)"
    shown = repr(sharded().gradient(READOUT))
    assert shown.startswith("ShardedGradient(loss=")
    assert "(96), accuracy=None, weight=float64 (3, 4), bias=[" in shown
    assert "\n" not in shown


# Training


def steps(flow, readout, count=3, **options):
    state, losses = None, []
    for _ in range(count):
        step = flow.training_step(readout, state, learning_rate=0.01, **options)
        flow, readout, state = step.flow, step.readout, step.state
        losses.append(step.loss)
    return flow.model, readout, losses


@pytest.mark.parametrize("optimizer, clip", [("adam", None), ("nesterov", 0.1)])
def test_training_steps_are_those_of_one_process(optimizer, clip):
    options = {"optimizer": optimizer, "clip": clip}
    flow = ShardedFlow(MODEL, TRIALS, shard_size=3)
    before = MODEL.vector.copy()
    model, readout, losses = steps(flow, READOUT, **options)
    one = {"steps": 3, "dtype": "float64", "learning_rate": 0.01}
    wanted = kpref.train(MODEL, READOUT, TRIALS, **one, **options)
    assert close(model.vector, wanted.model.vector)
    assert close(readout.weight, wanted.readout.weight)
    assert close(readout.bias, wanted.readout.bias)
    assert close(losses, wanted.history.loss)
    assert np.array_equal(flow.model.vector, before)


def test_training_steps_move_what_is_trainable_alone_and_keep_no_flow():
    model = MODEL.with_trainable(["weight_hh"])
    flow = ShardedFlow(model, TRIALS, shard_size=5, keep=1e9)
    readout = kpref.Readout(READOUT.weight)
    moved, after, _ = steps(flow, readout, 2)
    assert after.bias is None
    assert moved.trainable == model.trainable
    assert not np.array_equal(moved.parameters["weight_hh"], model.parameters["weight_hh"])
    assert np.array_equal(moved.parameters["weight_ih"], model.parameters["weight_ih"])
    assert not flow._engine._group._kept


@pytest.mark.filterwarnings("error")
def test_states_of_other_optimisers_and_steps_to_nowhere_are_refused():
    flow = sharded()
    state = flow.training_step(READOUT, optimizer="momentum").state
    with pytest.raises(ValueError, match=r"state must be.*'mean'.*'velocity'"):
        flow.training_step(READOUT, state)
    with pytest.raises(ValueError, match="finite"):
        flow.training_step(kpref.Readout(1e200 * READOUT.weight))
