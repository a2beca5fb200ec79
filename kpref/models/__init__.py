"""Models: recurrent networks and small dynamical systems, each with its linearisation, and fields of the user's own."""

from kpref.models.base import (
    DenseField,
    DenseModel,
    Field,
    Map,
    Model,
    ParameterSite,
    ProductModel,
    SiteCoefficients,
    SiteField,
    SiteMap,
    SiteModel,
)
from kpref.models.dynamical_systems import Hopf, Lorenz63, Pitchfork, SaddleNode, Transcritical, VanDerPol
from kpref.models.gru import GRU
from kpref.models.layers import LSTM, Stacked
from kpref.models.low_rank import LowRankRNN
from kpref.models.rate import LinearSystem, Rate
from kpref.models.rnn import RNN, LeakyRNN, Linear
from kpref.models.user import UserField, UserMap, UserModel

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "DenseField",
    "DenseModel",
    "Field",
    "Hopf",
    "LeakyRNN",
    "Linear",
    "LinearSystem",
    "Lorenz63",
    "LowRankRNN",
    "Map",
    "Model",
    "ParameterSite",
    "Pitchfork",
    "ProductModel",
    "Rate",
    "SaddleNode",
    "SiteCoefficients",
    "SiteField",
    "SiteMap",
    "SiteModel",
    "Stacked",
    "Transcritical",
    "UserField",
    "UserMap",
    "UserModel",
    "VanDerPol",
]
