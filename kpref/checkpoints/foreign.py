"""Recurrent layers under the names and in the layouts of Keras and Flax, and of networks that are written by hand.

=================  ==========================================  ================================================
Keras              ``kernel`` (n_in, g H), ``recurrent_kernel``  SimpleRNN, GRU (gates u, r, n), LSTM (i, f, c, o);
                   (H, g H), ``bias``                            a bias (2, 3 H) tells a GRU with its reset gate
                                                                 after the product, (3 H,) one before it
Flax, linen        ``ir, iz, in, hr, hz, hn`` with ``kernel``    GRUCell: biases of the first three and of hn
                   (in, out) and ``bias``; ``ii, ..., ho``;      LSTMCell, OptimizedLSTMCell: biases of h
                   ``i, h``                                      SimpleCell: the bias of i
Flax, nnx          ``dense_i``, ``dense_h``, ``ii, ..., ho``     GRUCell, SimpleCell, LSTMCell, OptimizedLSTMCell
by hand            ``input2h``, ``h2h`` with ``weight, bias``    a leaky network whose leak nothing tells
low rank           ``wi`` (n_in, H), ``m, n`` (H, R), ``si, b``  of Dubreuil, Valente et al. 2022
=================  ==========================================  ================================================

What stands here is what their documentation says; names with "/" or "." between parts are the same. Where shapes and
names leave two networks possible, the reader is asked, and nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kpref._archives import Arrays
from kpref._validate import check_shape, finite_array
from kpref.checkpoints.recurrent import Recurrent
from kpref.checkpoints.sources import listed

__all__ = ["find_foreign", "parts_of"]

Group = dict[str, str]
"""Names of arrays of one layer, by what they are called in it."""

_LSTM = ("i", "f", "g", "o")


def parts_of(name: str) -> list[str]:
    """The parts of a name: "gru/cell/kernel:0" and "gru.cell.kernel" alike; without what nnx puts after variables."""
    parts = re.split(r"[/.]", name.removesuffix(":0"))
    return parts[:-1] if len(parts) > 1 and parts[-1] == "value" else parts


def find_foreign(arrays: Arrays, reset: str | None) -> Recurrent | None:
    """The one recurrent layer in one of these layouts; None if there is none.

    `reset`: where the reset gate of a GRU stands, "before" or "after" the product, if that was said.
    Raises ValueError if there are several, shapes do not match, or what there is does not tell one network.
    """
    found = [
        (reader, module, group)
        for depth, readers in ((1, _FLAT), (2, _BY_GATE))
        for module, group in _groups(arrays, depth).items()
        for wanted, reader in readers
        if wanted <= group.keys()
    ]
    if len(found) > 1:
        names = [next(iter(group.values())) for _, _, group in found]
        raise ValueError(
            f"several recurrent layers are not supported; found {listed(names)}: set others aside with ignore= "
            "(--ignore)"
        )
    if not found:
        return None
    ((reader, module, group),) = found
    return reader(arrays, module, group, reset)


def _groups(arrays: Arrays, depth: int) -> dict[str, Group]:
    """Arrays by the module that they are in, called by the last one or two parts of their names."""
    groups: dict[str, Group] = {}
    for name in arrays:
        parts = parts_of(name)
        if len(parts) >= depth:
            groups.setdefault(".".join(parts[:-depth]), {})[".".join(parts[-depth:])] = name
    return groups


def _recurrent(
    layer: Mapping[str, NDArray | None], module: str, name: str, used: Sequence[str], notes: Sequence[str] = ()
) -> Recurrent:
    """A layer under PyTorch's names, checked."""
    rows, n_units = np.asarray(layer["weight_hh"]).shape
    shapes: dict[str, tuple[int | str, ...]] = {"weight_ih": (rows, "n_in"), "weight_hh": (rows, n_units)}
    checked = {
        parameter: finite_array(f"{name}, as {parameter}", array, shape=shapes.get(parameter, (rows,)))
        for parameter, array in layer.items()
        if array is not None
    }
    return Recurrent(
        (checked,), n_units, checked["weight_ih"].shape[1], name, frozenset(used), module, tuple(notes),
        rows // n_units,
    )  # fmt: skip


