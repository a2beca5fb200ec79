"""From any source to one flat mapping of names to arrays: files, mappings, modules of PyTorch.

A checkpoint is often a dictionary that keeps the `state_dict` under a key of its own ("model", "net", "state_dict")
beside an epoch and an optimizer. The mapping that holds the recurrent layer is taken. What stands beside it is looked
through as well, because a readout or an initial state saved apart must not be lost in silence: arrays there go by
``key.name`` and have to be accounted for like all others. Numbers, text, lists and the state of an optimizer do not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from numpy.typing import NDArray

from kpref._archives import Arrays, reason
from kpref._validate import short
from kpref.checkpoints.composed import not_put_together
from kpref.checkpoints.files import read_file
from kpref.checkpoints.tensors import is_array, to_array

__all__ = ["Source", "listed", "read_source"]

_DEPTH = 30  # of dictionaries within dictionaries that are looked through
_RECURRENT = re.compile(r"(.*\.)?weight_hh(_l\d+|$|_g$|_v$|_orig$|\.).*")
_OPTIMIZER = re.compile(r"optims?|opt(_states?)?|.*optimi[sz]ers?(_.*)?|(lr_)?sched(uler)?s?(_.*)?", re.IGNORECASE)
_HARMLESS = re.compile(
    r"Dropout.*|AlphaDropout|Identity|_WeightNorm|.*Loss|Module(List|Dict)|Sequential"
)  # when states are computed


@dataclass(frozen=True)
class Source:
    """What was found in a source."""

    origin: str  # what errors call the source
    arrays: Arrays  # name -> array of numbers: everything that a network has to account for
    ignored: tuple[str, ...]  # names of arrays that were set aside as asked
    recorded: dict[str, str]  # name -> text that was recorded beside the arrays, as `save_checkpoint` does
    nonlinearities: dict[str, str]  # name of a module of PyTorch -> nonlinearity that it was built with
    notes: tuple[str, ...]  # what a module of PyTorch does beside, in sentences


def read_source(source: Any, ignore: Collection[str] = (), wanted: Collection[str] = ()) -> Source:
    """Read all named arrays of a file, a mapping or a module of PyTorch.

    `ignore`: names or patterns of arrays to leave out. `wanted`: names by which a network is known beside those of
    PyTorch.
    Raises TypeError if `source` is of another type; ValueError if there is no recurrent layer or there are several
    mappings with one, something is no array of numbers, or a pattern of `ignore` fits nothing; and for a file what
    `kpref.checkpoints.files.read_file` raises.
    """
    if isinstance(source, str | os.PathLike):
        origin = os.fspath(source)
        content, recorded = read_file(source)
    elif isinstance(source, Mapping):
        origin, content, recorded = "the checkpoint", source, {}
    elif callable(getattr(source, "state_dict", None)) and not isinstance(source, type):
        origin, content, recorded = f"the module {type(source).__name__}", source.state_dict(), {}
    else:
        raise TypeError(
            f"a checkpoint must be a path, a mapping from names to arrays, or a torch.nn.Module; got {short(source)}"
        )
    try:
        content = _in_memory(content)
        key = _key_of_state(content, ignore, wanted)
        module = source if key is None else content[key]
        _require_plain(module, ignore)
        named, text = _flat(content, key)
        ignored = tuple(name for name in named if _fits(name, ignore))
        unused = [
            pattern for pattern in ignore if not any(_fits(name, [pattern]) for name in (*named, *map(str, content)))
        ]
        if unused:
            raise ValueError(
                f"there is nothing called {listed(unused)} to set aside with ignore= (--ignore); the names are "
                f"{listed(named)}"
            )
        odd = [name for name in named if not name.isprintable() and name not in ignored]
        if odd:
            raise ValueError(f"{listed(odd)} cannot be the name of an array: rename it, or set it aside with ignore=")
        arrays = {name: _to_array(name, value) for name, value in named.items() if name not in ignored}
    except (ValueError, MemoryError) as error:
        raise type(error)(f"{origin}: {error}") from error
    notes = (*_about_functions(module, ignore), *_about_training(module, named.keys() - set(ignored)))
    return Source(origin, arrays, ignored, {**text, **recorded}, _nonlinearities(module), notes)


def _in_memory(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """A mapping as a dictionary: some, as those of npz files, read each value when it is asked for, and may fail."""
    values = {}
    for key in content:
        try:
            values[key] = content[key]
        except Exception as error:
            raise ValueError(f"{short(key)} cannot be read: {reason(error)}") from error
    return values


def _to_array(name: str, value: Any) -> NDArray[Any]:
    try:
        return to_array(name, value)
    except ValueError as error:
        raise ValueError(
            f"{error}; if the network does without it, set it aside with ignore= (--ignore {name})"
        ) from error


def _flat(content: Mapping[Any, Any], key: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Everything to account for by name, and the text beside it; the network is under `key`, if that is not None."""
    state = content if key is None else _mapping(content[key])
    assert state is not None
    named: dict[str, Any] = {}
    text: dict[str, str] = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"a checkpoint must map names to arrays; got the key {name!r}")
        if _text(value) is not None:
            text[name] = str(_text(value))
        elif value is not None and _mapping(value) is None:
            named[name] = value
    outside = [(name, value) for name, value in content.items() if key is None or name != key]
    if key is not None:
        text |= {str(name): str(_text(value)) for name, value in outside if _text(value) is not None}
    beside = [(name, value) for name, value in outside if key is not None or _mapping(value) is not None]
    for name, value in _arrays_beside(beside):
        if name in named:
            raise ValueError(f"two arrays are called {name!r}, one of them beside the mapping under {key!r}")
        named[name] = value
    return named, text


