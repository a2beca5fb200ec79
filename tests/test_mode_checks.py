"""Checks of eigenpairs fail on what is not the operator's own, and on nothing else."""

import dataclasses

import numpy as np
import pytest
from continuous import fields
from hypothesis import given
from hypothesis import strategies as st
from strategies import STRUCTURES, examples, flows, make_flow

from kpref.analysis.mode_checks import ASKED, kernel_checks, mode_check
from kpref.analysis.parameter_operator import kernel_modes
from kpref.analysis.selfcheck import longest_sum
from kpref.operators import Structure, TensorOperator
from kpref.spectra import eigh, kernel_spectrum, trial_norms
from kpref.spectra.blocks import block_eigh, whole_vectors
from kpref.spectra.exact_spectrum import Directions
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.white_images import white_images


def checks_of(flow, operator=None, exact=None, modes=None, k=3, seen=None):
    exact = exact or kernel_spectrum(flow)
    modes = modes or kernel_modes(flow, min(k, flow.space.size), exact, seed=0)
    found = kernel_checks(operator or flow.K, exact, modes, longest_sum(flow), 0, seen)
    return {check.name: check for check in found}


@examples(20)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_right_modes_pass(kind, data):
    flow, _ = data.draw(flows(kind, max_states=6))
    assert all(check.passed for check in checks_of(flow).values())
    k = min(3, flow.space.size)
    gram = flow.P.gram()
    propagated = block_eigh(gram, k, axis=0, tol=ASKED)
    vectors = whole_vectors(propagated, flow.space.shape, 0)
    assert mode_check(gram, propagated.values, vectors, longest_sum(flow)).passed


def mixed(operator, strength):
    """K with units mixed: M K M^T, M = 1 + strength (neighbour), which has no blocks of units."""

    def mix(batch):
        return batch + strength * np.roll(batch, 1, axis=-1)

    def back(batch):
        return batch + strength * np.roll(batch, -1, axis=-1)

    def apply(batch):
        return mix(operator.apply(back(batch)))

    space = operator.space_in
    return TensorOperator(apply, apply, space, space, name=operator.name, structure=Structure(True, True))


@pytest.mark.parametrize("strength", [1e-6, 1e-2, 0.5])
def test_a_kernel_that_mixes_units_is_found(strength):
    """Modes of single units, as an iteration by blocks gives them, are none of the whole K."""
    flow = make_flow("GRU", (4, 6, 5))
    check = checks_of(flow, mixed(flow.K, strength))["modes of K"]
    assert not check.passed
    assert check.error > strength / 10
    assert "is none" in check.verdict


@pytest.mark.parametrize("factor", [1.15, 1.53, 1 + 1e-8])
def test_eigenvalues_that_are_too_large_are_found(factor):
    flow = make_flow("GRU", (4, 6, 5))
    modes = kernel_modes(flow, 3, kernel_spectrum(flow), seed=0)
    wrong = dataclasses.replace(modes, values=factor * modes.values, residuals=np.full(3, factor - 1))
    found = checks_of(flow, modes=wrong)
    assert not found["modes of K"].passed
    assert not found["leading eigenvalues of K"].passed
    exact = kernel_spectrum(flow)
    both = dataclasses.replace(exact, values=factor * exact.values, trace=factor * exact.trace)
    assert not checks_of(flow, exact=both, modes=wrong)["modes of K"].passed  # wrong together


@pytest.mark.parametrize("shape", [(4, 6, 6), (6, 10, 8)])  # products in float64, and beyond 400 states in float32
def test_a_lost_part_of_the_exact_spectrum_is_found(shape):
    """Half of the units forgotten: the leading values may agree, the sum does not."""
    flow = make_flow("GRU", shape)
    exact = kernel_spectrum(flow)
    assert checks_of(flow)["trace of K"].passed
    less = dataclasses.replace(exact, values=exact.values[::2], trace=exact.trace / 2)
    check = checks_of(flow, exact=less)["trace of K"]
    assert not check.passed
    assert f"{exact.trace / 2:.6g}" in check.verdict


def test_products_that_have_been_made_tell_the_trace_too():
    flow = make_flow("GRU", (6, 10, 8))
    exact, seen = kernel_spectrum(flow), white_images(SymmetricForm(flow.K), 18, 0)
    check = checks_of(flow, seen=seen)["trace of K"]
    assert check.passed
    assert "from 18 vectors" in check.reason
    less = dataclasses.replace(exact, values=exact.values[::2], trace=exact.trace / 2)
    assert not checks_of(flow, exact=less, seen=seen)["trace of K"].passed
    others = white_images(SymmetricForm(2.0 * flow.K), 18, 0)  # K is not what the spectrum is of
    assert not checks_of(flow, seen=others)["trace of K"].passed