def _matrix(arrays: Arrays, name: str, shape: tuple[int | str, ...]) -> NDArray:
    check_shape(name, arrays[name], shape=shape)
    return arrays[name]


def _blocks_of(arrays: Arrays, name: str, known: Sequence[int]) -> tuple[int, int]:
    """H and g of a recurrent kernel (H, g H)."""
    check_shape(name, arrays[name], ndim=2)
    n_units, columns = arrays[name].shape
    if not n_units or columns % n_units or columns // n_units not in known:
        shapes = " or ".join(f"(H, {blocks} H)" if blocks > 1 else "(H, H)" for blocks in known)
        raise ValueError(f"{name} must have shape {shapes}, H at least 1; got {(n_units, columns)}")
    return n_units, columns // n_units


# Keras


def _keras(arrays: Arrays, module: str, group: Group, reset: str | None) -> Recurrent:
    kernel, recurrent, bias = group["kernel"], group["recurrent_kernel"], group.get("bias")
    n_units, blocks = _blocks_of(arrays, recurrent, (1, 3, 4))
    width = blocks * n_units
    driven = _matrix(arrays, kernel, ("n_in", width))
    biases = np.zeros((0, width)) if bias is None else np.atleast_2d(arrays[bias])
    if bias is not None:
        allowed = [(width,), (2, width)] if blocks == 3 else [(width,)]
        if arrays[bias].shape not in allowed:
            raise ValueError(f"{bias} must have shape {' or '.join(map(str, allowed))}; got {arrays[bias].shape}")
        told = "after" if arrays[bias].ndim == 2 else "before"
        if blocks == 3 and reset not in (None, told):
            raise ValueError(
                f"{bias} of shape {arrays[bias].shape} is that of a GRU whose reset gate stands {told} the product; "
                f"got reset={reset!r}"
            )
        reset = told
    if blocks == 3 and reset is None:
        raise ValueError(
            f"{recurrent} is that of a GRU without biases, and nothing tells whether its reset gate stands before or "
            "after the product: say so with reset= (--reset before, or after, Keras' reset_after=True, its default)"
        )
    order = [1, 0, 2] if blocks == 3 else list(range(blocks))  # u, r, n: kpref and PyTorch have r, u, n
    turned = (driven.T, arrays[recurrent].T, *biases)
    blockwise = [array.reshape(blocks, n_units, *array.shape[1:])[order].reshape(array.shape) for array in turned]
    names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh")[: len(biases)]))
    kind = "SimpleRNN" if blocks == 1 else f"{'GRU' if blocks == 3 else 'LSTM'}"
    gates = "" if blocks == 1 else f", in the order {'z, r, h' if blocks == 3 else 'i, f, c, o'}"
    notes = [f"{recurrent} is read as the recurrent weight of Keras' {kind}{gates}"]
    if blocks > 1:
        notes.append("its gates are taken to be sigmoid and tanh, Keras' defaults, which the weights do not tell")
    used = [name for name in (kernel, recurrent, bias) if name is not None]
    found = _recurrent(dict(zip(names, blockwise, strict=True)), module, recurrent, used, notes)
    return with_reset_before(found) if blocks == 3 and reset == "before" else found


def with_reset_before(network: Recurrent) -> Recurrent:
    """The same arrays as those of a GRU whose reset gate stands before the product, where biases only add up.

    Raises ValueError if they are not those of one layer of a GRU.
    """
    if network.kind or network.blocks != 3 or len(network.layers) > 1:
        raise ValueError(
            f"reset= (--reset) says where the reset gate of one layer of a GRU stands; {network.name} is of another "
            "network"
        )
    (layer,) = network.layers
    biases = [layer[name] for name in ("bias_ih", "bias_hh") if name in layer]
    parameters = {name: layer[name] for name in ("weight_ih", "weight_hh")}
    if biases:
        parameters["bias"] = sum(biases[1:], biases[0])
    return replace(network, layers=(parameters,), kind="gru-reset-before")


# Flax


