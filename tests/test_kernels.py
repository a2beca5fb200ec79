"""The compiled kernels against their NumPy twins, entry by entry, within the rounding of either."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.caching import IndexDataCacheFile
from rounding import FACTORS, entry_error, gamma, in_double, roundings
from strategies import KINDS, STRUCTURES, examples, flows, make_flow

import kpref
from kpref import kernels, models
from kpref.compiled import compilation
from kpref.kernels import panels
from kpref.kernels.interpreter import rows_of_j
from kpref.kernels.lowering import Structure, lower
from kpref.kernels.scaled_sums import add_scaled
from tests.conftest import in_turn

NAMES = {
    "P": kernels.tangent,
    "P^T": kernels.adjoint,
    "P^-1": kernels.inverse,
    "P^-1^T": kernels.inverse_transpose,
    "J": kernels.parameter_product,
    "J^T": kernels.parameter_transpose,
    "D": kernels.sensitivity,
    "D^T": kernels.sensitivity_transpose,
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def batch(form, name, count, rng):
    shape = (form.n_parameters,) if name in ("J", "D") else (form.n_trials, form.n_steps, form.n_states)
    return rng.normal(size=(count, *shape)).astype(form.dtype)


def assert_like_twin(form, name, x):
    """Both are off by at most their own rounding: gamma in each precision, by the same sums of absolute values."""
    exact_form, exact_x = in_double(form), x.astype(np.float64)
    wanted = FACTORS[name][0](exact_form, exact_x)
    got = NAMES[name](form, x)
    assert got.dtype == form.dtype
    assert got.shape == wanted.shape
    count = roundings(form)
    # The bound is of first order in u; in float32 a sweep of a hundred roundings has a second order of 1e-3 of it.
    allowed = 1.01 * (gamma(count, form.dtype) + gamma(count)) * entry_error(name, exact_form, exact_x, wanted)
    # Below the smallest normal number roundings are absolute: smaller by far than that number.
    allowed += count * np.finfo(form.dtype).tiny
    assert (np.abs(got - wanted) <= allowed).all()


@pytest.mark.parametrize(
    ("trials", "steps", "blocks"), [(20, 2000, 2), (20, 10, 1), (7, 20_000, 1), (100, 2000, 4), (100, 2, 4)]
)
def test_few_trials_make_two_blocks_where_that_is_worth_a_thread(trials, steps, blocks):
    form = kpref.Flow(kpref.models.GRU.init(1, 2, 0), np.zeros((trials, steps, 1))).linearization
    assert len(kernels.trial_blocks(form)) == blocks


def hodgkin_huxley(trials):
    network = models.HodgkinHuxley.init(1, 256, 0)
    times = 0.01 * np.arange(4.0)
    return kpref.Flow(network, np.zeros((trials, 4, 1)), np.tile(network.start, (trials, 1)), times=times).linearization


def test_blocks_of_networks_with_many_columns_stay_in_cache():
    # 3,840 columns of registers, and 2^16 entries of them are kept near: 17 trials, or the power of two of blocks next
    assert len(kernels.trial_blocks(hodgkin_huxley(100))) == 8


def test_what_comes_before_a_product_is_asked_for_a_step_ahead():
    form = hodgkin_huxley(2)
    wanted, back = (lower(Structure.of(form), transposed, True, False).wanted for transposed in (False, True))
    # Forwards the synapses' product is the first operation, and 15 coefficients a neuron come after it; backwards all
    # but that of a synapse on itself come before.
    assert wanted[:, 5:].tolist() == [[15 * 256, 0]]
    assert back[:, 5:].tolist() == [[256, 0], [14 * 256, 1]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_like_twin(kind, dtype):
    @examples(8)
    @given(flows(kind, dtype=dtype), st.integers(1, 4))
    def check(case, count):
        flow, rng = case
        for name in NAMES:
            assert_like_twin(flow.linearization, name, batch(flow.linearization, name, count, rng))

    check()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_sensitivity_like_twin_in_small_blocks(kind, dtype, monkeypatch):
    """One sweep for J and P; blocks of two trials, chunks of three steps, narrow panels: few of each fill several."""
    monkeypatch.setattr(kernels, "_TRIALS_PER_BLOCK", 2)
    monkeypatch.setattr(kernels, "_ROWS_PER_CHUNK", 6)
    monkeypatch.setattr(panels, "_FEW_ROWS", 1)
    monkeypatch.setattr(panels, "ROW_BYTES", 16)

    @examples(15)
    @given(flows(kind, dtype=dtype), st.integers(1, 3), st.booleans())
    def check(case, count, narrow):
        monkeypatch.setattr(panels, "has_wide_vectors", lambda: narrow)
        flow, rng = case
        for name in ("D", "D^T"):
            assert_like_twin(flow.linearization, name, batch(flow.linearization, name, count, rng))

    check()


@pytest.mark.parametrize("model", [models.GRU.init(2, 3, 0), models.MPN.init(2, 3, 0)])
def test_wide_registers_go_by_few_rows(model, monkeypatch, rng):
    """Three rows at once of 4 trials: the first begins in the middle of a step from the second time on."""
    monkeypatch.setattr("kpref.kernels.interpreter._ROWS_OF_J", ())
    monkeypatch.setattr("kpref.kernels.interpreter._FEWEST_ROWS_OF_J", 3)
    form = kpref.Flow(model, rng.normal(size=(4, 5, 2))).linearization
    for name in ("J", "J^T"):
        assert_like_twin(form, name, batch(form, name, 2, rng))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("inputs", [1, 7, 8, 9, 15, 16, 17, 31, 33])
def test_gathered_and_spread_in_vectors(inputs, dtype, rng):
    """Synapses of a unit that fill no vector, whole ones (8 and 16 entries), and some beside those."""
    form = kpref.Flow(models.MPN.init(inputs, 3, 0), rng.normal(size=(2, 4, inputs)), dtype=dtype).linearization
    for name in ("P", "P^T", "D", "D^T"):
        assert_like_twin(form, name, batch(form, name, 1, rng))


def test_rows_of_j_fall_as_rows_grow():
    """Registers take a megabyte at most, or there are no more than 16 rows."""
    for row in (8, 1 << 13, (1 << 13) + 1, 1 << 15, (1 << 15) + 1, 1 << 20):
        rows = rows_of_j(row)
        assert rows * row <= 1 << 20 or rows == 16
        assert rows_of_j(row + 8) <= rows <= 64


SEVERAL_BLOCKS = ((50, 9, 5), 3), ((23, 4, 3), 70), ((1, 1300, 2), 2), ((300, 3, 2), 1), ((120, 1, 9), 2)


@pytest.mark.parametrize(
    "shape, count, kind",
    in_turn(
        (
            (shape, count, kind)
            for shape, count in (
                ((50, 9, 5), 3),
                ((23, 4, 3), 70),
                ((1, 1300, 2), 2),
                ((300, 3, 2), 1),
                ((120, 1, 9), 2),
            )
            for kind in STRUCTURES
        ),
        3,
    ),
)
def test_like_twin_over_several_blocks(kind, shape, count, rng):
    """More trials, vectors and rows than one block, or one chunk of it, holds; in numbers that blocks do not divide."""
    form = make_flow(kind, shape, gain=0.7).linearization
    for name in NAMES:
        assert_like_twin(form, name, batch(form, name, count, rng))


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_like_twin_where_products_are_cut_into_panels(dtype, narrow, rng, monkeypatch):
    """Two vectors of 31 trials at once, a weight of 510 x 170: panels, the last one narrower, and sums in parts."""
    monkeypatch.setattr(panels, "has_wide_vectors", lambda: narrow)
    form = make_flow("GRU", (31, 3, 170), n_inputs=3, dtype=dtype).linearization
    for name in ("P", "P^T", "P^-1", "P^-1^T"):
        assert_like_twin(form, name, batch(form, name, 2, rng))


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("name", ["J", "J^T"])
def test_parameter_products_in_panels(name, narrow, rng, monkeypatch):
    """As above for J; the twin would make dense Jacobians of this size, so the products are written out."""
    monkeypatch.setattr(panels, "has_wide_vectors", lambda: narrow)
    flow = make_flow("GRU", (9, 30, 130))
    form, units = flow.linearization, 130
    names = ("reset_gate", "update_gate", "hidden")
    gates = np.stack([form.channel(f"layer0_{gate}") for gate in names], axis=2).swapaxes(0, 1)
    matrix, tensor = rng.normal(size=(3 * units, units)), rng.normal(size=flow.states.shape)
    where = {"weight_hh": matrix}
    zeros = {key: np.zeros_like(value) for key, value in flow.model.parameters.items()}
    before = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    if name == "J":
        got = kernels.parameter_product(form, flow.model.flatten(zeros | where)[None])[0]
        wanted = sum(gates[:, :, g] * (before @ matrix[g * units : (g + 1) * units].T) for g in range(3))
    else:
        got = flow.model.unflatten(kernels.parameter_transpose(form, tensor[None])[0])["weight_hh"]
        wanted = np.concatenate([np.einsum("btj,bti->ji", gates[:, :, g] * tensor, before) for g in range(3)])
    # Sums of at most 270 products of numbers of order one, in two orders: 2 gamma_270 of the absolute sum, below 1e-10.
    assert np.abs(got - wanted).max() <= 2 * gamma(273) * 270 * np.abs(before).max() * max(
        np.abs(tensor).max(), np.abs(matrix).max()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_unit_one_trial_one_step(kind, rng):
    """Matrices of one row, whose strides mean nothing, reach BLAS as they should."""
    for shape in [(1, 1, 1), (1, 2, 1), (2, 1, 1), (3, 4, 1), (1, 4, 3), (3, 1, 3)]:
        form = make_flow(kind, shape, n_inputs=1).linearization
        for name in NAMES:
            assert_like_twin(form, name, batch(form, name, 1, rng))


def test_forms_of_one_structure_are_lowered_once(rng):
    """They differ in their numbers, which no table has."""
    form = make_flow("GRU").linearization
    other = form.changed(weights={name: 2 * weight for name, weight in form.weights.items()})
    table, same = (lower(Structure.of(one), False, True, False) for one in (form, other))
    assert same is table
    shorter = form.rows(slice(1, 3))
    assert lower(Structure.of(shorter), False, True, False) is not table
    for one in (form, other, shorter):
        assert_like_twin(one, "P", batch(one, "P", 2, rng))


@pytest.mark.parametrize("name", NAMES)
def test_no_vectors(name, rng):
    form = make_flow("GRU").linearization
    out = NAMES[name](form, batch(form, name, 0, rng))
    assert out.shape == (0, *FACTORS[name][0](form, batch(form, name, 1, rng)).shape[1:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["read-only", "reversed", "Fortran", "other precision"])
def test_any_layout(name, change, rng):
    form = make_flow("LeakyRNN-tanh").linearization
    x = batch(form, name, 3, rng).astype(np.float32).astype(np.float64)
    other = {
        "read-only": x.copy(),
        "reversed": x[::-1].copy()[::-1],
        "Fortran": np.asfortranarray(x),
        "other precision": x.astype(np.float32),
    }[change]
    other.flags.writeable = change != "read-only"
    np.testing.assert_array_equal(NAMES[name](form, other), NAMES[name](form, x))
    np.testing.assert_array_equal(other, x)  # and it was not written to


@pytest.mark.parametrize("name", NAMES)
def test_result_is_new_memory(name, rng):
    form = make_flow("GRU", (2, 1, 3)).linearization  # one step: P is the identity
    x = batch(form, name, 1, rng)
    assert not np.shares_memory(NAMES[name](form, x), x)


def test_trainable_subset_picks_columns(rng):
    """J of a subset is the columns of the full J, in declared order."""
    whole = make_flow("GRU")
    subset = make_flow("GRU", trainable=["bias_hh", "weight_ih"])
    assert subset.model.trainable == ("weight_ih", "bias_hh")
    places = whole.model.unflatten(np.arange(whole.model.n_parameters))
    columns = np.concatenate([places[name].ravel() for name in subset.model.trainable])
    vector = np.zeros(whole.model.n_parameters)
    vector[columns] = part = rng.normal(size=len(columns))
    tensor = rng.normal(size=whole.states.shape)
    # The same products; those left out are exact zeros, which change no sum.
    np.testing.assert_array_equal(subset.J(part), whole.J(vector))
    np.testing.assert_array_equal(subset.J.T(tensor), whole.J.T(tensor)[columns])


STAMPS = """
import importlib, pkgutil
from kpref import kernels
from kpref.kernels import panels
from kpref.kernels.interpreter import rows_of_j
for module in sorted(found.name for found in pkgutil.iter_modules(kernels.__path__, "kpref.kernels.")):
    for name, function in sorted(vars(importlib.import_module(module)).items()):
        if hasattr(function, "py_func") and function.__module__ == module and hasattr(function._cache, "_cache_file"):
            print(f"{module}.{name}|{function._cache._cache_file._version}")