def test_ghosts_and_loose_modes_are_found():
    flow = make_flow("GRU", (4, 6, 5))
    modes = eigh(flow.NTK, 3, tol=ASKED)
    terms = longest_sum(flow)
    assert mode_check(flow.NTK, modes.values, modes.vectors, terms).passed
    ghosts = modes.vectors[[0, 0, 2]], modes.values[[0, 0, 2]]
    assert not mode_check(flow.NTK, ghosts[1], ghosts[0], terms).passed
    noise = np.random.default_rng(0).standard_normal(modes.vectors.shape)
    assert not mode_check(flow.NTK, modes.values, modes.vectors + 1e-7 * noise, terms).passed
    assert not mode_check(flow.NTK, np.full(3, np.nan), modes.vectors, terms).passed
    assert not mode_check(flow.NTK, np.zeros(3), modes.vectors, terms).passed  # zero is claimed, and is not there


@pytest.mark.parametrize("wrong", range(5))
def test_one_wrong_mode_of_several_is_found(wrong):
    """Its residual is looked for in random sums of all: none of them leaves it out, and it is named."""
    flow = make_flow("GRU", (6, 10, 8))
    modes, terms = eigh(flow.NTK, 5, tol=ASKED), longest_sum(flow)
    assert mode_check(flow.NTK, modes.values, modes.vectors, terms).passed
    values = modes.values * np.where(np.arange(5) == wrong, 1 + 1e-8 * modes.values[0] / modes.values[wrong], 1.0)
    check = mode_check(flow.NTK, values, modes.vectors, terms)
    assert not check.passed
    assert f"mode {wrong + 1} of NTK is none" in check.verdict
    swapped = np.roll(modes.vectors, 1, axis=0)
    assert not mode_check(flow.NTK, modes.values, swapped, terms).passed


def test_zero_operators_have_nothing_to_test():
    flow = fields.make_flow("Rate-tanh", shape=(2, 4, 3))
    zero = 0.0 * flow.NTK
    check = mode_check(zero, np.zeros(2), np.ones((2, *flow.space.shape)), 10)
    assert check.passed
    assert check.idle


def test_a_measure_with_zeros():
    flow = make_flow("RNN-tanh", (3, 6, 4), measure=np.array([0.0, 1.0, 2.0, 0.0, 1.0, 0.5]))
    assert all(check.passed for check in checks_of(flow).values())


@pytest.mark.parametrize("told", [False, True], ids=["anew", "from the spectrum"])
@pytest.mark.parametrize("kind", ["GRU", "RNN-tanh"])
def test_modes_of_units_are_those_of_an_iteration(kind, told):
    """From the factors of single units, in directions that the spectrum has told or not; and by Lanczos iteration."""
    flow = make_flow(kind, (9, 6, 5), measure=np.array([0.0, 1.0, 2.0, 0.0, 1.0, 0.5]))
    directions = Directions(4)
    exact = kernel_spectrum(flow, directions=directions if told else None)
    assert bool(directions.of_unit) == told
    ours = kernel_modes(flow, 4, exact, seed=0, directions=directions)
    other = eigh(flow.K, 4, tol=1e-12)
    columns = [tuple(np.flatnonzero(vector.any(axis=(0, 1)))) for vector in ours.vectors]
    assert ours.n_products == max(map(columns.count, columns))  # one of each unit takes a product together
    np.testing.assert_allclose(ours.values, other.values, rtol=1e-12)
    assert ours.residuals.max() < 1e-13
    overlaps = [abs(flow.space.inner(v, w)) for v, w in zip(ours.vectors, other.vectors, strict=True)]
    np.testing.assert_allclose(overlaps, 1.0, rtol=1e-10)


def test_norms_on_trials_are_found_in_passing():
    flow = make_flow("GRU", (4, 6, 5))
    found = block_eigh(flow.P.gram(), 3, axis=0, tol=ASKED)
    assert (found.defects <= 1e-4 * found.largest).all()
    np.testing.assert_allclose(np.sqrt(found.largest), trial_norms(flow, tol=1e-10), rtol=1e-8)
