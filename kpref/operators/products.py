"""Operators as values: a number times a product of factors, and what of its structure follows from these.

A factor is a leaf (functions) or its transpose, a power of the weights W of a space, a sum of products, or a power of
one. Adjoints are products too: with W^+ the inverse of W where the weight is positive,

    A* = W_in^+ A^T W_out,        A A* = A W_in^+ A^T W_out,

weights that are all the same are a number, and W W^+ goes, unless a weight is zero at a point that exists: then it is
the projection on the others. *Self-adjoint* says that ``W A`` is symmetric, *positive* that it is positive semidefinite
as well. A product is so if it reads the same from both sides,

    X W^p X^T W      positive for every power p        P K P* = P J J^T P^T W, NTK, A A*
    X M X^* = X M W^+ X^T W      as M is, on its own space,

and nothing else is known of products: where a zero weight leaves a projection in between they do not read the same.
Sums have what all their terms have, and even powers of self-adjoint operators are positive, ``W A^2 = (W A) W^+
(W A)``. Blocks are those that all factors keep. Through a space of one axis, whose entries belong to units in a way
that only the factor knows, they pass from a factor to its own transpose alone: in ``J J^T``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from itertools import pairwise
from operator import and_
from typing import Any, NamedTuple

import numpy as np

from kpref._foreign import is_ours, read_only, returned
from kpref._frozen import MadeOfFunctions
from kpref._types import Array
from kpref.operators.structure import UNKNOWN, Structure
from kpref.space import EuclideanSpace

__all__ = [
    "ByTrial", "Leaf", "Map", "Power", "Product", "Side", "Sum", "TrialParts", "adjoint", "after", "gram",
    "gram_factor", "total",
]  # fmt: skip

Map = Callable[[Array], Array]


class TrialParts(NamedTuple):
    """What comes of each trial b of a batch of v tensors under a transpose, before the sum over trials.

    Functions of the number of a trial that several threads may call at once.

    Attributes
    ----------
    rows : callable
        ``A_b^T q_b``, (v, \\*shape_in).
    products : callable
        Their plain inner products, (v, v) in float64, which may take less time than the rows.
    """

    rows: Callable[[int], Array]
    products: Callable[[int], Array]


#: From a batch (v, B, ...) to what comes of its trials.
ByTrial = Callable[[Array], TrialParts]


@dataclass(frozen=True, eq=False)
class Leaf(MadeOfFunctions):
    """Functions between two spaces, and what is known of them."""

    name: str
    # forward, transpose: on batches of tensors
    forward: Map
    transpose: Map
    space_in: EuclideanSpace
    space_out: EuclideanSpace
    dtype: np.dtype[Any]
    known: Structure | Callable[[], Structure]  # what is known, or a function that finds it when it is first asked for
    by_trial: ByTrial | None = None  # of a sum over trials: see `Product.separated`

    def image(self, batch: Array, transposed: bool) -> Array:
        """The image of a batch, in the promised precision and zero where nothing exists.

        What a function of the user's returns is checked and copied.
        """
        batch = batch.astype(self.dtype, copy=False)
        name, function, space = (
            ("transpose", self.transpose, self.space_in) if transposed else ("forward", self.forward, self.space_out)
        )
        if is_ours(function):
            image = function(batch)
        else:
            image = returned(f"{name} of {self.name}", function(read_only(batch)), (len(batch), *space.shape))
        image = image.astype(self.dtype, copy=False)
        if space.lengths is None:
            return image
        return space.clear(image, overwrite=image.flags.writeable and not np.may_share_memory(image, batch))

    @property
    def _called(self) -> str:
        return f"the operator {self.name}"

    @cached_property
    def structure(self) -> Structure:
        """What is known."""
        return self.known if isinstance(self.known, Structure) else self.known()


@dataclass(frozen=True)
class Side:
    """A leaf, or its transpose."""

    leaf: Leaf
    transposed: bool = False

    @property
    def T(self) -> Side:
        """The other one."""
        return Side(self.leaf, not self.transposed)

    @property
    def spaces(self) -> tuple[EuclideanSpace, EuclideanSpace]:
        """In and out."""
        spaces = self.leaf.space_in, self.leaf.space_out
        return spaces[::-1] if self.transposed else spaces

    @property
    def symmetry(self) -> tuple[bool, bool]:
        """Whether it is known to be self-adjoint, and positive."""
        if self.transposed or self.leaf.space_in != self.leaf.space_out:
            return False, False
        return self.leaf.structure.self_adjoint, self.leaf.structure.positive

    @property
    def blocks(self) -> Structure:
        """What is kept apart."""
        return self.leaf.structure

    def __call__(self, batch: Array) -> Array:
        """Apply to a batch."""
        return self.leaf.image(batch, self.transposed)


@dataclass(frozen=True)
class _Weights:
    """``W^p``, zero where W is; for p = 0 the projection on where it is not."""

    space: EuclideanSpace
    power: int

    symmetry = (True, True)
    blocks = Structure(by_trial=True)  # and units: see `Product.structure`

    @property
    def T(self) -> _Weights:
        return self

    @property
    def spaces(self) -> tuple[EuclideanSpace, EuclideanSpace]:
        return self.space, self.space

    def __call__(self, batch: Array) -> Array:
        return self.space.scale(batch, self.power)


@dataclass(frozen=True)
class Sum:
    """A sum of products between the same spaces."""

    terms: tuple[Product, ...]

    @property
    def T(self) -> Sum:
        """The sum of the transposes."""
        return Sum(tuple(term.T for term in self.terms))

    @property
    def spaces(self) -> tuple[EuclideanSpace, EuclideanSpace]:
        """In and out."""
        return self.terms[0].space_in, self.terms[0].space_out

    @cached_property
    def symmetry(self) -> tuple[bool, bool]:
        """Whether all terms are known to be self-adjoint, and positive."""
        known = [term.symmetry for term in self.terms]
        return all(self_adjoint for self_adjoint, _ in known), all(positive for _, positive in known)

    @property
    def blocks(self) -> Structure:
        """What all terms keep apart, where both spaces tell what that is."""
        told = all(map(_told, self.spaces))
        return reduce(and_, (term.structure for term in self.terms)) if told else UNKNOWN

    def __call__(self, batch: Array) -> Array:
        """Apply to a batch."""
        first, *others = self.terms
        return sum((term(batch) for term in others), start=first(batch))


@dataclass(frozen=True)
class Power:
    """A product on one space again and again; applied, not built up, however often."""

    base: Product
    exponent: int

    @property
    def T(self) -> Power:
        """The power of the transpose."""
        return Power(self.base.T, self.exponent)

    @property
    def spaces(self) -> tuple[EuclideanSpace, EuclideanSpace]:
        """In and out."""
        return self.base.space_in, self.base.space_out

    @cached_property
    def symmetry(self) -> tuple[bool, bool]:
        """Whether it is known to be self-adjoint, and positive."""
        self_adjoint, positive = self.base.symmetry
        even = self.exponent % 2 == 0
        return self_adjoint or self.exponent == 0, positive or (self_adjoint and even) or self.exponent == 0

    @property
    def blocks(self) -> Structure:
        """What is kept apart."""
        return self.base.structure

    def __call__(self, batch: Array) -> Array:
        """Apply to a batch."""
        image = batch if self.exponent else batch.copy()
        for _ in range(self.exponent):
            image = self.base(image)
        return image


Factor = Side | _Weights | Sum | Power


@dataclass(frozen=True)
class Product:
    """``number f_1 ... f_n`` from one space to another; the last factor is applied first."""

    number: float
    factors: tuple[Factor, ...]
    space_in: EuclideanSpace
    space_out: EuclideanSpace
    dtype: np.dtype[Any]

    @property
    def T(self) -> Product:
        """The Euclidean transpose."""
        return Product(self.number, _transposed(self.factors), self.space_out, self.space_in, self.dtype)

    def __call__(self, batch: Array) -> Array:
        """Apply to a batch (v, \\*shape) of tensors of the space, which stays as it is."""
        for place in range(len(self.factors), 0, -1):
            if place == self._smallest and self.number != 1:
                batch = self.dtype.type(self.number) * batch
            batch = self.factors[place - 1](batch)
        if self._smallest == 0 and self.number != 1:
            batch = self.dtype.type(self.number) * batch
        return batch.astype(self.dtype, copy=False)

    @cached_property
    def _smallest(self) -> int:
        """Before how many factors from the left the tensors are smallest: there the number costs least."""
        sizes = [self.space_out.size, *(factor.spaces[0].size for factor in self.factors)]
        return sizes.index(min(sizes))

    @cached_property
    def symmetry(self) -> tuple[bool, bool]:
        """Whether it is known to be self-adjoint, and positive."""
        if self._read is None:
            return False, False
        self_adjoint, positive = (True, True) if self._read.middle is None else self._read.middle.symmetry
        return self_adjoint, positive and self.number >= 0

    @cached_property
    def structure(self) -> Structure:
        """All that is known."""
        blocks = [factor.blocks for factor in self.factors if not isinstance(factor, _Weights)]
        untold = [pair for pair in pairwise(self.factors) if not _told(pair[0].spaces[0])]
        if any(second != first.T for first, second in untold):
            return Structure(*self.symmetry)
        known = reduce(and_, blocks)
        return Structure(*self.symmetry, known.by_trial, known.units)

    @property
    def separated(self) -> ByTrial | None:
        """The transpose trial by trial, where the factor next to the input space has it and the others keep them apart.

        For ``A = X D`` with a block-diagonal X, ``A^T q = sum_b D_b^T (X^T q)_b``; as D has a single row of blocks.
        """
        if not self.factors:
            return None
        *others, last = self.factors
        if not isinstance(last, Side) or last.transposed or last.leaf.by_trial is None:
            return None
        if not all(_told(factor.spaces[0]) and factor.blocks.by_trial for factor in others):
            return None
        return partial(_separate, replace(self, factors=tuple(others), space_in=last.spaces[1]), last.leaf)

    @cached_property
    def _read(self) -> _Reading | None:
        """The product as it reads from both sides, if it is on one space and reads so."""
        if self.space_in != self.space_out:
            return None
        factors = _untransposed(self.factors)
        if len(factors) == 1:
            return _Reading((), factors[0])
        half = len(factors) // 2
        for place in range(max(0, half - 2), min(half + 2, len(factors))):  # weights may stand on one side only
            left, (middle, *right) = factors[:place], factors[place:]
            back = (*_transposed(left), _Weights(self.space_out, 1))
            if (middle, *right) == _untransposed(back):
                return _Reading(left, None)
            space = middle.spaces[0]
            if isinstance(middle, _Weights):
                if tuple(right) == _untransposed(back):
                    return _Reading(left, middle)
            elif not space.restricted and tuple(right) == _untransposed((_Weights(space, -1), *back)):
                return _Reading(left, middle)
        return None


def _separate(others: Product, leaf: Leaf, batch: Array) -> TrialParts:
    assert leaf.by_trial is not None
    return leaf.by_trial(others.T(batch).astype(leaf.dtype, copy=False))


class _Reading(NamedTuple):
    """``X X^T W``, ``X W^p X^T W`` or ``X M W^-1 X^T W``: what is on the left, and what in the middle."""

    left: tuple[Factor, ...]
    middle: Factor | None


def after(second: Product, first: Product) -> Product:
    """``second first``."""
    return _product(second.number * first.number, (*second.factors, *first.factors), second, first)


def adjoint(one: Product) -> Product:
    """``A* = W_in^+ A^T W_out``."""
    factors = (_Weights(one.space_in, -1), *one.T.factors, _Weights(one.space_out, 1))
    return _product(one.number, factors, one.T, one.T)


def gram(one: Product) -> Product:
    """``A A*``, on the output space of A."""
    return after(one, adjoint(one))


def gram_factor(product: Product) -> Product | None:
    """A of ``A A*``, where the product reads so."""
    if product._read is None or not product._read.left or product.number <= 0:
        return None
    left, middle = product._read
    space = left[-1].spaces[0]
    square = product.number / (product.space_out.uniform_weight or 1.0)
    if middle is None and space.uniform_weight is not None:
        square *= space.uniform_weight
    elif isinstance(middle, _Weights) and abs(middle.power) == 1:
        left = left if middle.power < 0 else (*left, middle)
    else:
        return None
    return Product(math.sqrt(square), left, space, product.space_out, product.dtype)


def total(one: Product, other: Product) -> Product:
    """``one + other``, sums added up."""
    terms = (*_terms(one), *_terms(other))
    return replace(one, number=1.0, factors=(Sum(terms),), dtype=np.promote_types(one.dtype, other.dtype))


def _terms(product: Product) -> tuple[Product, ...]:
    (first, *others) = product.factors
    return first.terms if isinstance(first, Sum) and not others and product.number == 1 else (product,)


def _product(number: float, factors: tuple[Factor, ...], last: Product, first: Product) -> Product:
    more, merged = _merged(factors)
    return Product(number * more, merged, first.space_in, last.space_out, np.promote_types(last.dtype, first.dtype))


def _transposed(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    return tuple(factor.T for factor in reversed(factors))


def _merged(factors: Iterable[Factor]) -> tuple[float, tuple[Factor, ...]]:
    """The same product with powers of weights taken together, and those that are numbers taken out."""
    number, kept = 1.0, list[Factor]()
    for factor in factors:
        if isinstance(factor, _Weights):
            if factor.space.uniform_weight is not None:
                number *= factor.space.uniform_weight**factor.power
                continue
            last = kept[-1] if kept else None
            if isinstance(last, _Weights):
                factor = replace(factor, power=factor.power + last.power)
                del kept[-1]
            if factor.power == 0 and not factor.space.restricted:
                continue
        kept.append(factor)
    return number, tuple(kept)


def _untransposed(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """``W A W^-1`` for the transpose of a self-adjoint A, where no weight is zero."""
    found: list[Factor] = []
    for factor in factors:
        space = factor.spaces[0]
        if not isinstance(factor, _Weights) and factor.T.symmetry[0] and not space.restricted:
            found += [_Weights(space, 1), factor.T, _Weights(space, -1)]
        else:
            found.append(factor)
    return _merged(found)[1]


def _told(space: EuclideanSpace) -> bool:
    """Whether the axes of a space tell trials and units."""
    return len(space.shape) > 1