"""


@pytest.mark.parametrize("changed", in_turn(["kernels/blas.py", "kernels/jacobian.py", "models/units.py"], 2))
def test_compiled_code_on_disk_goes_stale_with_what_it_calls(changed, tmp_path):
    """Numba looks at the file of the outermost function only: a change of what it calls must reach it otherwise.

    Else a new version of one file runs on with the machine code of the old one, and gives the old numbers.
    """
    package = Path(kpref.__file__).parent
    shutil.copytree(package, tmp_path / "kpref", ignore=shutil.ignore_patterns("__pycache__", "data", "*.nb?"))

    def stamps():
        command = [sys.executable, "-c", STAMPS]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True)
        return dict(line.split("|", 1) for line in done.stdout.splitlines())

    before = stamps()
    with open(tmp_path / "kpref" / changed, "a") as file:
        file.write("\n# a change\n")
    after = stamps()
    calling = ("tangent", "adjoint", "inverse", "inverse_transpose", "run", "take_steps")
    if changed == "kernels/blas.py":
        calling += ("parameter_product", "parameter_transpose")
    calling += ("sensitivity", "sensitivity_transpose")
    stale = [name for name in calling if any(before[key] == after[key] for key in before if key.endswith(f".{name}"))]
    assert stale == []


def cache_files(folder, number, version="1"):
    """Numba's files of a function, as so many processes hold them."""
    found = [IndexDataCacheFile(str(folder), "function", "stamp") for _ in range(number)]
    for cache_file in found:
        cache_file._version = version
    return found