def _key_of_state(content: Mapping[Any, Any], ignore: Collection[str], wanted: Collection[str]) -> Any:
    """The key of the one mapping with a recurrent layer; None if it is the content itself, or nothing is one."""
    if _is_state(content, wanted):
        return None
    found = [key for key, value in _inner(content) if not _fits(str(key), ignore) and _is_state(value, wanted)]
    found = [key for key in found if not all(_fits(f"{key}.{name}", ignore) for name in _mapping(content[key]) or ())]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"there are recurrent layers under {listed(map(str, found))}: pass one of the mappings itself, as in "
            f"load_checkpoint(content[{found[0]!r}]), or set the others aside with ignore= (--ignore {found[1]})"
        )
    for outer, value in _inner(content):
        deeper = [key for key, inner in _inner(value) if _is_state(inner, wanted)]
        if deeper:
            raise ValueError(
                f"there is a recurrent layer two levels down, under {outer!r} and {deeper[0]!r}: pass the mapping "
                f"around it, load_checkpoint(content[{outer!r}]), or save that in a file of its own"
            )
    return None


def _is_state(mapping: Mapping[Any, Any], wanted: Collection[str]) -> bool:
    return any(isinstance(name, str) and (name in wanted or _RECURRENT.fullmatch(name)) for name in mapping)


def _inner(content: Mapping[Any, Any]) -> Iterator[tuple[Any, Mapping[Any, Any]]]:
    """Mappings and modules one level down, without the state of optimizers."""
    for key, value in content.items():
        inner = _mapping(value)
        if inner is not None and not _of_optimizer(key, inner):
            yield key, inner


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    state_dict = getattr(value, "state_dict", None)
    return state_dict() if callable(state_dict) else None


def _of_optimizer(key: Any, value: Any) -> bool:
    """Whether this is what an optimizer or its schedule keeps: averages of the gradient and the like."""
    return _OPTIMIZER.fullmatch(str(key)) is not None or (isinstance(value, Mapping) and "param_groups" in value)


