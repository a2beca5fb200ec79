"""Estimators of a trace from products alone that kpref has no use for: what ours are compared with.

XTrace and XNysTrace (Epperly, Tropp and Webber, *SIAM J. Matrix Anal. Appl.* 45, 2024) use every vector for a range and
for the rest, leaving out one at a time: up to twice as accurate as Hutch++, but what they say of their error is not
true, which is why they are not among the methods of `kpref.trace`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["xnystrace", "xtrace"]

Array = npt.NDArray[Any]
Product = Callable[[Array], Array]


def _tests(size: int, count: int, seed: int) -> Array:
    """Columns of length size^(1/2), uniform on the sphere: XTrace with normalisation."""
    vectors = np.random.default_rng(seed).standard_normal((count, size))
    return np.asarray((vectors * np.sqrt(size / np.square(vectors).sum(axis=1, keepdims=True))).T)


def xtrace(product: Product, size: int, products: int, seed: int) -> float:
    """XTrace of a symmetric matrix, given by its map of rows (v, n); half of the products make the range.

    With ``A W = Q R`` the range without the image of vector i is that of Q less one direction s_i, the i-th column of
    R^-T made a unit vector (their section 2.1 and appendix).
    """
    count = products // 2
    tests = _tests(size, count, seed)
    basis, triangle = np.linalg.qr(product(tests.T).T)
    image = product(basis.T).T
    left_out = np.linalg.solve(triangle.T, np.eye(count))
    left_out /= np.linalg.norm(left_out, axis=0)
    inside, within = basis.T @ image, basis.T @ tests
    inner = within - left_out * np.einsum("ij,ij->j", left_out, within)  # (Q_i^T w_i): within the range left
    scale = (size - count + 1) / (size - np.square(inner).sum(axis=0))
    total = np.trace(inside) - np.einsum("ij,ij->j", left_out, inside @ left_out)
    rest = tests - basis @ inner
    # A applied to the rest, from A W and A Q alone.
    images = basis @ triangle - image @ inner
    return float(np.mean(total + scale * np.einsum("ij,ij->j", rest, images)))


def xnystrace(product: Product, size: int, products: int, seed: int) -> float:
    """XNysTrace of a symmetric positive matrix, given by its map of rows (v, n), by its Nystrom approximation.

    ``A<W> = A W (W^T A W)^-1 (A W)^T``; leaving out vector i takes from it the square of column i of
    ``A W (W^T A W)^-1`` over entry (i, i) of the inverse, which leaves one over that entry for w_i. (It is not scaled,
    which matters where nearly all dimensions are in the range.)
    """
    tests = _tests(size, products, seed)
    image = product(tests.T).T
    shift = np.finfo(float).eps * np.linalg.norm(image) / size**0.5
    image = image + shift * tests
    core = tests.T @ image
    inverse = np.linalg.inv((core + core.T) / 2)
    columns = image @ inverse
    own = np.diagonal(inverse)
    whole = float(np.vdot(columns, image))
    without = whole - np.square(columns).sum(axis=0) / own
    return float(np.mean(without + 1 / own) - shift * size)
