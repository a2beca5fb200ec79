"""A colour for every trial: by its condition or label, the angle it asks for, or what sets it apart from the others.

The colours can be told apart by people with any of the common forms of colour blindness.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap

from kpref._types import Array
from kpref._validate import finite_array, instance
from kpref.threads import serial_blas
from kpref.trials import Trials

__all__ = ["TrialColoring", "color_trials"]

# M. Petroff, *Accessible Color Sequences for Data Visualization* (arXiv:2107.02270), the sequence of ten.
_CATEGORIES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class TrialColoring:
    """What trials are coloured by.

    Attributes
    ----------
    values : ndarray, shape (B,)
    name : str
        What the values are, in words, with the unit.
    colormap : Colormap
    limits : tuple of float
        Values at the two ends of the colour map.
    categories : tuple of int
        The classes, if the values are labels or numbers of conditions; else empty.
    category_names : tuple of str
        What they are called.
    """

    values: Array
    name: str
    colormap: Colormap
    limits: tuple[float, float]
    categories: tuple[int, ...] = ()
    category_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", finite_array("values", self.values, ndim=1))
        low, high = finite_array("limits", self.limits, shape=(2,))
        object.__setattr__(self, "limits", (float(low), float(high)))
        instance("colormap", self.colormap, Colormap, "a Colormap of matplotlib")

    @property
    def colors(self) -> Array:
        """RGBA of each trial, shape (B, 4)."""
        return self.color(self.values)

    def color(self, values: npt.ArrayLike) -> Array:
        """RGBA of given values."""
        low, high = self.limits
        return np.asarray(self.colormap((np.asarray(values, dtype=float) - low) / ((high - low) or 1.0)))

    @property
    def order(self) -> Array:
        """Trials in increasing order of their values, shape (B,)."""
        return np.argsort(self.values, kind="stable")

    def examples(self, number: int) -> Array:
        """About `number` trials spread evenly over that order."""
        picks = np.linspace(0, len(self.values) - 1, min(number, len(self.values)))
        return self.order[np.unique(picks.round().astype(int))]


@serial_blas
def color_trials(trials: Trials) -> TrialColoring:
    """Choose what to colour trials by.

    Their condition, if the trials have any; else their label, if there is one a trial; else the angle, where two
    neighbouring channels of the targets (or the inputs) hold its cosine and sine; else their coordinate along the first
    principal component of targets (or inputs).

    Raises
    ------
    TypeError
        If `trials` are no `kpref.Trials`.
    """
    instance("trials", trials, Trials, "kpref.Trials")
    if trials.conditions is not None:
        found, codes = np.unique(trials.conditions, return_inverse=True)
        return _by_category("condition", codes, tuple(map(str, found)))
    if trials.labels is not None and trials.labels.ndim == 1:
        return _by_category("label", trials.labels, tuple(map(str, np.unique(trials.labels))))
    source, name = (trials.targets, "target") if trials.targets is not None else (trials.inputs, "input")
    angle = _angle(source)
    if angle is not None:
        return TrialColoring(angle, f"angle of the {name} (degrees)", _cyclic(), (0.0, 360.0))
    flat = (source - source.mean(axis=0)).reshape(len(source), -1)
    left, singular, _ = np.linalg.svd(flat, full_matrices=False)
    score = left[:, 0] * singular[0]
    score = score * (np.sign(score[np.abs(score).argmax()]) or 1.0)
    limits = (float(score.min()), float(score.max()))
    return TrialColoring(score, f"first principal component of the {name}s", _sequential(), limits)


def _by_category(name: str, labels: Array, names: tuple[str, ...]) -> TrialColoring:
    classes = tuple(int(label) for label in np.unique(labels))
    if max(classes) < len(_CATEGORIES):
        colormap: Colormap = ListedColormap(list(_CATEGORIES))
        limits = (-0.5, len(_CATEGORIES) - 0.5)
    else:
        colormap, limits = _sequential(), (0.0, float(max(classes)))
    return TrialColoring(labels.astype(float), name, colormap, limits, classes, names)


def _angle(tensor: Array) -> Array | None:
    """Angles in degrees, if at the last step where trials differ two neighbouring channels lie on a circle about 0."""
    differing = np.flatnonzero(np.ptp(tensor, axis=0).max(axis=1) > 0)
    if not differing.size:
        return None
    last = tensor[:, differing[-1]]
    for channel in range(tensor.shape[2] - 1):
        x, y = last[:, channel], last[:, channel + 1]
        radius = np.hypot(x, y)
        # Single-precision data hold the radius to 1e-7; both channels must vary, or this is no circle.
        if radius.min() > 0 and np.ptp(radius) < 1e-5 * radius.max() and min(np.ptp(x), np.ptp(y)) > 0:
            return np.asarray(np.degrees(np.arctan2(y, x)) % 360.0)
    return None


def _cyclic() -> Colormap:
    """Matplotlib's twilight, darkened so that its light end shows on white."""
    colors = matplotlib.colormaps["twilight"](np.linspace(0, 1, 256))
    colors[:, :3] *= 0.8
    return LinearSegmentedColormap.from_list("kpref-cyclic", colors)


def _sequential() -> Colormap:
    """Viridis without its brightest end, which does not show on white."""
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, 256))
    return LinearSegmentedColormap.from_list("kpref-sequential", colors)
