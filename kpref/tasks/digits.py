"""Sequential digits: handwritten digits, a row of pixels at each step, to be told at the last.

The 1,797 images are those of scikit-learn's ``load_digits``, the test set of Alpaydin and Kaynak's Optical Recognition
of Handwritten Digits (UCI, 1998, CC BY 4.0). They come in the order of their writers, so that the last 297 are of other
hands than the first 1,500 and harder: of these, the nearest of the first 1,500 has the right class in 94.6 %. Here 297
that are spread evenly over the file are set apart, of which the nearest of the others has it in 98.3 %.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from kpref._archives import read_npz
from kpref._validate import one_of
from kpref.data import data_file
from kpref.tasks.catalogue import task
from kpref.tasks.sampling import generator, with_noise
from kpref.trials import Trials

__all__ = ["digits"]

_TESTED = 297


@task(
    inputs=tuple(f"pixel_{column}" for column in range(1, 9)),
    outputs=tuple(str(digit) for digit in range(10)),
    loss="cross_entropy",
    at="last",
    sources=(
        "Alpaydin, Kaynak, Optical recognition of handwritten digits, UCI Machine Learning Repository 1998, "
        "doi:10.24432/C50P49, CC BY 4.0, in the copy of scikit-learn's load_digits",
    ),
    held_out=_TESTED,
)
def digits(n_trials: int = 100, *, seed: int = 0, part: str = "train", noise: float = 0.0) -> Trials:
    """Tell which digit was seen, row by row of its pixels.

    Each of the 8 steps shows a row of 8 pixels, from the top, as numbers from 0 to 1. Labels are the digits, one a
    trial. Trials are drawn without replacement from the 1,500 images to train on, or the other 297.

    Parameters
    ----------
    n_trials : int
        At most 1,500, or 297.
    seed : int
    part : {"train", "test"}
    noise : float
        Standard deviation of the noise in every pixel.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    one_of("part", part, ("train", "test"))
    images, labels = _parts()[part]
    if n_trials > len(labels):
        raise ValueError(f"n_trials must be at most {len(labels)}, the images to {part} on; got {n_trials}")
    chosen = rng.permutation(len(labels))[:n_trials]
    pixels = images[chosen] / 16.0
    return Trials(
        with_noise(pixels, noise, rng, np.full(n_trials, pixels.shape[1])), labels=labels[chosen].astype(np.int64)
    )


@cache
def _parts() -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    arrays, _ = read_npz(data_file("digits.npz"))
    images, labels = arrays["images"], arrays["labels"]
    tested = np.zeros(len(labels), dtype=bool)
    tested[(np.arange(_TESTED) * 2 + 1) * len(labels) // (2 * _TESTED)] = True  # the middles of 297 equal stretches
    return {"train": (images[~tested], labels[~tested]), "test": (images[tested], labels[tested])}
