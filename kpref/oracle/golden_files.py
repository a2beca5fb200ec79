"""Golden folders: a problem and probes as files, answered by a backend in any language, judged from its files.

Format ``kpref-golden``, version 1. Arrays are in npz files (zip archives of npy arrays, C order, little-endian), in
float64 for the arithmetic float64, float16 for float16 and float32 for the others; each number is exactly one that
the arithmetic can hold.

    manifest.json        {"format": "kpref-golden", "version": 1, "kpref": version of kpref, "arithmetic": name,
                         "seed": number, "problem": {"model", "options", "parameters", "trainable"},
                         "shape": {"trials", "steps", "states", "inputs", "parameters"},
                         "probes": {operator: how many}}
    README.md            what is asked for, for whoever answers
    problem.npz          inputs (B, T, n_in), z0 (B, H), mu (B, T): the weights of the measure, states (B, T, H): the
                         reference's trajectory, and parameter/<name> for each parameter
    probes/<op>.npz      probes (count, B, T, H), (count, M) for J, D and gradient_T, (count, B, H) for D_z0
    answers/<op>.npz     from the other side: answers (count, B, T, H), (count, M) for J_T, gradient and D_T,
                         (count, B, H) for D_z0_T: the operator applied to each probe, in order. A file that is not
                         there means: not offered
    answers/states.npz   from the other side, optional: states (B, T, H). If it is there, it is verified, and taken as
                         the point of linearisation; if not, problem.npz's own states are

    answers/metrics.npz  from the other side, optional: an entry for each metric of `kpref.oracle.metrics`, a number or
                         (H, H), and <name>.standard_error beside it where it is an estimate

Operators and their meaning are those of `kpref.oracle.backend`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._archives import read_npz, replacing
from kpref._arguments import require_file, require_movable
from kpref._locks import create_temporary_folder, dead_folders, prefix_for
from kpref._types import Array
from kpref._validate import path_like
from kpref._version import __version__
from kpref.flow import Flow, require_noiseless_flow
from kpref.oracle.adapters import flow_backend
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic, get_arithmetic
from kpref.oracle.backend import OPERATORS, TRANSPOSES, Backend, BackendFault, LocalBackend
from kpref.oracle.metrics import METRICS
from kpref.oracle.problem import describe, rebuild, rounded
from kpref.oracle.verdict import Check, Report
from kpref.oracle.verification import verify

__all__ = ["FolderBackend", "check_golden", "export_golden", "folder_backend"]

FORMAT = "kpref-golden"
_STANDARD_ERROR = ".standard_error"
VERSION = 1

_README = """# Problem for a backend, made by kpref {kpref}

Apply your operators to the probes, write the answers, and let kpref judge them: `kpref golden check` on this folder.

Everything is in npz files (zip archives of npy arrays), in {dtype}; compute in {arithmetic}. All arrays are C order.
B = {trials} trials, T = {steps} steps, H = {states} units, n_in = {inputs} inputs, M = {parameters} parameters.

`problem.npz`: the network ({model}) and what it runs on.

- `parameter/<name>`, laid out as in PyTorch; the parameter vector is {trainable}, each raveled, one after the other
- `inputs` (B, T, n_in), `z0` (B, H), `mu` (B, T): weights of the measure, Mu below
- `states` (B, T, H): z[1..T] as kpref computes it

`probes/<operator>.npz`: `probes` (count, ...). For each write `answers/<operator>.npz` with `answers` (count, ...),
the operator applied to each probe, in the same order. A file that you leave out is reported as not offered.

| operator | answer | what it is |
| --- | --- | --- |
| P | (count, B, T, H) | y[n] = A[n] y[n-1] + q[n], y[-1] = 0; A[n]: derivative of step n by the state before it |
| P_T | (count, B, T, H) | l[n] = A[n+1]^T l[n+1] + g[n], backwards |
| P_inverse | (count, B, T, H) | q[n] = y[n] - A[n] y[n-1] |
| J | (count, B, T, H) | from parameter vectors: derivative of each step by the parameters, its start held fixed |
| J_T | (count, M) | the transpose of J |
| K | (count, B, T, H) | J J^T Mu q |
| NTK | (count, B, T, H) | P J J^T P^T Mu q |
| gradient | (count, M) | J^T P^T Mu Err |
| P_inverse_T | (count, B, T, H) | q[n] = g[n] - A[n+1]^T g[n+1] |
| D | (count, B, T, H) | from parameter vectors: P J, the derivative of the trajectory by the parameters |
| D_T | (count, M) | J^T P^T g |
| D_z0 | (count, B, T, H) | from initial states (B, H): the derivative of the trajectory by them |
| D_z0_T | (count, B, H) | its transpose |
| K_T, NTK_T | (count, B, T, H) | Mu J J^T q, Mu P J J^T P^T q |
| gradient_T | (count, B, T, H) | from parameter vectors: Mu P J |

