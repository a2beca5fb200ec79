"""What an analysis is asked for: the networks, the trials, the loss and the method, and that they fit each other.

All that can be wrong or ambiguous is found here, before anything is computed.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpref._arguments import MOST_SEED, require_file
from kpref._reprs import short_repr
from kpref._terminal import one_line
from kpref._types import Array
from kpref._validate import integer, one_of, real_number, short
from kpref.analysis.alignments import MOST_TASKS
from kpref.analysis.effort import DEFAULT, FAST, Effort, chosen_effort
from kpref.analysis.factories import Made
from kpref.analysis.provenance import fingerprints
from kpref.analysis.runs import evenly_spread
from kpref.analysis.settings import Integration, Objective
from kpref.checkpoints import Checkpoint, load_checkpoint
from kpref.data import example_folder
from kpref.integrate import TABLEAUS
from kpref.loss import LOSSES, evaluate_loss
from kpref.memory import require_memory
from kpref.models import Field, Model
from kpref.readout import Readout
from kpref.space import TrajectorySpace
from kpref.trials import Trials

__all__ = ["AT", "INPUT_KINDS", "MEASURES", "MOST_SEEN", "Network", "Request", "memory_needed", "prepare"]

Spelling = Callable[[str], str]

AT = ("auto", "all", "last")
MEASURES = ("mean", "sum")
INPUT_KINDS = ("hold", "linear", "cubic")

_LANCZOS_EXTRA = 24  # tensors beyond three for each mode that the analysis of a network holds at its peak
#: Networks whose random vectors and images under K and the NTK are kept for comparisons; of more, each is made anew.
MOST_SEEN = 4
_FLOW_TENSORS = 11  # of a network that is kept for comparisons: states, outputs, coefficients of the operators
_SUFFIXES = (".safetensors", ".npz", ".pt")


@dataclass(frozen=True, eq=False)
class Network:
    """One network to be analyzed."""

    name: str  # short, and different from the others'
    origin: str  # where it came from, for errors and for the report
    model: Model
    readout: Readout | None  # of all states; those that it does not observe have weights of zero
    z0: Array | None = None  # (H,) or (B, H): initial states; None for zero

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Request:
    """An analysis that can be made."""

    networks: tuple[Network, ...]
    trials: Trials
    objective: Objective | None  # None if the trials have neither targets nor labels
    integration: Integration | None  # None for maps
    modes: int  # leading eigenpairs
    measure: str
    seed: int
    files: tuple[Path, ...]  # what was read
    facts: dict[str, str]  # where it all came from, for the report
    # what was assumed, set aside or put together when the networks were read, in sentences
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]  # these, and what will be left out and why
    effort: Effort = DEFAULT

    __repr__ = short_repr


def prepare(
    checkpoints: Any = None,
    trials: Trials | str | os.PathLike[str] | None = None,
    *,
    loss: str = "auto",
    at: str = "auto",
    modes: int | None = None,
    measure: str = "mean",
    max_trials: int | None = None,
    fast: bool = False,
    thorough: bool = False,
    seed: int = 0,
    nonlinearity: str | None = None,
    dt: float | None = None,
    method: str | None = None,
    tau: Any = None,
    input_kind: str | None = None,
    loading: Mapping[str, Any] | None = None,
    spell: Spelling = str,
    called: str = "kpref.analyze",
) -> Request:
    """Read what is asked for, and see that it fits.

    `checkpoints`, `trials`, `loss`, `at`, `modes`, `measure`, `max_trials`, `fast`, `thorough`, `seed`,
    `nonlinearity`, `dt`, `method`, `tau`, `input_kind`: as in `kpref.analyze`. `loading`: further arguments of
    `load_checkpoint`. `spell`: how an argument is called where it was given: ``dt``, or ``--dt``. `called`: what the
    report says this was asked with.
    Raises TypeError, ValueError, OSError, MemoryError, ImportError if an argument is wrong, a file cannot be read, or
    things do not fit each other.
    """
    choices = (("loss", loss, ("auto", *LOSSES)), ("at", at, AT), ("measure", measure, MEASURES))
    for name, value, allowed in choices:
        one_of(spell(name), value, allowed)
    integration = _choose_integration(dt, method, tau, input_kind, spell)
    effort = chosen_effort(fast, thorough, spell)
    modes = effort.modes if modes is None else integer(spell("modes"), modes, least=1)
    seed = integer(spell("seed"), seed, least=0, most=MOST_SEED)
    if max_trials is not None:
        max_trials = integer(spell("max_trials"), max_trials, least=1)
    arguments = {"nonlinearity": nonlinearity, "continuous": integration is not None, "tau": tau, **(loading or {})}
    _require_known(arguments, called)

    sources, source = _find_sources(checkpoints, trials, spell)
    read = (item.file if isinstance(item, Made) else item for item in (*sources, source))
    files = [item for item in read if isinstance(item, Path)]
    if isinstance(source, Path):
        require_file("the trials file", source)
    whole = source if isinstance(source, Trials) else Trials.load(source)
    used = _thinned(whole, effort.trials if max_trials is None else max_trials)
    networks, assumptions = _read_networks(sources, arguments)
    objective = _choose_objective(used, loss, at)
    for network in networks:
        _check_fit(network, used, integration, spell)
        _check_initial_states(network, used, spell)
    require_memory(memory_needed(networks, used, modes, probes=effort.probes), "this analysis")
    for network in networks:
        _check_objective(network, used, objective, measure, spell)
    shown = source if isinstance(source, Path) else _origin_of_trials(source, sources)
    facts = {
        "command line": called,
        "checkpoints": ", ".join(network.origin for network in networks),
        "trials": f"{shown} ({used.in_words()}, {used.n_inputs} inputs)",
        "time": "discrete" if integration is None else integration.in_words(),
        "initial states": "zero"
        if all(network.z0 is None for network in networks)
        else _in_a_row(arguments.get("z0") or "given"),
        "measure": measure,
        "seed": str(seed),
        **fingerprints(files),
    }
    # Paths may hold anything, and what is said of them goes into files and onto terminals.
    facts = {one_line(key): one_line(value) for key, value in facts.items()}
    told = tuple(one_line(note) for note in assumptions)
    in_short = [_fast_note(whole, used, modes, spell)] if effort is FAST else []
    notes = (*told, *(one_line(note) for note in (*in_short, *_notes(networks, used, objective))))
    return Request(
        networks, used, objective, integration, modes, measure, seed, tuple(files), facts, told, notes, effort
    )


def _in_a_row(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def memory_needed(
    networks: Sequence[Network], trials: Trials, modes: int, at_once: int = 1, probes: int = DEFAULT.probes
) -> float:
    """Bytes that an analysis holds at its peak, where so many networks are worked on at once."""
    size = trials.n_trials * trials.n_steps * max(network.model.n_states for network in networks)
    found = min(modes, size)
    seen = len(networks) if 1 < len(networks) <= MOST_SEEN else at_once
    kept = len(networks) * (found + _FLOW_TENSORS) + seen * 3 * probes / 2  # those in float32
    return 8.0 * (kept + at_once * (3 * found + _LANCZOS_EXTRA)) * size


# Arguments


def _require_known(arguments: Mapping[str, Any], called: str) -> None:
    known = inspect.signature(load_checkpoint).parameters
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise TypeError(f"{called} has no argument {unknown[0]!r}")


def _choose_integration(
    dt: float | None, method: str | None, tau: Any, input_kind: str | None, spell: Spelling
) -> Integration | None:
    """How to solve networks in continuous time; None without dt."""
    for name, value, allowed in (("method", method, tuple(TABLEAUS)), ("input_kind", input_kind, INPUT_KINDS)):
        if value is not None:
            one_of(spell(name), value, allowed)
    if dt is not None:
        chosen = {"method": method, "input_kind": input_kind}
        given = {name: value for name, value in chosen.items() if value is not None}
        return Integration(real_number(spell("dt"), dt, above=0), **given)
    for name, value in (("method", method), ("tau", tau), ("input_kind", input_kind)):
        if value is not None:
            raise ValueError(
                f"{spell(name)} is for networks in continuous time and needs {spell('dt')}, the time from one row of "
                "the trials to the next"
            )
    return None


# Files


def _find_sources(checkpoints: Any, trials: Any, spell: Spelling) -> tuple[list[Any], Any]:
    """The checkpoints one by one, folders expanded, and the trials: paths where they are files."""
    given = [example_folder()] if checkpoints is None else _listed(checkpoints)
    if not given:
        raise ValueError(f"{spell('checkpoints')} holds none, as a pattern that no file fits gives: name at least one")
    if trials is not None and not isinstance(trials, Trials | str | os.PathLike):
        raise TypeError(f"{spell('trials')} must be a path or kpref.Trials; got {short(trials)}")
    sources: list[Any] = []
    beside: list[Path] = []
    for item in given:
        if not isinstance(item, str | os.PathLike):
            sources.append(item)
            continue
        path = Path(item)
        if path.is_dir():
            sources += _first_and_last(path)
            beside.append(path / "trials.npz")
        else:
            require_file("the checkpoint", path)
            sources.append(path)
    if trials is not None:
        return sources, trials if isinstance(trials, Trials) else Path(trials)
    made = [item for item in sources if isinstance(item, Made)]
    if made:
        if made[0].trials is None:
            raise ValueError(f"{spell('trials')} is needed where the factory returns none: {made[0].spec} did not")
        return sources, made[0].trials
    if not beside:
        raise ValueError(
            f"{spell('trials')} is needed where the checkpoints are not in a folder with a trials.npz: an npz file "
            "with inputs and targets or labels"
        )
    if len({path.resolve() for path in beside}) > 1:
        raise ValueError(
            f"several folders are given, whose trials may differ: say with {spell('trials')} which are meant, such as "
            f"{beside[0]}"
        )
    return sources, beside[0]


def _origin_of_trials(trials: Trials, sources: Sequence[Any]) -> str:
    """For the report, of trials that no file holds."""
    makers = [item.spec for item in sources if isinstance(item, Made) and item.trials is trials]
    return f"made by {makers[0]}" if makers else "given in memory"


def _listed(checkpoints: Any) -> list[Any]:
    """One checkpoint or several: a pair of a model and a readout is one."""
    if isinstance(checkpoints, list) or (isinstance(checkpoints, tuple) and not _is_pair(checkpoints)):
        return list(checkpoints)
    return [checkpoints]


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Model)


def _first_and_last(folder: Path) -> list[Path]:
    """The first and the last checkpoint of a folder, one of each stem, in the order of the numbers in their names."""
    by_stem: dict[str, Path] = {}
    for suffix in reversed(_SUFFIXES):  # the first suffix wins
        for path in folder.glob(f"*{suffix}"):
            if path.name != "trials.npz" and path.is_file():
                by_stem[path.stem] = path
    found = [by_stem[stem] for stem in sorted(by_stem, key=_natural)]
    if not found:
        raise ValueError(f"the folder {folder} holds no checkpoint ({', '.join(_SUFFIXES)})")
    return [found[0], found[-1]] if len(found) > 1 else found


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name) if part]


def _thinned(trials: Trials, most: int | None) -> Trials:
    """At most so many trials, evenly spread over all, without steps that exist in none of them."""
    if most is not None and most < trials.n_trials:
        trials = trials.subset(evenly_spread(trials.n_trials, most))
    return trials.trimmed()


# Networks


def _read_networks(sources: Sequence[Any], arguments: Mapping[str, Any]) -> tuple[tuple[Network, ...], list[str]]:
    names = _short_names(sources)
    networks: list[Network] = []
    told: dict[str, list[str]] = {}  # each thing once, with the names of those that it is true of
    for name, source in zip(names, sources, strict=True):
        origin = str(source) if isinstance(source, Path) else f"{name} (given in memory)"
        if isinstance(source, Made):
            origin, source = source.spec, source.network
        if isinstance(source, Model):
            source = source, None
        if _is_pair(source):
            if not isinstance(source[1], Readout | None):
                raise TypeError(f"{name}: beside a model there must be a kpref.Readout or None; got {short(source[1])}")
            read = source if isinstance(source, Checkpoint) else Checkpoint(*source)
        else:
            read = load_checkpoint(source, **arguments)
        model, readout = read.model, read.readout
        if readout is not None:
            readout = readout.over(model.n_states, model.observed)
        networks.append(Network(name, origin, model, readout, read.z0))
        for note in read.notes:
            told.setdefault(note, []).append(name)
    return tuple(networks), [f"{', '.join(named)}: {note}." for note, named in told.items()]


def _short_names(sources: Sequence[Any]) -> list[str]:
    """A short name for each checkpoint, different from the others'."""
    stems = [_stem(source) for source in sources]
    names = [
        stem if stems.count(stem) == 1 or not isinstance(source, Path) else f"{source.absolute().parent.name}-{stem}"
        for stem, source in zip(stems, sources, strict=True)
    ]
    return [name if names.count(name) == 1 else f"{name}-{index + 1}" for index, name in enumerate(names)]