def _arrays_beside(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    """Arrays in dictionaries and lists beside the network; bytes, as states of random generators are, are none.

    Each dictionary and list is looked through once, however often it is held: they may hold each other, or themselves.
    """
    waiting = [(str(key), key, value, 0) for key, value in items][::-1]
    seen: set[int] = set()
    while waiting:
        name, key, value, depth = waiting.pop()
        if isinstance(value, list | tuple):
            inner: Any = {index: item for index, item in enumerate(value) if not isinstance(item, float | int | str)}
        else:
            inner = _mapping(value)
        if inner is None:
            if is_array(value) and not (str(value.dtype).endswith("uint8") and len(value.shape) == 1):
                yield name, value
        elif depth == _DEPTH:
            yield name, value  # which is no array, and refused as such
        elif id(value) not in seen and not _of_optimizer(key, value):
            seen.add(id(value))
            waiting += [(f"{name}.{key}", key, item, depth + 1) for key, item in inner.items()][::-1]


def _text(value: Any) -> str | None:
    """Text, and arrays without axes that hold text."""
    if isinstance(value, str):
        return value
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    return str(value) if kind == "U" and value.ndim == 0 else None


def _fits(name: str, patterns: Collection[str]) -> bool:
    """Whether a name is one of the patterns, fits one with ``*`` and ``?``, or lies below it: ``fc`` -> ``fc.bias``."""
    return any(
        name == each or name.startswith((f"{each}.", f"{each}/")) or fnmatchcase(name, each) for each in patterns
    )


def _nonlinearities(module: Any) -> dict[str, str]:
    """Nonlinearities of the recurrent layers, which a `state_dict` does not tell, if this is a module of PyTorch."""
    return {
        name: layer.nonlinearity
        for name, layer in _modules(module)
        if hasattr(layer, "hidden_size") and isinstance(getattr(layer, "nonlinearity", None), str)
    }


def _modules(module: Any) -> list[tuple[str, Any]]:
    """Names and modules within a module of PyTorch, one that stands in two places under both names."""
    named_modules = getattr(module, "named_modules", None)
    return list(named_modules(remove_duplicate=False)) if callable(named_modules) else []


def _about_functions(module: Any, ignore: Collection[str]) -> tuple[str, ...]:
    """A note on layers that compute something without any array: nothing else would tell of them."""
    found = [
        f"{name} ({type(layer).__name__})"
        for name, layer in _modules(module)
        if name
        and not _fits(name, ignore)
        and not [*layer.children(), *layer.parameters(), *layer.buffers()]
        and not _HARMLESS.fullmatch(type(layer).__name__)
    ]
    if not found:
        return ()
    return (f"not read, as there are no arrays in it: {', '.join(found)}; states and outputs are those without it",)


def _about_training(module: Any, names: Collection[str]) -> tuple[str, ...]:
    """Notes on how a module of PyTorch trains its parameters where that is not what a kernel of parameters counts.

    It may hold some of them fixed, and have one parameter in two places. A network of which nothing at all is trained
    is one that was made ready for use, and says nothing about training.
    """
    named_parameters = getattr(module, "named_parameters", None)
    if not callable(named_parameters):
        return ()
    found = [(name, value) for name, value in named_parameters(remove_duplicate=False) if name in names]
    held = [name for name, value in found if not value.requires_grad]
    places: dict[int, list[str]] = {}
    for name, value in found:
        places.setdefault(id(value), []).append(name)
    notes = []
    if held and len(held) < len(found):
        notes.append(
            f"the module does not train {listed(held)} (requires_grad is False), which counts as trainable here all "
            "the same: trainable= (--trainable) names what is trained"
        )
    notes += [
        f"{' and '.join(map(repr, same))} are one parameter of the module, and count as parameters of their own here"
        for same in places.values()
        if len(same) > 1
    ]
    return tuple(notes)


def _require_plain(module: Any, ignore: Collection[str]) -> None:
    """Raise ValueError if a module of PyTorch makes a weight from others in a way that their names do not tell."""
    for name, layer in _modules(module):
        for weight, steps in getattr(layer, "parametrizations", {}).items():
            kinds = [type(step).__name__ for step in steps]
            whole = f"{name}.{weight}".removeprefix(".")
            if kinds != ["_WeightNorm"] and not _fits(whole, ignore):
                raise not_put_together(whole, weight)


def listed(names: Iterable[str]) -> str:
    """Names in an error, the first of them if they are many."""
    words = [repr(name) for name in names]
    return ", ".join(words[:20]) + (f" and {len(words) - 20} more" if len(words) > 20 else "") or "none"
