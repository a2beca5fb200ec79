"""``D* D`` over all shards, as an operator on parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy.typing as npt

from kpref._types import Array
from kpref.distributed.engines import Engine
from kpref.distributed.tasks_of_shards import gram
from kpref.models.base import Model
from kpref.operators import Structure, TensorOperator
from kpref.space import EuclideanSpace

__all__ = ["gram_operator"]


def gram_operator(engine: Engine, model: Model, dtype: npt.DTypeLike) -> TensorOperator:
    """``D* D`` of a model on the shards of an engine."""
    parameters = EuclideanSpace((model.n_parameters,))
    known = Structure(self_adjoint=True, positive=True)
    products = partial(_gram, _Factor(engine, model))
    return TensorOperator(products, products, parameters, parameters, dtype, "D* D", known)


@dataclass(frozen=True, eq=False)
class _Factor:
    """D over all shards, whose products have the precision of what they are given."""

    engine: Engine
    model: Model

    def in_precision(self, dtype: npt.DTypeLike) -> _Factor:
        """Another one, as `kpref.operators.precision` asks for."""
        return _Factor(self.engine, self.model)


def _gram(factor: _Factor, batch: Array) -> Array:
    """``D* D v`` for a batch (v, M)."""
    return factor.engine.total(gram, (factor.model,), batch)