def _joined(
    arrays: Arrays, group: Group, letters: Sequence[str], side: str
) -> tuple[NDArray, list[NDArray | None], list[str]]:
    """Kernels of gates, turned and above each other; their biases; the names of all."""
    children = [side + letter for letter in letters]
    children = [child if f"{child}.kernel" in group else f"{child}_" for child in children]  # nnx: if_
    missing = [child for child in children if f"{child}.kernel" not in group]
    if missing:
        lost = listed(child.removesuffix("_") for child in missing)
        raise ValueError(f"beside {next(iter(group.values()))!r} there is no kernel of {lost}")
    names = [group[f"{child}.kernel"] for child in children]
    columns = np.shape(arrays[names[0]])[-1]
    kernels = [_matrix(arrays, name, ("n_in" if side == "i" else columns, columns)) for name in names]
    biases = [arrays[group[f"{child}.bias"]] if f"{child}.bias" in group else None for child in children]
    used = names + [group[f"{child}.bias"] for child in children if f"{child}.bias" in group]
    return np.concatenate([kernel.T for kernel in kernels]), biases, used


def _stacked(biases: Sequence[NDArray | None], n_units: int, name: str) -> NDArray | None:
    """Biases of gates one after the other, zeros where there are none; None if there is none at all."""
    if all(bias is None for bias in biases):
        return None
    given = [np.zeros(n_units) if bias is None else bias for bias in biases]
    for bias in given:
        check_shape(f"a bias beside {name}", bias, shape=(n_units,))
    return np.concatenate(given)


def _flax(letters: Sequence[str], kind: str) -> Callable[[Arrays, str, Group, str | None], Recurrent]:
    def read(arrays: Arrays, module: str, group: Group, reset: str | None) -> Recurrent:
        driven, biases_ih, used_ih = _joined(arrays, group, letters, "i")
        recurrent, biases_hh, used_hh = _joined(arrays, group, letters, "h")
        n_units, name = recurrent.shape[1], used_hh[0]
        notes = [f"{name} is read as part of the recurrent weight of Flax' {kind}"]
        for side, biases, alone in (("i", biases_ih, ()), ("h", biases_hh, ("n",))):
            there = tuple(letter for letter, bias in zip(letters, biases, strict=True) if bias is not None)
            if there not in ((), tuple(letters), alone):
                raise ValueError(
                    f"beside {name!r} there are biases of {listed(side + letter for letter in there)} alone, and Flax' "
                    f"{kind} has others too, or none"
                )
        if kind == "GRUCell" and any(bias is None for bias in biases_hh) and biases_hh[-1] is not None:
            notes.append(_partly_zero(f"the biases beside {name}", "bias_hh", 2 * n_units))
        layer = {
            "weight_ih": driven,
            "weight_hh": recurrent,
            "bias_ih": _stacked(biases_ih, n_units, name),
            "bias_hh": _stacked(biases_hh, n_units, name),
        }
        return _recurrent(layer, module, name, used_ih + used_hh, notes)

    return read


def _partly_zero(what: str, whole: str, zeros: int) -> str:
    return (
        f"{what} are part of {whole}, the rest of which is zero: as {whole} is trainable as a whole, kernels and "
        f"gradients count {zeros} parameters that this network does not have"
    )


def _minimal(arrays: Arrays, module: str, group: Group, reset: str | None) -> Recurrent:
    raise ValueError(
        f"{group['hf.kernel']} is of Flax' MGUCell, which is not supported: its gate stands after the product and is "
        "complemented, unlike that of kpref.models.MGU"
    )


def _nnx(arrays: Arrays, module: str, group: Group, reset: str | None) -> Recurrent:
    """Kernels that hold all gates side by side, in the order of PyTorch: r, z, n; i, f, g, o."""
    driven, recurrent = group["dense_i.kernel"], group["dense_h.kernel"]
    n_units, blocks = _blocks_of(arrays, recurrent, (1, 3, 4))
    kernel = _matrix(arrays, driven, ("n_in", blocks * n_units))
    layer: dict[str, NDArray | None] = {"weight_ih": kernel.T, "weight_hh": arrays[recurrent].T}
    used = [driven, recurrent]
    for bias, parameter in (("dense_i.bias", "bias_ih"), ("dense_h.bias", "bias_hh")):
        if bias in group:
            layer[parameter] = arrays[group[bias]]
            used.append(group[bias])
    kind = {1: "SimpleCell", 3: "GRUCell", 4: "OptimizedLSTMCell"}[blocks]
    return _recurrent(layer, module, recurrent, used, [f"{recurrent} is read as the recurrent weight of Flax' {kind}"])