def _stem(source: Any) -> str:
    if isinstance(source, Path):
        return one_line(source.stem)
    return one_line(source.name) if isinstance(source, Made) else "network"


# What fits what


def _choose_objective(trials: Trials, loss: str, at: str) -> Objective | None:
    """Which loss fits the trials; None if they have neither targets nor labels."""
    if loss == "auto":
        if trials.targets is None and trials.labels is None:
            return None
        loss = "mse" if trials.targets is not None else "cross_entropy"
    if loss == "mse" and trials.targets is None:
        raise ValueError("the loss mse needs targets, which the trials do not have")
    if loss == "cross_entropy" and trials.labels is None:
        raise ValueError("the loss cross_entropy needs labels, which the trials do not have")
    if at == "auto":
        at = "last" if loss == "cross_entropy" and trials.labels is not None and trials.labels.ndim == 1 else "all"
    return Objective(loss, at)


def _check_fit(network: Network, trials: Trials, integration: Integration | None, spell: Spelling) -> None:
    model, readout, origin = network.model, network.readout, network.origin
    if integration is not None and trials.lengths.min() < 2:
        raise ValueError(f"{spell('dt')} needs trials of at least 2 times; got 1 at trial {trials.lengths.argmin()}")
    if isinstance(model, Field) and integration is None:
        raise ValueError(
            f"the network in {origin} is one in continuous time: {spell('dt')} is needed, the time from one row of the "
            "trials to the next"
        )
    if integration is not None and not isinstance(model, Field):
        raise ValueError(f"the network in {origin} is a map in discrete time, for which there is no {spell('dt')}")
    if trials.n_inputs != model.n_inputs:
        raise ValueError(
            f"the trials have {trials.n_inputs} input channels, but the network in {origin} takes {model.n_inputs}"
        )
    if readout is None:
        return
    if readout.n_states != model.n_states:
        seen = model.observed.stop - model.observed.start
        raise ValueError(f"the readout in {origin} takes {readout.n_states} units, but there are {seen}")
    if trials.targets is not None and trials.targets.shape[2] != readout.n_outputs:
        raise ValueError(
            f"the trials have {trials.targets.shape[2]} target channels, but the readout in {origin} gives "
            f"{readout.n_outputs}"
        )
    if trials.targets is None and trials.labels is not None and trials.labels.max() >= readout.n_outputs:
        raise ValueError(
            f"the trials have the label {trials.labels.max()}, but the readout in {origin} has {readout.n_outputs} "
            f"outputs (labels 0 to {readout.n_outputs - 1})"
        )