def test_two_processes_that_compile_at_once_do_not_take_each_others_code(tmp_path):
    """One looks into the index, the other keeps its code meanwhile, and the first goes on."""
    one, other, later = cache_files(tmp_path, 3)
    keep = one._save_index

    def interrupted(overloads):
        compilation._save(other, "float32", "code for float32")
        keep(overloads)

    one._save_index = interrupted
    compilation._save(one, "float64", "code for float64")
    assert compilation._load(later, "float64") == "code for float64"
    assert compilation._load(later, "float32") is None  # compiled once more
    assert compilation._load(later, "int64") is None


def test_compiled_code_of_other_sources_is_not_taken_and_makes_way(tmp_path):
    """An index of today may name a file that a process of yesterday's sources has written since."""
    (old,), (new, later) = cache_files(tmp_path, 1, "1"), cache_files(tmp_path, 2, "2")
    compilation._save(new, "float64", "new code")
    index = (tmp_path / "function.nbi").read_bytes()
    compilation._save(old, "float64", "old code")
    (tmp_path / "function.nbi").write_bytes(index)
    assert compilation._load(later, "float64") is None
    compilation._save(later, "float64", "new code")
    assert compilation._load(new, "float64") == "new code"
    assert len(list(tmp_path.glob("*.nbc"))) == 1


