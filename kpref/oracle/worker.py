"""The child process of `kpref.oracle.isolation`: makes a backend and applies its operators on request."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Mapping
from typing import Any

from kpref.oracle.backend import OPERATORS, TRANSPOSES, Backend, BackendFault, raised_fault
from kpref.oracle.isolation import receive, send
from kpref.oracle.problem import rebuild

__all__ = ["load_factory", "main"]


def load_factory(spec: str) -> Any:
    """The function that ``module:function`` names; the current directory is importable.

    Raises BackendFault if there is none.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise BackendFault("raised", "backend", f"the factory must be named as module:function; got {spec!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        target: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            target = getattr(target, name)
    except BaseException as error:  # the module may do anything when it is imported
        if isinstance(error, KeyboardInterrupt):
            raise
        raise raised_fault(f"importing {spec}", error) from error
    if not callable(target):
        raise BackendFault("raised", "backend", f"{spec} is of type {type(target).__name__}; a function was expected")
    return target


def make_backend(spec: str, flow: Any, arithmetic: Mapping[str, Any] | None) -> Backend:
    """Call the factory and wrap what it returns.

    Raises BackendFault if that cannot be done.
    """
    factory = load_factory(spec)
    try:
        raw = factory(flow)
    except NotImplementedError as error:
        raise BackendFault("unknown problem", "backend", f"{spec} does not know this problem: {error}") from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise raised_fault(spec, error) from error
    if raw is None:
        raise BackendFault("raised", "backend", f"{spec} returned None; a backend was expected")
    try:
        # The parent keeps the time, and kills this process.
        return Backend.of(raw, flow.states.shape, flow.model.n_parameters, arithmetic, timeout=None)
    except ValueError as error:
        raise BackendFault("raised", "backend", str(error)) from error


def _offer(backend: Backend) -> dict[str, Any]:
    """What a backend declares; a fault of its list of metrics is told, and does not end the conversation."""
    offered = {name: backend.offers(name) for name in ("states", *OPERATORS, *TRANSPOSES)}
    metrics: tuple[str, ...] = ()
    fault = None
    try:
        metrics = backend.metric_names()
    except BackendFault as error:
        fault = [error.kind, str(error)]
    return {
        "arithmetic": backend.arithmetic.to_dict(),
        "offered": offered,
        "unjudged": backend.unjudged(),
        "not_offered": dict(backend.not_offered),
        "loss_scale": [backend.loss_scale, backend.unscaled],
        "metrics": metrics,
        "metrics_fault": fault,
    }


def main() -> None:
    """Answer requests until the other side closes the pipe."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    if hasattr(os, "register_at_fork"):
        # A process that the backend forks takes no part in the conversation, and does not hold its pipes open.
        os.register_at_fork(
            after_in_child=lambda: [os.dup2(nothing, file.fileno(), inheritable=False) for file in (requests, answers)]
        )
    # What a backend prints must be there before what it was asked for, also if it crashes or is ended then.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    sys.path += [place for place in sys.argv[1:] if place not in sys.path]
    backend: Any = None
    while True:
        try:
            message, arrays = receive(requests)
        except EOFError:
            return
        try:
            if "load" in message:
                load_factory(message["load"])
                send(answers, {})
            elif "factory" in message:
                flow = rebuild(message["description"], dict(zip(message["names"], arrays, strict=True)))
                backend = make_backend(message["factory"], flow, message["arithmetic"])
                send(answers, _offer(backend))
            elif message["operator"] == "states":
                send(answers, {}, [backend.states()])
            elif message["operator"] == "metrics":
                send(answers, {}, backend.metric(message["metric"], tuple(message["shape"])))
            elif len(arrays) == 2:
                send(answers, {}, backend.answers(message["operator"], *arrays))
            else:
                send(answers, {}, [backend(message["operator"], arrays[0])])
        except BackendFault as fault:
            send(answers, {"fault": fault.kind, "message": str(fault)})


if __name__ == "__main__":
    main()
