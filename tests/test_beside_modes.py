"""Estimates beside modes are those of the vectors that they stand for, which are formed here."""

import numpy as np
import pytest
from strategies import make_flow

from kpref.operators import Structure, TensorOperator
from kpref.space import TrajectorySpace
from kpref.spectra import eigh
from kpref.spectra.beside_modes import beside_modes, seen_beside_modes
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.white_images import white_images

COUNT = 9
#: Sums of a few hundred terms, each of at most the largest eigenvalue times the number of entries.
TOLERANCE = 1e-12


def explicit(seen, values, basis):
    """Rows Q, v and R v, one after the other."""
    vectors = seen.vectors - (seen.vectors @ basis.T) @ basis
    vectors *= np.sqrt((vectors.shape[1] - len(basis)) / np.square(vectors).sum(axis=1))[:, None]
    images = seen.form(vectors)
    return np.concatenate([basis, vectors, images - (images @ basis.T) @ basis])


@pytest.mark.parametrize("measure", ["mean", np.array([[1.0], [0.5], [0.0], [2.0], [1.0]])])
@pytest.mark.parametrize("name", ["NTK", "PP*"])
def test_inner_products_are_those_of_the_vectors_beside_the_modes(name, measure):
    flow = make_flow("GRU", (5, 4, 6), measure=measure)
    op = flow.NTK if name == "NTK" else flow.P.gram()
    modes, form = eigh(op, 4, tol=1e-14), SymmetricForm(op)
    seen = white_images(form, COUNT, 0)
    rows = explicit(seen, modes.values, form.coordinates.to_vectors(modes.vectors))
    groups = np.array([0, 1, -1, 0, 2])
    found = seen_beside_modes(seen, modes.values, modes.vectors, groups)
    scale = form.size * modes.values[0] ** 2 + form.size
    whole, own, drawn, rest = rows @ rows.T, slice(4), slice(4, 4 + COUNT), slice(4 + COUNT, None)
    for inner, wanted in (
        (found.moments.forms, whole[drawn, rest]),
        (found.moments.rests, whole[rest, rest]),
        (found.moments.overlaps, whole[drawn, drawn]),
    ):
        np.testing.assert_allclose(inner, wanted, rtol=0, atol=TOLERANCE * scale)
    np.testing.assert_allclose(whole[own, drawn], 0, atol=TOLERANCE * scale)
    tensors = form.coordinates.embed(rows).reshape(len(rows), 5, -1)
    for group, inner in enumerate(found.by_group):
        part = tensors[:, groups == group].reshape(len(rows), -1)
        np.testing.assert_allclose(inner, part @ part.T, rtol=0, atol=TOLERANCE * scale)
    assert len(found.by_group) == 3
    alone = seen_beside_modes(seen, modes.values, modes.vectors)
    assert alone.trace().value == pytest.approx(found.trace().value, rel=1e-12)
    assert alone.dimension().value == pytest.approx(found.dimension().value, rel=1e-12)


def test_an_operator_that_is_zero_has_no_dimension():
    flow = make_flow("GRU", (5, 4, 6))
    seen = white_images(SymmetricForm(0.0 * flow.K), COUNT, 0)
    modes = eigh(flow.NTK, 2)
    found = seen_beside_modes(seen, np.zeros(2), modes.vectors)
    assert (found.trace().value, found.dimension().value) == (0.0, 0.0)


def test_random_vectors_are_none_that_a_search_with_the_same_seed_starts_from():
    """Of a multiple of the identity, where the first vector of a search is an eigenfunction."""
    space = TrajectorySpace((5, 9, 10), measure="sum")
    op = TensorOperator(lambda x: 2.0 * x, lambda x: 2.0 * x, space, space, structure=Structure(True, True))
    modes = eigh(op, 3, seed=0)
    found = beside_modes(SymmetricForm(op), modes.values, modes.vectors, COUNT, 0)
    assert found.trace().value == pytest.approx(2.0 * space.size, rel=1e-12)
    assert found.dimension().value == pytest.approx(space.size, rel=1e-12)
