"""The error from the finite number of trials against a jackknife with the dense matrix of each part of the trials."""

import numpy as np
import pytest
from continuous.fields import make_flow as make_field_flow
from strategies import make_flow

from kpref import Flow
from kpref.analysis.trial_errors import (
    GROUPS,
    errors_of_alignments,
    errors_of_blocks,
    errors_of_kernel,
    errors_of_modes,
    trial_groups,
)
from kpref.models import RNN
from kpref.spectra import eigh
from kpref.spectra.beside_modes import beside_modes
from kpref.spectra.symmetric import SymmetricForm


def in_coordinates(op):
    form = SymmetricForm(op)
    return form, form(np.eye(form.size))


def spread(values):
    values = np.array(values)
    return np.sqrt((len(values) - 1) / len(values) * np.square(values - values.mean()).sum())


def parts(matrix, form, groups):
    """The matrix on the trials that remain, without one group after another, and their share of the weight."""
    mu = form.space.mu
    owner = np.broadcast_to(groups[:, None, None], form.space.shape).reshape(-1)[form.coordinates.support]
    for group in range(groups.max() + 1):
        left = np.flatnonzero(owner != group)
        yield matrix[np.ix_(left, left)], 1 - mu[groups == group].sum() / mu.sum()


def expected(matrix, form, groups):
    found = [
        (np.trace(part) / share, np.trace(part) ** 2 / np.square(part).sum())
        for part, share in parts(matrix, form, groups)
    ]
    return [spread(column) for column in zip(*found, strict=True)]


@pytest.fixture(scope="module")
def flow():
    rng = np.random.default_rng(4)
    return Flow(RNN.init(2, 6, 2, gain=1.3), rng.normal(size=(14, 6, 2)))


def test_groups_hold_each_trial_with_weight_once(flow):
    groups = trial_groups(flow.space, 3)
    assert sorted(np.bincount(groups)) == [1] * 6 + [2] * 4
    assert len(np.bincount(groups)) == GROUPS
    masked = make_flow("GRU", (3, 4, 2), measure=np.array([[1.0], [0.0], [2.0]]))
    np.testing.assert_array_equal(trial_groups(masked.space, 0) >= 0, [True, False, True])
    assert trial_groups(make_flow("GRU", (1, 4, 2)).space, 0) is None


def test_small_matrices_are_cut_as_they_are(flow):
    groups = trial_groups(flow.space, 3)
    for op in (flow.NTK, flow.P.gram()):
        form, matrix = in_coordinates(op)
        found = errors_of_blocks(matrix, form.coordinates, flow.space, groups)
        np.testing.assert_allclose(found, expected(matrix, form, groups), rtol=1e-9)


def test_modes_and_random_vectors_tell_what_the_matrices_of_the_parts_do(flow):
    """With 300 vectors nearly all of the noise is gone: its share of a jackknife's square is about 1/300."""
    groups = trial_groups(flow.space, 3)
    for op in (flow.NTK, flow.P.gram()):
        form, matrix = in_coordinates(op)
        modes = eigh(op, 10)
        seen = beside_modes(form, modes.values, modes.vectors, 300, 0, groups)
        found = errors_of_modes(seen, flow.space, groups)
        np.testing.assert_allclose(found, expected(matrix, form, groups), rtol=0.1)


@pytest.mark.parametrize("kind", ["GRU", "LeakyRNN-tanh", "bias only", "Lorenz63"])
def test_kernel_is_cut_exactly(kind):
    """For all units, up to 16; both ways round, by rows and by columns; and in dense form."""
    if kind == "Lorenz63":
        flow = make_field_flow(kind, shape=(4, 5, 3))
    elif kind == "bias only":
        flow = make_flow("GRU", (5, 6, 4), trainable=["bias_hh"])
    else:
        flow = make_flow(kind, (4, 5, 6))
    groups = trial_groups(flow.space, 1)
    form, matrix = in_coordinates(flow.K)
    trace, dimension = expected(matrix, form, groups)
    along = []
    for part, _ in parts(matrix, form, groups):
        units = flow.space.shape[2]
        diagonal = np.diagonal(part).reshape(-1, units).sum(axis=0)
        along.append(diagonal.sum() ** 2 / np.square(diagonal).sum())
    whole = np.trace(matrix) ** 2 / np.square(matrix).sum()
    found = errors_of_kernel(flow, groups)
    assert found[0] == pytest.approx(trace, rel=1e-9)
    assert found[1] * whole == pytest.approx(dimension, rel=1e-8, abs=1e-12)
    if kind != "Lorenz63":  # whose K mixes units
        assert found[2] == pytest.approx(spread(along), rel=1e-8, abs=1e-12)


def test_random_vectors_tell_the_errors_of_alignments(monkeypatch):
    """Of 400 vectors: their own noise is some 1 / sqrt(400) of the norms, and that of shared modes cancels."""
    flow = make_flow("RNN-tanh", (10, 3, 3), seed=3, gain=1.5)
    groups = trial_groups(flow.space, 0)
    pairs = {"PK": (flow.P @ flow.K, flow.NTK), "PP": (flow.P.gram(), flow.NTK), "NTK": (flow.NTK, flow.NTK)}
    exact = errors_of_alignments(pairs, groups, 1, 0)
    assert exact["NTK"] < 1e-12
    assert min(exact["PK"], exact["PP"]) > 1e-3
    monkeypatch.setattr("kpref.analysis.trial_errors.DENSE_SIZE", 0)
    sampled = errors_of_alignments(pairs, groups, 400, 0)
    for name in ("PK", "PP"):
        assert sampled[name] == pytest.approx(exact[name], rel=0.2)
