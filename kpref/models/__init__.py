"""Models of recurrent networks: one map, one hand-derived linearisation, one file each."""

from kpref.models.base import Map, Model, ParameterSite, SiteCoefficients, SiteModel
from kpref.models.gru import GRU
from kpref.models.rnn import RNN, LeakyRNN, Linear

__all__ = ["GRU", "RNN", "LeakyRNN", "Linear", "Map", "Model", "ParameterSite", "SiteCoefficients", "SiteModel"]