def test_compiled_code_is_found_again_by_another_process(tmp_path):
    """Else each would compile for itself."""
    package = Path(kpref.__file__).parent
    shutil.copytree(package, tmp_path / "kpref", ignore=shutil.ignore_patterns("__pycache__", "data", "*.nb?"))
    script = (
        "from kpref.oracle.arithmetic import ARITHMETICS; from kpref.compiled.rounding import to_single; "
        "print(ARITHMETICS['bfloat16'].round([1.3]), sum(to_single.stats.cache_hits.values()))"
    )
    told = [
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True, timeout=120)
        for _ in range(2)
    ]
    assert [(done.stdout, done.stderr) for done in told] == [("[1.296875] 0\n", ""), ("[1.296875] 1\n", "")]


@pytest.mark.parametrize("left", ["each", "shared", None])
@pytest.mark.parametrize("right", ["each", "shared", None])
def test_scaled_matrices_are_added_to_their_part(rng, left, right):
    matrix, total = rng.standard_normal((7, 9))[::2, 1:6], rng.standard_normal((3, 6, 8))
    shapes = {"each": (3,), "shared": (1,)}
    scales = [None if kind is None else rng.standard_normal((*shapes[kind], size))
              for kind, size in zip((left, right), matrix.shape, strict=True)]  # fmt: skip
    one, other = (np.ones((1, size)) if given is None else given
                  for given, size in zip(scales, matrix.shape, strict=True))  # fmt: skip
    expected = total.copy()
    expected[:, 2:6, 3:8] += one[:, :, None] * matrix * other[:, None, :]
    size = np.abs(expected) + np.pad(np.abs(one[:, :, None] * matrix * other[:, None, :]), ((0, 0), (2, 0), (3, 0)))
    add_scaled(total, 2, 3, scales[0], matrix, scales[1])
    assert (np.abs(total - expected) <= gamma(3) * size).all()  # two products and a sum, or one rounding less
