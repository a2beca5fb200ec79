"""``--model MODULE:FACTORY``: a network that a function of the user's makes, and what may come with it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kpref._arguments import require_file
from kpref._validate import finite_array, short
from kpref.checkpoints import Checkpoint
from kpref.models import Model
from kpref.readout import Readout
from kpref.trials import Trials

__all__ = ["Made", "make"]


@dataclass(frozen=True, eq=False)
class Made:
    """What a factory returned."""

    spec: str  # as it was named, ``module:factory``
    network: Checkpoint  # the model, its readout and its initial states, where there are any
    trials: Trials | None
    file: Path | None  # source of the module

    @property
    def name(self) -> str:
        """The factory's name, without folders and the ending of a file."""
        return Path(self.spec.replace(".py:", ":")).name


def make(spec: str) -> Made:
    """Import a module, call a function of it without arguments, and see that it returns a network.

    `spec`: ``module:function``, the current folder being importable; or ``path/to/file.py:function``, whose folder is.
    Raises ValueError, TypeError, OSError if there is no such module or function, one of them raises, or it returns
    something else.
    """
    source, _, name = spec.rpartition(":")
    if not source or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"--model: expected MODULE:FACTORY or FILE.py:FACTORY, got {spec!r}")
    module = _imported(source)
    factory: Any = module
    for part in name.split("."):
        if not hasattr(factory, part):
            raise ValueError(f"--model: there is no {name!r} in {source}")
        factory = getattr(factory, part)
    if not callable(factory):
        raise TypeError(f"--model: {spec} must be a function without arguments; got {short(factory)}")
    file = getattr(module, "__file__", None)
    parts = _parts(spec, _called(f"{spec} raised", factory))
    return Made(spec, *parts, file=None if file is None else Path(file))


def _imported(source: str) -> ModuleType:
    if source.endswith(".py"):
        file = Path(source)
        require_file("the module of --model", file)
        with _importable(file.absolute().parent):
            return _called(f"importing {source} raised", lambda: _run_file(file))
    with _importable(Path.cwd()):
        if not _exists(source):
            raise ValueError(f"--model: there is no module {source!r}, in the current folder or installed")
        return _called(f"importing {source} raised", lambda: importlib.import_module(source))


def _exists(source: str) -> bool:
    """Whether there is such a module, whatever happens when it is imported."""
    if not all(part.isidentifier() for part in source.split(".")):
        return False
    try:
        return importlib.util.find_spec(source) is not None
    except ModuleNotFoundError as error:  # a package above it is not there, or imports what is not
        return not (error.name is not None and f"{source}.".startswith(f"{error.name}."))
    except Exception:  # a package above it raises: the import will say so
        return True


def _run_file(file: Path) -> ModuleType:
    """A file as a module; its own name may be that of another module."""
    name = f"_model_in_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder is one to import from, also later, when a function imports; nothing is written into it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _called(what: str, function: Callable[[], Any]) -> Any:
    """What a function of the user's returns; what it raises, in a sentence with the place."""
    try:
        return function()
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
        raise ValueError(f"--model: {what} {reason}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """The last line of the user's that led to an error."""
    package = os.path.dirname(importlib.import_module("kpref").__file__ or "")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((package + os.sep, "<frozen"))
    ]
    return f", in line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""


def _parts(spec: str, value: Any) -> tuple[Checkpoint, Trials | None]:
    """The network and the trials in what a factory returned: in a tuple, at most one of each kind."""
    if isinstance(value, Checkpoint):
        return value, None
    found: dict[type, Any] = {}
    for item in value if isinstance(value, tuple) else (value,):
        kind = next((kind for kind in (Model, Readout, Trials, np.ndarray) if isinstance(item, kind)), None)
        if kind is None or kind in found:
            raise TypeError(_wanted(spec, value))
        found[kind] = item
    if Model not in found:
        raise TypeError(_wanted(spec, value))
    model, z0 = found[Model], found.get(np.ndarray)
    if z0 is not None:
        z0 = finite_array(f"the initial states of {spec}", z0)
        if z0.ndim not in (1, 2) or z0.shape[-1] != model.n_states:
            states = model.n_states
            raise ValueError(
                f"the initial states of {spec} must have shape ({states},) or (B, {states}); got {z0.shape}"
            )
    return Checkpoint(model, found.get(Readout), z0), found.get(Trials)


def _wanted(spec: str, value: Any) -> str:
    got = f"({', '.join(type(item).__name__ for item in value)})" if isinstance(value, tuple) else short(value)
    return (
        f"--model: {spec} must return a model of kpref.models, or a tuple of it and perhaps a kpref.Readout, "
        f"kpref.Trials and an array of initial states; got {got}"
    )
