"""The linear readout among named arrays: taken where name and shape both speak for one.

A matrix with H columns alone is no readout: a learnt initial state (1, H), a mask (H, H) and an embedding have them
too. A layer ``name.weight`` is a readout if it has H columns and either a name by which readouts go, or a bias
``name.bias`` of as many entries as it has rows, as linear layers have, and not as many rows as the network has inputs;
a bare array only by its name, and so does a vector (H,), which is the readout of one output. Names of other things
(embedding, mask, norm, initial state, input, ...) speak against it in any case, unless the recurrent layer shares them.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from kpref._archives import Arrays
from kpref._validate import finite_array
from kpref.checkpoints.foreign import parts_of
from kpref.checkpoints.recurrent import Recurrent, taken, untransposed
from kpref.checkpoints.sources import listed
from kpref.readout import Readout

__all__ = ["HEAD", "choose_readout", "reads"]

HEAD = ("readout.weight", "readout.bias")
"""Parts of a readout, by the names that ``map`` assigns."""

_WORD = re.compile(r"[A-Z]?[a-z]+\d*|[A-Z]+\d*(?![a-z])")
_BARE_WORDS = frozenset("dec decoder dense fc head ho hy lin linear out output readout who why wo wout".split())
_READOUT_WORDS = _BARE_WORDS | frozenset(
    "action actor classifier cls critic final heads label logit logits outputs policy pred prediction predictor proj "
    "projection read regressor tag target value".split()
)
_OTHER_WORDS = frozenset(
    "adj adjacency attention attn batchnorm bn connectivity context conv dale emb embed embedder embedding embeddings "
    "enc encoder gate h0 in init initial inp input inputs key layernorm ln lookup mask masks noise norm pe pos "
    "position positional prev query rec recurrent s0 sign signs start tau token tokens wpe wte x0 z0".split()
)
_BIASES = (("weight", "bias"), ("W", "b"), ("w", "b"))  # in W_out and b_out, readout_weight and readout_bias


class Head(NamedTuple):
    """Names of a readout's arrays."""

    weight: str
    bias: str | None


def choose_readout(
    rest: Arrays, layer: Recurrent, wanted: str | None, assigned: Mapping[str, str]
) -> tuple[Readout | None, frozenset[str], list[str]]:
    """Take the readout from the arrays outside the recurrent layer.

    `rest`: name -> array. `layer`: the recurrent network, of H units in each layer. `wanted`: name of the readout, with
    or without ``.weight``. `assigned`: "readout.weight" and "readout.bias" -> names, if they were said.
    Returns the readout, the names of its arrays and of other readouts that were not chosen, and notes on which those
    are.
    Raises ValueError if it is ambiguous, there is none of that name, or its shapes do not match.
    """
    n_units = layer.n_units
    candidates = [head for name in rest if (head := _head(rest, name, layer)) is not None]
    chosen = _chosen(rest, candidates, n_units, wanted, assigned)
    if chosen is None:
        return None, frozenset(), []
    given = taken(rest, chosen.weight)
    alone = given.shape == (n_units,)
    weight = finite_array(chosen.weight, given[None] if alone else given, shape=("n_out", n_units))
    if len(weight) == 0:
        raise ValueError(f"{chosen.weight} must have at least one output; got shape {weight.shape}")
    bias = chosen.bias if chosen.bias is None else taken(rest, chosen.bias)
    if bias is not None:
        bias = finite_array(str(chosen.bias), bias[None] if alone and not bias.ndim else bias, shape=(len(weight),))
    used = {untransposed(rest, name) for name in chosen if name is not None}
    offered = [untransposed(rest, name) for head in candidates for name in head if name is not None]
    others = [name for name in offered if name not in used]
    notes = [f"not read, because another readout was chosen: {listed(others)}"] if others else []
    if alone:
        notes.append(f"{chosen.weight} of shape {given.shape} is read as a readout of one output")
    if (
        wanted is None
        and not assigned.keys() & HEAD
        and not _is_called_readout(untransposed(rest, chosen.weight), layer)
    ):
        notes.append(
            f"the readout is assumed to be {chosen.weight}, of which only the shape speaks for one: readout= "
            "(--readout) and ignore= (--ignore) say otherwise"
        )
    return Readout(weight, bias), frozenset({*used, *others}), notes


