"""What a backend may offer, by name, and names that look like one of these and are none.

A backend has attributes of its own that are nobody's business. But one that is a known name in another case, without
its underscore, misspelt, or by another word, is an operator that its author believes to be verified.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["OPERATORS", "TRANSPOSES", "unjudged"]


#: What a backend may offer, and the spaces that each maps between.
OPERATORS: dict[str, tuple[str, str]] = {
    "P": ("trajectory", "trajectory"),
    "P_T": ("trajectory", "trajectory"),
    "P_inverse": ("trajectory", "trajectory"),
    "J": ("parameters", "trajectory"),
    "J_T": ("trajectory", "parameters"),
    "K": ("trajectory", "trajectory"),
    "NTK": ("trajectory", "trajectory"),
    "gradient": ("trajectory", "parameters"),
    "P_inverse_T": ("trajectory", "trajectory"),
    "D": ("parameters", "trajectory"),
    "D_T": ("trajectory", "parameters"),
    "D_z0": ("starts", "trajectory"),
    "D_z0_T": ("trajectory", "starts"),
    "K_T": ("trajectory", "trajectory"),
    "NTK_T": ("trajectory", "trajectory"),
    "gradient_T": ("parameters", "trajectory"),
}

#: Names of the transposes of LinearOperators, and what each is another way to.
TRANSPOSES: dict[str, str] = {
    f"{name}.rmatvec": name.removesuffix("_T") if name.endswith("_T") else f"{name}_T" for name in OPERATORS
}

#: Other words for these.
_WORDS = {"grad": "gradient", "gradtheta": "gradient", "jacobian": "J", "propagator": "P", "trajectory": "states"}

#: Shorter names are not compared letter by letter: too many are alike.
_LONG = 5
#: Part of the letters of two names that agree, as difflib counts them.
_ALIKE = 0.85

_NEITHER = "the problem has neither a loss nor a readout, and their derivative by the states is given as Err"
#: What the theory has besides, and why it is not judged.
_BESIDES = {"loss": _NEITHER, "readoutgradient": _NEITHER, "gradientreadout": _NEITHER, "outputntk": _NEITHER}


def unjudged(raw: Any, shape: tuple[int, ...]) -> dict[str, str]:
    """Attributes of somebody's object that should be judged and are not, each with a sentence on it.

    `shape`: (B, T, H).
    """
    try:
        names = [name for name in dir(raw) if not name.startswith("_")]
    except Exception:  # of somebody else's class
        return {}
    offered = {name: _value(raw, name) for name in names}
    present = {name for name, value in offered.items() if value is not None}
    found = {}
    for name in sorted(present):
        sentence = _sentence(name, offered[name], present, shape)
        if sentence is not None:
            found[name] = sentence
    return found


def _value(raw: Any, name: str) -> Any:
    if _meant(name) is None and _plain(name) not in _BESIDES:
        return name  # not looked at: properties may take their time
    try:
        return getattr(raw, name)
    except Exception:
        return len  # it is there, and may be anything


def _sentence(name: str, value: Any, present: Collection[str], shape: tuple[int, ...]) -> str | None:
    if name in _KNOWN:
        return None
    if _plain(name) in _BESIDES:
        return f"{name} is offered and not judged: {_BESIDES[_plain(name)]}"
    meant = _meant(name)
    if meant is None or meant in present or not _may_be(meant, value, shape):
        return None
    return f"{name} is offered and not judged: the oracle knows no such name; if {meant} is meant, call it {meant}"


def _may_be(meant: str, value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a value can be what a name stands for; a number or an array of parameters is no operator."""
    if meant in ("arithmetic", "dtype", "loss_scale"):
        return True
    if meant == "states":
        return callable(value) or getattr(value, "shape", None) == shape
    return callable(value) or hasattr(value, "matvec") or (meant == "metrics" and isinstance(value, Mapping))


def _plain(name: str) -> str:
    """A name without what tells spellings apart."""
    plain = name.lower().replace("_", "")
    plain = plain.removesuffix("transposed").removesuffix("transpose") + "t" * ("transpose" in plain)
    return plain if "inverse" in plain else plain.replace("inv", "inverse")


def _meant(name: str) -> str | None:
    """The known name that another one is near; a known one is near none."""
    if name in _KNOWN:
        return None
    plain = _plain(name)
    if plain in _PLAIN:
        return _PLAIN[plain]
    near = get_close_matches(plain, [word for word in _PLAIN if len(word) >= _LONG], 1, _ALIKE)
    return _PLAIN[near[0]] if near and len(plain) >= _LONG else None


_KNOWN = ("states", *OPERATORS, "metrics", "arithmetic", "dtype", "loss_scale")
_PLAIN = {_plain(name): name for name in _KNOWN} | _WORDS
