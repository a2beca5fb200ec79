"""A larger eigenvalue that an iteration never met is found beside its modes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import STRUCTURES, examples, flows, make_flow

from kpref.analysis.missed_modes import missed_check
from kpref.analysis.mode_checks import kernel_sums
from kpref.analysis.selfcheck import longest_sum
from kpref.spectra import eigh, kernel_spectrum


def missed(flow, values, vectors):
    return missed_check(flow.NTK, values, vectors, longest_sum(flow), seed=0)


@examples(20)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_leading_modes_pass(kind, data):
    flow, _ = data.draw(flows(kind, max_states=6))
    most = int(np.count_nonzero(flow.space.mu)) * flow.space.shape[2]
    for k in {1, min(3, most), most}:
        modes = eigh(flow.NTK, k)
        assert missed(flow, modes.values, modes.vectors).passed
    assert kernel_sums(kernel_spectrum(flow), flow).passed


@pytest.mark.parametrize("shape", [(4, 6, 5), (6, 10, 8)])  # products in float64, and beyond 400 states in float32
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_mode_that_was_missed_is_found(lost, shape):
    """Whichever of the first three it is, with a fourth in its place: all of them are eigenpairs."""
    flow = make_flow("GRU", shape)
    modes = eigh(flow.NTK, 4)
    assert missed(flow, modes.values, modes.vectors).passed
    kept = np.delete(np.arange(4), lost)
    check = missed(flow, modes.values[kept], modes.vectors[kept])
    assert not check.passed
    assert "the modes of NTK leave out an eigenvalue of" in check.verdict
    # Ritz values approach the one that was lost from below.
    left = check.error * max(modes.values[kept].max(), modes.values[lost]) + modes.values[3]
    assert modes.values[3] < left <= modes.values[lost] * (1 + (1e-12 if flow.space.size <= 400 else 1e-5))


@pytest.mark.parametrize("name", ["values", "unit_values", "trace", "frobenius", "effective_dimension"])
def test_a_wrong_number_of_the_spectrum_of_k_is_found(name):
    flow = make_flow("GRU", (4, 6, 5))
    right = kernel_spectrum(flow)
    value = np.roll(right.unit_values, 1, axis=0) if name == "unit_values" else getattr(right, name) * (1 + 1e-9)
    check = kernel_sums(dataclasses.replace(right, **{name: value}), flow)
    assert not check.passed
    assert "the exact spectrum of K is wrong" in check.verdict
