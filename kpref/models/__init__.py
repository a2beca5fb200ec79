"""Models: recurrent networks and small dynamical systems, each with its linearisation, and fields of the user's own."""

from kpref.models.adaptation import AdaptiveRate
from kpref.models.base import DenseField, DenseModel, Field, Map, Model, ProductModel
from kpref.models.dynamical_systems import Hopf, Lorenz63, Pitchfork, SaddleNode, Transcritical, VanDerPol
from kpref.models.excitatory_inhibitory import ExcitatoryInhibitory
from kpref.models.hodgkin_huxley import HodgkinHuxley
from kpref.models.layers import GRU, LSTM, RNN, Stacked
from kpref.models.leaky import LeakyRNN, Linear, LinearSystem, Rate
from kpref.models.low_rank import LowRankRNN
from kpref.models.short_term_plasticity import ShortTermPlasticity
from kpref.models.step import StepMap, StepModel
from kpref.models.user import UserField, UserMap, UserModel
from kpref.models.wilson_cowan import WilsonCowan

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveRate",
    "DenseField",
    "DenseModel",
    "ExcitatoryInhibitory",
    "Field",
    "HodgkinHuxley",
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
    "ShortTermPlasticity",
    "Stacked",
    "StepMap",
    "StepModel",
    "Transcritical",
    "UserField",
    "UserMap",
    "UserModel",
    "VanDerPol",
    "WilsonCowan",
]
