"""Models: recurrent networks and small dynamical systems, each with its linearisation, and fields of the user's own."""

from kpref.models.antisymmetric import AntisymmetricRNN
from kpref.models.base import DenseField, DenseModel, Field, Map, Model, ProductModel
from kpref.models.cornn import CoRNN
from kpref.models.dynamical_systems import Hopf, Lorenz63, Pitchfork, SaddleNode, Transcritical, VanDerPol
from kpref.models.gated_state import MGU, ContinuousGRU, ResetBeforeGRU
from kpref.models.layers import GRU, LSTM, RNN, UGRNN, Stacked
from kpref.models.leaky import LeakyRNN, Linear, LinearSystem, Rate
from kpref.models.low_rank import LowRankRNN
from kpref.models.step import StepMap, StepModel
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
    "Pitchfork",
    "ProductModel",
    "Rate",
    "SaddleNode",
    "Stacked",
    "StepMap",
    "StepModel",
    "Transcritical",
    "UserField",
    "UserMap",
    "UserModel",
    "VanDerPol",
    "AntisymmetricRNN",
    "CoRNN",
    "MGU",
    "ContinuousGRU",
    "ResetBeforeGRU",
    "UGRNN",
]