# By hand


def _by_hand(arrays: Arrays, module: str, group: Group, reset: str | None) -> Recurrent:
    driven, recurrent = group["input2h.weight"], group["h2h.weight"]
    n_units, _ = _blocks_of(arrays, recurrent, (1,))
    layer: dict[str, NDArray | None] = {"weight_ih": _matrix(arrays, driven, (n_units, "n_in"))}
    layer["weight_hh"] = arrays[recurrent]
    used = [driven, recurrent]
    for bias, parameter in (("input2h.bias", "bias_ih"), ("h2h.bias", "bias_hh")):
        if bias in group:
            layer[parameter] = arrays[group[bias]]
            used.append(group[bias])
    found = _recurrent(layer, module, recurrent, used)
    return replace(found, asked=("alpha", "leak", "nonlinearity"))


def _low_rank(arrays: Arrays, module: str, group: Group, reset: str | None) -> Recurrent:
    """``h' = h + alpha (-h + m n^T r / H + (si wi) x)``, ``r = phi(h + b)``, whose b is zero where none is trained."""
    names = {key: group[key] for key in ("wi", "m", "n", "si", "b") if key in group}
    n_units, rank = _matrix(arrays, names["m"], ("H", "R")).shape
    driven = _matrix(arrays, names["wi"], ("n_in", n_units))
    _matrix(arrays, names["n"], (n_units, rank))
    notes = []
    if "si" in names:
        driven = driven * _matrix(arrays, names["si"], (len(driven),))[:, None]
        notes.append(
            f"the weight of the inputs is put together from {names['wi']} and {names['si']}: what counts as trainable "
            "is the weight, not its parts"
        )
    if "b" in names:
        if np.any(arrays[names["b"]] != 0):
            raise ValueError(
                f"{names['b']} shifts the states inside the nonlinearity, phi(h + b), which no network here does: set "
                "it aside with ignore= (--ignore) if it is not in use"
            )
        notes.append(f"{names['b']} is zero, and not read")
    reads = [group[key] for key in ("wo", "so") if key in group]
    if reads:
        raise ValueError(
            f"{listed(reads)} make outputs of rates, wo^T phi(h) / H, for which no linear readout of states can stand: "
            f"set them aside with ignore= (--ignore {' --ignore '.join(reads)}), and read out phi(h) yourself"
        )
    parameters = {name: finite_array(names[name], arrays[names[name]]) for name in ("m", "n")}
    parameters["weight_ih"] = finite_array(names["wi"], driven.T)
    return Recurrent(
        (parameters,), n_units, len(driven), names["m"], frozenset(names.values()), module, tuple(notes),
        kind="low-rank", wanted=("alpha", "nonlinearity"), asked=("alpha",),
    )  # fmt: skip


Reader = Callable[[Arrays, str, Group, str | None], Recurrent]
#: What a group must hold, and who reads it: by the last part of names, and by the last two.
_FLAT: list[tuple[set[str], Reader]] = [({"kernel", "recurrent_kernel"}, _keras), ({"wi", "m", "n"}, _low_rank)]
_BY_GATE: list[tuple[set[str], Reader]] = [
    ({"hr.kernel", "hz.kernel", "hn.kernel"}, _flax(("r", "z", "n"), "GRUCell")),
    ({f"h{gate}.kernel" for gate in _LSTM}, _flax(_LSTM, "LSTMCell")),
    ({"hf.kernel", "hn.kernel"}, _minimal),
    ({"h.kernel", "i.kernel"}, _flax(("",), "SimpleCell")),
    ({"dense_i.kernel", "dense_h.kernel"}, _nnx),
    ({"input2h.weight", "h2h.weight"}, _by_hand),
]
