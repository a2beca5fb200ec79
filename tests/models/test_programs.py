"""The compiled interpreter of programs against the plain one, on random programs, and what the builder refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref import kernels
from kpref.kernels import reference
from kpref.program import Builder, View
from models.programs import random_form

SEEDS = st.integers(0, 2**32 - 1)
FORWARD = {"tangent": "adjoint", "inverse": "inverse_transpose", "parameter_product": "parameter_transpose",
           "sensitivity": "sensitivity_transpose"}  # fmt: skip


def plain(name, form, argument):
    if name == "sensitivity":
        return reference.tangent(form, reference.parameter_product(form, argument))
    if name == "sensitivity_transpose":
        return reference.parameter_transpose(form, reference.adjoint(form, argument))
    return getattr(reference, name)(form, argument)


def arguments(form, seed, vectors=2):
    rng = np.random.default_rng(seed)
    tensors = rng.normal(size=(vectors, form.n_trials, form.n_steps, form.n_states))
    return tensors, rng.normal(size=(vectors, form.n_parameters))


def close(a, b):
    """Sums of a few dozen terms of order one: 1e-12 of the largest is two hundred roundings of each."""
    assert np.abs(a - b).max(initial=0) <= 1e-12 * max(1.0, np.abs(b).max(initial=0))


@given(SEEDS)
def test_compiled_and_plain_products_agree(seed):
    form = random_form(seed)
    tensors, vectors = arguments(form, seed)
    for forward, backward in FORWARD.items():
        on_parameters = forward in ("parameter_product", "sensitivity")
        if on_parameters and not form.n_parameters:
            continue
        close(getattr(kernels, forward)(form, vectors if on_parameters else tensors),
              plain(forward, form, vectors if on_parameters else tensors))  # fmt: skip
        close(getattr(kernels, backward)(form, tensors), plain(backward, form, tensors))


@given(SEEDS)
def test_products_are_transposes_of_each_other(seed):
    form = random_form(seed)
    tensors, vectors = arguments(form, seed)
    other = arguments(form, seed + 1)[0]
    for forward, backward in FORWARD.items():
        on_parameters = forward in ("parameter_product", "sensitivity")
        if on_parameters and not form.n_parameters:
            continue
        x = vectors if on_parameters else tensors
        image, back = getattr(kernels, forward)(form, x), getattr(kernels, backward)(form, other)
        scale = np.linalg.norm(image) * np.linalg.norm(other) + np.linalg.norm(x) * np.linalg.norm(back) + 1
        assert abs(np.vdot(other[0], image[0]) - np.vdot(back[0], x[0])) <= 1e-13 * scale


@pytest.mark.parametrize("seed", range(6))
def test_blocks_of_trials_and_chunks_of_time(seed):
    """Several blocks of trials, D in one sweep of several chunks: the plain products know of none of these."""
    form = random_form(seed, rows=11, trials=70)
    tensors, vectors = arguments(form, seed, vectors=1)
    of_parameters = ("sensitivity_transpose", "parameter_transpose") if form.n_parameters else ()
    for name in ("tangent", "adjoint", *of_parameters):
        found, wanted = getattr(kernels, name)(form, tensors), plain(name, form, tensors)
        assert np.abs(found - wanted).max(initial=0) <= 1e-11 * max(1.0, np.abs(wanted).max(initial=0))
    if form.n_parameters:
        close(kernels.sensitivity(form, vectors), plain("sensitivity", form, vectors))


def test_the_inverse_undoes_the_propagator():
    form = random_form(5)
    tensors, _ = arguments(form, 5)
    close(kernels.inverse(form, kernels.tangent(form, tensors)), tensors)


def test_what_could_not_be_reversed_is_refused():
    build = Builder()
    old, new = build.state(4)
    scratch = build.register(4)
    with pytest.raises(ValueError, match="writes to the old state"):
        build.scale(old, scratch, "a")
    with pytest.raises(ValueError, match="nothing has been written to"):
        build.scale(new, scratch, "b")
    build.scale(scratch, old, "c")
    with pytest.raises(ValueError, match="two channels called 'c'"):
        build.scale(new, scratch, "c")
    build.scale(new, scratch, "d")
    with pytest.raises(ValueError, match="columns that were read before"):
        build.product(scratch, old, "W")
    with pytest.raises(ValueError, match="reads what it writes to"):
        build.scale(View(new.register, 0, 2), View(new.register, 1, 2), "e")
    with pytest.raises(ValueError, match="no part 2 of 2 columns"):
        new.part(2, 2)


def test_a_form_with_other_weights_of_units_has_them_in_all_products():
    form = next(
        form for form in map(random_form, range(100)) if any(op.kind == "unit" for op in form.program.operations)
    )
    names = {op.name for op in form.program.operations if op.kind == "unit"}
    other = form.changed(weights={name: 2 * form.weights[name] for name in names})
    tensors, _ = arguments(form, 0)
    close(kernels.tangent(other, tensors), plain("tangent", other, tensors))
    for name in names:
        assert np.array_equal(other.channel(name)[0], 2 * form.weights[name])
        assert np.array_equal(form.channel(name)[0], form.weights[name])