def _check_initial_states(network: Network, trials: Trials, spell: Spelling) -> None:
    if network.z0 is not None and network.z0.ndim == 2 and len(network.z0) != trials.n_trials:
        raise ValueError(
            f"the initial states ({spell('z0')}) in {network.origin} are those of {len(network.z0)} trials, and "
            f"{trials.n_trials} trials are analyzed"
        )


def _check_objective(
    network: Network, trials: Trials, objective: Objective | None, measure: str, spell: Spelling
) -> None:
    """The loss at states of zero: whatever it has against targets, labels and mask, it has now."""
    if objective is None or network.readout is None:
        return
    shape = (trials.n_trials, trials.n_steps, network.model.n_states)
    try:
        space = TrajectorySpace(shape, measure, lengths=trials.lengths)
        with np.errstate(over="ignore"):  # a loss that overflows is refused with its size, later
            evaluate_loss(np.zeros(shape), space, network.readout, **objective.arguments(trials))
    except ValueError as error:
        raise ValueError(
            f"the loss {objective.loss} at {spell('at')} {objective.at} does not fit the trials and the readout in "
            f"{network.origin}: {error}"
        ) from error


def _fast_note(whole: Trials, used: Trials, modes: int, spell: Spelling) -> str:
    trials = "all trials" if used.n_trials == whole.n_trials else f"{used.n_trials} of the {whole.n_trials} trials"
    return (
        f"A report in short, on {trials}, with {modes} modes and no Schmidt ranks: without {spell('fast')} it is whole."
    )


def _notes(networks: Sequence[Network], trials: Trials, objective: Objective | None) -> list[str]:
    """What the report should say about what it leaves out, and what was chosen where there was a choice."""
    notes = list(trials.notes)
    if len({network.model.n_states for network in networks}) > 1:
        notes.append(
            "The checkpoints have different numbers of units: those that differ from the first are not compared."
        )
    if objective is None:
        notes.append("The trials have neither targets nor labels: all that needs a loss is left out.")
        return notes
    for network in networks:
        if network.readout is None:
            where = Path(network.origin).name if Path(network.origin).suffix else network.name
            notes.append(f"{where} has no readout: all that needs a loss is left out for it.")
    if trials.groups is None:
        notes.append(
            "The alignment of sub-tasks is left out: no condition or label of each trial says which sub-task it "
            "belongs to."
        )
    elif len(np.unique(trials.groups)) > MOST_TASKS:
        number, what = len(np.unique(trials.groups)), "labels" if trials.conditions is None else "conditions"
        notes.append(
            f"The trials have {number} different {what}: alignment of more than {MOST_TASKS} sub-tasks is left out."
        )
    return notes