def _chosen(
    rest: Arrays, candidates: list[Head], n_units: int, wanted: str | None, assigned: Mapping[str, str]
) -> Head | None:
    if "readout.weight" in assigned:
        if wanted is not None:
            raise ValueError(f"the readout is said twice: readout={wanted!r} and {assigned['readout.weight']!r} by map")
        weight = assigned["readout.weight"]
        return Head(weight, assigned.get("readout.bias") or _bias_of(rest, untransposed(rest, weight)))
    if wanted is not None:
        names = [
            name for name in (wanted, *(wanted + end for end in (".weight", ".kernel", "/kernel"))) if name in rest
        ]
        if not names or not reads(taken(rest, _upright(names[0])), n_units):
            raise ValueError(
                f"there is no readout {wanted!r}, a matrix of {n_units} columns or a vector of as many entries; the "
                f"candidates are {listed(head.weight for head in candidates)}"
            )
        chosen = Head(_upright(names[0]), _bias_of(rest, names[0]))
    elif len(candidates) > 1:
        raise ValueError(
            f"the readout is ambiguous: pick one of {listed(head.weight for head in candidates)} with the argument "
            f"readout= (--readout {candidates[0].weight.removesuffix('.weight')})"
        )
    elif not candidates:
        return None
    else:
        (chosen,) = candidates
    return chosen._replace(bias=assigned.get("readout.bias") or chosen.bias)


def reads(array: NDArray[Any], n_units: int) -> bool:
    """Whether the shape is that of a readout's weight: (n_out, H), or (H,) for one output."""
    return array.shape[-1:] == (n_units,) and array.ndim in (1, 2) and array.dtype.kind != "b"


def _head(rest: Arrays, name: str, layer: Recurrent) -> Head | None:
    """The readout that this array is the weight of, if its name and shape say so."""
    weight, array = _upright(name), rest[name]
    array = array if weight == name else array.T
    if not reads(array, layer.n_units):
        return None
    bias = _bias_of(rest, name)
    *module, last = _below(layer.module, name)
    if _words(".".join([*module, last])) & _OTHER_WORDS:
        return None
    if last in ("weight", "kernel"):
        # A linear layer of another name, with as many rows as there are inputs, might as well stand before the network.
        is_linear = array.ndim == 2 and bias is not None and rest[bias].shape == (len(array),) != (layer.n_inputs,)
        return Head(weight, bias) if module and (is_linear or _is_called_readout(name, layer)) else None
    words = _words(last)
    return Head(weight, bias) if words & _BARE_WORDS and words <= _BARE_WORDS | {"w", "weight"} else None


def _upright(name: str) -> str:
    """How the array is taken as a weight (out, in): those of Keras and Flax, called ``kernel``, are transposed."""
    return f"{name}.T" if parts_of(name)[-1] == "kernel" else name


def _is_called_readout(name: str, layer: Recurrent) -> bool:
    *module, last = _below(layer.module, name)
    return bool(_words(".".join(module) if last in ("weight", "kernel") else last) & _READOUT_WORDS)


def _below(module: str, name: str) -> list[str]:
    """The parts of a name that it does not share with the recurrent layer: of "a.fc" beside "a.rnn" it is "fc"."""
    parts, others = parts_of(name), module.split(".")
    shared = os.path.commonprefix([parts[:-1], others])
    return parts[len(shared) :]


def _words(name: str) -> set[str]:
    """Words of a name in small letters, without numbers at their ends unless these make them initial states."""
    words = {word.lower() for word in _WORD.findall(name)}
    return {word if word in _OTHER_WORDS else word.rstrip("0123456789") for word in words}


def _bias_of(rest: Arrays, weight: str) -> str | None:
    """Name of the bias beside a weight: ``fc.weight`` -> ``fc.bias``, ``Wout`` -> ``Wout.bias`` or ``bout``."""
    before, kernel, after = weight.rpartition("kernel")
    if kernel and parts_of(weight)[-1] == kernel:
        names = [f"{before}bias{after}"]
    elif weight.endswith(".weight") or weight == "weight":
        names = [weight.removesuffix("weight") + "bias"]
    else:
        layer, dot, last = weight.rpartition(".")
        names = [f"{weight}.bias", *(layer + dot + last.replace(of, to, 1) for of, to in _BIASES if of in last)]
    return next((name for name in names if name in rest and name != weight), None)
