"""Models: recurrent networks and small dynamical systems, each with its linearisation, and fields of the user's own."""

from kpref.models.adaptation import AdaptiveRate
from kpref.models.antisymmetric import AntisymmetricRNN
from kpref.models.base import DenseField, DenseModel, Field, Map, Model, ProductModel
from kpref.models.cornn import CoRNN
from kpref.models.dynamical_systems import Hopf, Lorenz63, Pitchfork, SaddleNode, Transcritical, VanDerPol
from kpref.models.excitatory_inhibitory import ExcitatoryInhibitory
from kpref.models.gated_state import MGU, ContinuousGRU, ResetBeforeGRU
from kpref.models.hodgkin_huxley import HodgkinHuxley
from kpref.models.layers import GRU, LSTM, RNN, UGRNN, Stacked
from kpref.models.leaky import LeakyRNN, Linear, LinearSystem, Rate
from kpref.models.low_rank import LowRankRNN
from kpref.models.lru import LRU
from kpref.models.mlp import MLP
from kpref.models.multi_plasticity import MPN
from kpref.models.neural_ode import NeuralODE
from kpref.models.s4d import S4D
from kpref.models.short_term_plasticity import ShortTermPlasticity
from kpref.models.step import StepMap, StepModel
from kpref.models.user import UserField, UserMap, UserModel
from kpref.models.wilson_cowan import WilsonCowan

__all__ = [
    "AdaptiveRate",
    "AntisymmetricRNN",
    "CoRNN",
    "ContinuousGRU",
    "DenseField",
    "DenseModel",
    "ExcitatoryInhibitory",
    "Field",
    "GRU",
    "HodgkinHuxley",
    "Hopf",
    "LRU",
    "LSTM",
    "LeakyRNN",
    "Linear",
    "LinearSystem",
    "Lorenz63",
    "LowRankRNN",
    "MGU",
    "MLP",
    "MPN",
    "Map",
    "Model",
    "NeuralODE",
    "Pitchfork",
    "ProductModel",
    "RNN",
    "Rate",
    "ResetBeforeGRU",
    "S4D",
    "SaddleNode",
    "ShortTermPlasticity",
    "Stacked",
    "StepMap",
    "StepModel",
    "Transcritical",
    "UGRNN",
    "UserField",
    "UserMap",
    "UserModel",
    "VanDerPol",
    "WilsonCowan",
]
