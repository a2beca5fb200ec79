"""Models of recurrent networks: one map, one hand-derived linearisation, one file each."""

from kpref.models.base import (
    DenseField,
    DenseModel,
    Field,
    Map,
    Model,
    ParameterSite,
    SiteCoefficients,
    SiteField,
    SiteMap,
    SiteModel,
)
from kpref.models.gru import GRU
from kpref.models.rate import LinearSystem, Rate
from kpref.models.rnn import RNN, LeakyRNN, Linear

__all__ = [
    "GRU",
    "RNN",
    "DenseField",
    "DenseModel",
    "Field",
    "LeakyRNN",
    "Linear",
    "LinearSystem",
    "Map",
    "Model",
    "ParameterSite",
    "Rate",
    "SiteCoefficients",
    "SiteField",
    "SiteMap",
    "SiteModel",
]
