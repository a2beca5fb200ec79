"""Training by this package's own operators: an objective, optimisers, and a loop that resumes to the same bits."""

from kpref.training.loop import History, TrainingDiverged, TrainingResult, train
from kpref.training.objective import Metrics, Objective
from kpref.training.optimizers import OPTIMIZERS, Adam, GradientDescent, clip_norm

__all__ = [
    "OPTIMIZERS",
    "Adam",
    "GradientDescent",
    "History",
    "Metrics",
    "Objective",
    "TrainingDiverged",
    "TrainingResult",
    "clip_norm",
    "train",
]