Optionally `answers/metrics.npz`, with any of these entries: numbers, or matrices (H, H) over units. An estimate has its
standard error beside it, `<name>.standard_error`.

{metrics}

Linearise at your own trajectory and write it to `answers/states.npz` as `states` (B, T, H), or leave that out and
linearise at `states` of `problem.npz`.
"""


def export_golden(
    path: str | os.PathLike[str], flow: Flow, arithmetic: str | Arithmetic = "float64", seed: int = 0
) -> None:
    """Write a golden folder, whole or not at all.

    Parameters
    ----------
    path : path
        A new or an empty folder. What processes left that died while they wrote one to this path is removed.
    flow : Flow
        Of a network in discrete time.
    arithmetic : str or Arithmetic
        What the backend will compute in.
    seed : int
        Of the probes.

    Raises
    ------
    OSError
        If the folder cannot be made, is not empty, or is a mount point or the current folder.
    TypeError, ValueError
        As `kpref.oracle.verify`.
    """
    folder, arithmetic = path_like("path", path), get_arithmetic(arithmetic)
    require_noiseless_flow(flow)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: golden files go into a new one")
    if folder.exists():
        require_movable(folder)
    with _whole_folder(folder) as new:
        _export(new, flow, arithmetic, seed)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of an empty or of no folder when the block ends, and vanishes if it fails."""
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    parent, prefix = target.parent, f"{prefix_for(target)}golden-"
    for left in dead_folders(parent, prefix):
        shutil.rmtree(left, ignore_errors=True)
    try:
        staging, lock = create_temporary_folder(parent, prefix)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    try:
        new = staging / "new"
        new.mkdir()
        yield new
        os.rename(new, target)
    except OSError as error:
        if not str(error.filename).startswith(str(staging)):
            raise
        shown = str(error.filename).replace(str(staging / "new"), str(folder))
        raise OSError(error.errno, error.strerror, shown) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def _export(folder: Path, flow: Flow, arithmetic: Arithmetic, seed: int) -> None:
    problem = rounded(flow, arithmetic)
    states = _rounded_states(problem, arithmetic)
    recorder = _Recorder(problem, arithmetic, states)
    verify(recorder, problem, seed=seed)
    description, arrays = describe(problem)
    shape = dict(zip(("trials", "steps", "states"), problem.states.shape, strict=True))
    shape |= {"inputs": problem.model.n_inputs, "parameters": problem.model.n_parameters}
    manifest = {
        "format": FORMAT, "version": VERSION, "kpref": __version__, "seed": seed,
        "arithmetic": arithmetic.name if ARITHMETICS.get(arithmetic.name) == arithmetic else arithmetic.to_dict(),
        "problem": description, "shape": shape,
        "probes": {operator: len(tensors) for operator, tensors in recorder.asked.items()},
    }  # fmt: skip
    dtype = _format(arithmetic)
    (folder / "probes").mkdir()
    (folder / "answers").mkdir()
    # The measure is part of the problem and not of its arithmetic: it stays in float64.
    _write_npz(folder / "problem.npz", {**_cast({**arrays, "states": states}, dtype), "mu": arrays["mu"]})
    for operator, tensors in recorder.asked.items():
        _write_npz(folder / "probes" / f"{operator}.npz", {"probes": np.stack(tensors).astype(dtype)})
    words = {**shape, "kpref": __version__, "arithmetic": arithmetic.name, "dtype": dtype.name}
    words["metrics"] = "\n".join(f"- `{name}`: {metric.meaning}, {metric.equation}" for name, metric in METRICS.items())
    words |= {"model": problem.model, "trainable": ", ".join(problem.model.trainable)}
    _write(folder / "README.md", _README.format(**words).encode())
    _write(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _format(arithmetic: Arithmetic) -> np.dtype[Any]:
    """The shortest format of NumPy that holds the numbers of an arithmetic."""
    for name in ("<f2", "<f4"):
        form = np.finfo(name)
        if arithmetic.states >= float(form.epsneg) and arithmetic.largest <= float(form.max):
            return np.dtype(name)
    return np.dtype("<f8")


def check_golden(path: str | os.PathLike[str]) -> Report:
    """The verdict on the answers in a golden folder.

    Raises
    ------
    OSError, ValueError
        If the folder is not one, is of another version, or a file in it is damaged.
    """
    flow, manifest, _ = _read_problem(path_like("path", path))
    backend = folder_backend(path)
    report = verify(backend, flow, seed=manifest["seed"])
    if backend.has_states:
        return report
    # The point of linearisation came from us: that it is right says nothing about the backend.
    first = report.checks[0]
    blank = Check(first.identifier, first.operator, first.meaning, first.equation, "not offered")
    return replace(report, checks=(blank, *(check for check in report.checks if check.operator != "states")))


def folder_backend(path: str | os.PathLike[str]) -> FolderBackend:
    """The answers in a golden folder as a backend, to be verified on the folder's own problem and seed.

    Its `states` are the folder's own where the other side wrote none.

    Raises
    ------
    OSError, ValueError
        As `check_golden`.
    """
    folder = path_like("path", path)
    flow, manifest, states = _read_problem(folder)
    return FolderBackend(folder, flow, manifest, states)


class FolderBackend(Backend):
    """Answers from files; see `folder_backend`."""

    def __init__(self, folder: Path, flow: Flow, manifest: Mapping[str, Any], states: Array) -> None:
        self.shape = (flow.states.shape[0], flow.states.shape[1], flow.states.shape[2])
        self.n_parameters = flow.model.n_parameters
        self.arithmetic = get_arithmetic(manifest["arithmetic"])
        self._folder = folder
        own = self._read_answers("states", "states")
        #: Whether the other side wrote states of its own.
        self.has_states: bool = own is not None
        self._states = states if own is None else own
        self._probes = {
            operator: np.asarray(_entry(folder / "probes" / f"{operator}.npz", "probes"), dtype=np.float64)
            for operator in manifest["probes"]
            if operator in OPERATORS
        }
        self._answers = {operator: self._read_answers(operator, "answers") for operator in self._probes}
        file = folder / "answers" / "metrics.npz"
        self._metrics: dict[str, Array] = read_npz(file)[0] if file.exists() else {}

    def _read_answers(self, operator: str, name: str) -> Array | None:
        file = self._folder / "answers" / f"{operator}.npz"
        return _entry(file, name) if file.exists() else None

    def offers(self, operator: str) -> bool:
        """See `Backend.offers`."""
        return operator == "states" or self._answers.get(operator) is not None

    def states(self) -> Array:
        """See `Backend.states`."""
        return self._local("states", lambda: self._states).states()

    def __call__(self, operator: str, tensor: Array) -> Array:
        """See `Backend.__call__`: the answer to this probe, or to one that differs by sign and a power of two."""
        answers, probes = self._answers[operator], self._probes[operator]
        assert answers is not None
        if len(answers) != len(probes):
            raise BackendFault(
                "shape", operator, f"answers/{operator}.npz has {len(answers)} answers to {len(probes)} probes"
            )
        index, scale = self._find(operator, tensor)
        return self._local(operator, lambda _: answers[index])(operator, tensor) * scale

    def unjudged(self) -> dict[str, str]:
        """See `Backend.unjudged`: answers to questions that were not asked."""
        known = {"states", "metrics", *self._probes}
        names = sorted(file.stem for file in (self._folder / "answers").glob("*.npz") if file.stem not in known)
        return {name: f"answers/{name}.npz is not judged: the folder has no probes of this name" for name in names}

    def metric_names(self) -> tuple[str, ...]:
        """See `Backend.metric_names`."""
        return tuple(name for name in self._metrics if not name.endswith(_STANDARD_ERROR))

    def metric(self, name: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """See `Backend.metric`."""
        value = self._metrics[name], self._metrics.get(f"{name}{_STANDARD_ERROR}", np.zeros(shape))
        return self._local("metrics", {name: value}).metric(name, shape)

    def _find(self, operator: str, tensor: Array) -> tuple[int, float]:
        """Which probe the tensor is. The scale of a probe depends, by a power of two, on the states."""
        probes = self._probes[operator]
        for index, probe in enumerate(probes):
            if np.array_equal(probe, tensor):
                return index, 1.0
        for index, probe in enumerate(probes):
            size, own = float(np.abs(tensor).max()), float(np.abs(probe).max())
            if size > 0 and own > 0:
                for scale in (size / own, -size / own):
                    if abs(np.frexp(scale)[0]) == 0.5 and np.array_equal(scale * probe, tensor):
                        return index, scale
        raise BackendFault(
            "no answer",
            operator,
            f"the folder lacks a probe of {operator} that this version of kpref needs: export anew",
        )

    def _local(self, operator: str, target: Any) -> LocalBackend:
        """The checks of answers are those of any other backend."""
        raw = SimpleNamespace(**{operator: target})
        return LocalBackend(raw, self.shape, self.n_parameters, self.arithmetic, None)


class _Recorder(Backend):
    """kpref's own operators, and what they are asked."""

    def __init__(self, flow: Flow, arithmetic: Arithmetic, states: Array) -> None:
        self.shape = (flow.states.shape[0], flow.states.shape[1], flow.states.shape[2])
        self.n_parameters, self.arithmetic = flow.model.n_parameters, arithmetic
        own = flow_backend(flow, "float64")
        own.states = states
        self._own = LocalBackend(own, self.shape, self.n_parameters, arithmetic, None)
        self.asked: dict[str, list[Array]] = {}

    def offers(self, operator: str) -> bool:
        return operator not in TRANSPOSES and self._own.offers(operator)

    def states(self) -> Array:
        return self._own.states()

    def __call__(self, operator: str, tensor: Array) -> Array:
        tensors = self.asked.setdefault(operator, [])
        if not any(np.array_equal(tensor, other) for other in tensors):
            tensors.append(tensor.copy())
        return self.arithmetic.round_state(self._own(operator, tensor))


def _rounded_states(flow: Flow, arithmetic: Arithmetic) -> Array:
    """A trajectory of numbers that the arithmetic holds, each step right to its last bit from where it starts."""
    model: Any = flow.model
    z, states = flow.z0, []
    for x in np.moveaxis(flow.inputs, 1, 0):
        z = arithmetic.round_state(model.step(z, x))
        states.append(z)
    return np.stack(states, axis=1)


def _read_problem(folder: Path) -> tuple[Flow, dict[str, Any], Array]:
    """The problem, the manifest, and the folder's own trajectory."""
    file = folder / "manifest.json"
    require_file("the manifest", file)
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}")
        version, description = manifest["version"], manifest["problem"]
        manifest["seed"], manifest["arithmetic"], manifest["probes"]  # noqa: B018
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is not the manifest of a golden folder: {error}") from error
    if version != VERSION:
        raise ValueError(f"{folder} is a golden folder of version {version}; this kpref reads version {VERSION}")
    arrays, _ = read_npz(folder / "problem.npz")
    flow = rebuild(description, arrays)
    states = arrays.get("states")
    if states is None or states.shape != flow.states.shape:
        raise ValueError(f"{folder / 'problem.npz'} has no entry 'states' of shape {flow.states.shape}")
    return flow, manifest, states.astype(np.float64)


def _entry(file: Path, name: str) -> Array:
    arrays, _ = read_npz(file)
    if name not in arrays:
        raise ValueError(f"{file} has no entry {name!r}; it holds {', '.join(arrays) or 'nothing'}")
    if arrays[name].ndim == 0:
        raise ValueError(f"{file}: entry {name!r} is a single number; an array was expected")
    return arrays[name]


def _cast(arrays: Mapping[str, Array], dtype: npt.DTypeLike) -> dict[str, Array]:
    return {name: value.astype(dtype) for name, value in arrays.items()}


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    _write(path, file.getvalue())


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)
