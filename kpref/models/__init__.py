"""Models: recurrent networks and small dynamical systems, each with its linearisation, and fields of the user's own."""

from kpref.models.base import DenseField, DenseModel, Field, Map, Model, ProductModel
from kpref.models.dynamical_systems import Hopf, Lorenz63, Pitchfork, SaddleNode, Transcritical, VanDerPol
from kpref.models.layers import GRU, LSTM, RNN, Stacked
from kpref.models.leaky import LeakyRNN, Linear, LinearSystem, Rate
from kpref.models.low_rank import LowRankRNN
from kpref.models.lru import LRU
from kpref.models.mlp import MLP
from kpref.models.multi_plasticity import MPN
from kpref.models.neural_ode import NeuralODE
from kpref.models.s4d import S4D
from kpref.models.step import StepMap, StepModel
from kpref.models.user import UserField, UserMap, UserModel

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "MLP",
    "MPN",
    "RNN",
    "S4D",
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
    "NeuralODE",
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
]
