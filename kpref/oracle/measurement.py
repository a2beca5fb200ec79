"""The arithmetic of a backend, measured: what it declares is what its numbers are stored in, not what it computes in.

A factory, the function that makes a backend for a problem, is run on problems that show one source of error alone
(`kpref.oracle.profile_problems`), of the sizes and options of the problem that is to be judged: accelerators choose
kernels by shape. The trajectories give

- storage: the longest fraction among the numbers of a trajectory;
- elementary functions: the largest error of a value whose argument is exact, against extended precision. It is in units
  of the value where these explain it; else, of a function that is accurate to units of one only, in both;
- operands, sums and results of matrix products: how many bits are kept, one question for each entry of the state;
- the range: which tiny numbers are told from zero.

Everything is measured on the first products of a forward pass. What a backend does otherwise in its other operators is
for the certificates to find.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.flow import Flow
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import ELEMENTARY, Error
from kpref.oracle.backend import Backend, BackendFault
from kpref.oracle.measured import Profile
from kpref.oracle.product_problems import Bits, argument_problem, way_through
from kpref.oracle.product_sites import Site, find_site, site_with_sum, sums_terms
from kpref.oracle.profile_problems import Layout, LinearWay, Setting, linear_way, sensitivity

__all__ = ["Factory", "measure_profile"]

#: Makes a backend for a problem.
Factory = Callable[[Flow], Any]

#: Fractions of the formats there are, with the leading bit: of float8, bfloat16, float16 and TF32, sums of float8,
#: float32, float64.
_FORMATS = (4, 8, 11, 14, 24, 53)
#: Numbers of bits that products are asked for: what a format with a bit less loses, in nearly any order of a sum.
_DECISIVE = (5, 9, 12, 15, 25)
#: Exponents of the smallest normal numbers that formats have.
_RANGES = (14, 126, 1022)
#: Values of a function that are looked at, at least, and problems that are made for them, at most.
_VALUES, _PROBLEMS = 512, 6
#: Of the first step alone there are so many times as many problems.
_STEPS = 8
#: A function is seen where this part of usual errors is its own.
_SHARE = 0.3
#: Root mean square of the errors of a step that no arithmetic explains.
_ABSURD = 2.0**-4
#: Problems of products, at most, and rows that must keep a number of bits before it is believed. Half of the rows lose
#: in any sum that goes from one end to the other; of the others, and in other orders, a third lose nothing, and rows of
#: one problem have their small numbers in the same few places.
_ROUNDS, _REPEATS = 48, 12
#: Entries of a trajectory that the error analysis is made for.
_ENTRIES = 1 << 14


def measure_profile(factory: Factory, flow: Flow, seed: int = 0) -> Profile:
    """Measure the arithmetic of the backends that a factory makes.

    Parameters
    ----------
    factory : callable
        Of a Flow; returns a backend that offers `states`.
    flow : Flow
        Of a network in discrete time: the problem whose sizes and options the factory is run with.
    seed : int
        Of the problems.

    Returns
    -------
    Profile
    """
    model = flow.model
    if not isinstance(model, StepModel):
        raise TypeError(f"profiles are measured on networks in discrete time; got {model}")
    measurement = _Measurement(factory, flow, np.random.default_rng([seed, 5]))
    try:
        return measurement.profile()
    except BackendFault as fault:
        return Profile(unknown={"arithmetic": str(fault)})


def _largest_error(error: Array, relative: Array, absolute: Array) -> Error:
    """In units of the value if these explain it; else of one, and of one where these of the value do not.

    What is right to a unit of the value everywhere is explained by these, though it is righter still at one.
    """
    of_one, of_value = error / absolute, error / np.maximum(relative, np.finfo(float).tiny)
    most = float(of_one.max())
    if of_value.max() <= max(8 * most, 1.0):
        return float(of_value.max()), 0.0
    return most, float(of_one[of_value > most].max(initial=0.0))


class _Measurement:
    """Problems that a factory is run on, and what they show."""

    def __init__(self, factory: Factory, flow: Flow, generator: np.random.Generator) -> None:
        self._factory, self._flow, self._generator = factory, flow, generator
        model: Any = flow.model
        self.model = model
        self.trials, self.steps = flow.states.shape[:2]
        self.layout = Layout(self.model, self.trials)
        self.site = find_site(self.layout)
        self.storage = 2.0**-53
        self.errors: dict[str, Error] = {}
        self.unknown: dict[str, str] = {}

    def profile(self) -> Profile:
        """Everything, in an order in which each can use what is known already."""
        shown = {name: self._settings_for(name) for name in self._functions()}
        storage = self._storage()
        for name, settings in shown.items():
            self._function(name, settings)
        smallest, largest = self._range(shown.get("tanh", []))
        bits = self._products()
        plain = self.storage if storage is not None else 0.0
        sums = bits.get("sums")
        operands = [unit for kind in ("weights", "states") if (unit := bits.get(kind)) is not None]
        known = max(plain, sums or 0.0)

        def beyond(units: list[float]) -> float | None:
            coarsest = max(units, default=None)
            return None if coarsest is None else coarsest if coarsest > known else 0.0

        return Profile(
            storage, beyond(operands), sums, beyond([bits["results"]] if "results" in bits else []), smallest, largest,
            self.errors, self.unknown,
        )  # fmt: skip

    def run(self, parameters: Mapping[str, Array], inputs: Array, z0: Array) -> Array:
        """States (B, T, H) of the backend that the factory makes of a problem."""
        model = self.model.with_parameters(parameters)
        problem = Flow(model, inputs, z0, self._flow.space.mu)
        try:
            raw = self._factory(problem)
        except BackendFault:
            raise
        except Exception as error:  # of somebody else's function
            raise BackendFault("raised", "factory", f"{type(error).__name__}: {error}") from error
        shape = (self.trials, self.steps, self.model.n_states)
        backend = Backend.of(raw, shape, self.model.n_parameters, timeout=None)
        if not backend.offers("states"):
            raise BackendFault("no answer", "states", "the backend offers no states")
        return backend.states()

    # Functions

    def _functions(self) -> list[str]:
        """Elementary functions that the network's step depends on."""
        z = self._generator.standard_normal((1, 1, self.model.n_states))
        x = self._generator.standard_normal((1, 1, self.model.n_inputs))
        return [name for name in ELEMENTARY if sensitivity(self.model, z, x, name)[2].any()]

    def _storage(self) -> float | None:
        """The unit roundoff of the numbers of a trajectory, which must be one of the problem that was given.

        Weights are halved, so that nothing grows, and moved, so that a factory of another network's backends shows.
        """
        parameters = {
            name: 0.5 * self._generator.permutation(value.reshape(-1)).reshape(value.shape)
            for name, value in self.model.parameters.items()
            if value.ndim == 2
        }
        inputs = self._generator.standard_normal((self.trials, self.steps, self.model.n_inputs))
        z0 = 0.5 * self._generator.standard_normal((self.trials, self.model.n_states))
        states = self.run(parameters, inputs, z0)
        before = np.concatenate([z0[:, None], states[:, :-1]], axis=1)
        right = self.model.with_parameters(parameters).evaluate(before, inputs)
        if np.sqrt(np.mean(np.square((states - right) / np.maximum(1.0, np.abs(right))))) > _ABSURD:
            reason = "states are off by more than any arithmetic: the backend is not that of the problem it was given"
            raise BackendFault("no answer", "factory", reason)
        values = np.abs(states[states != 0])
        values = values[values > 2.0**-14]  # below, float16 has fewer bits
        if values.size < 8:
            self.unknown["storage"] = "too few numbers"
            return None
        fractions = (np.frexp(values)[0] * 2.0**53).astype(np.int64)
        trailing = np.log2((fractions & -fractions).astype(float)).astype(int)
        length = 53 - int(trailing.min())
        self.storage = 2.0 ** -next(known for known in _FORMATS if known >= length)
        return self.storage

    def _settings_for(self, name: str) -> Sequence[Setting | Site]:
        """Where a function is seen: of what inputs drive, or else of what weights make of states."""
        settings = self.layout.settings_for(name, self._generator)
        if settings or self.layout.driven or self.site is None or not (self.site.linear and self.site.by_trial):
            return settings
        parameters, x, z0 = argument_problem(self.site, self._generator)
        model = self.model.with_parameters(parameters)
        _, share, _ = sensitivity(model, z0, np.tile(x, (len(z0), 1)), name)
        return [self.site] if share[:, self.site.columns].mean() > _SHARE else []

    def _function(self, name: str, settings: Sequence[Setting | Site]) -> None:
        """Note the largest error of a function: the smallest that any setting and part of the state shows.

        What other functions add that are not saturated everywhere makes it larger.
        """
        found = [error for setting in settings for error in self._errors_in(name, setting)]
        if found:
            self.errors[name] = min(found, key=max)
        else:
            self.unknown[name] = "no state of this network shows it alone"

    def _errors_in(self, name: str, setting: Setting | Site) -> list[Error]:
        """The largest error of a function as each part of the state shows it."""
        parts = np.split(np.arange(self.model.n_states), np.cumsum([v.width for v in self.model.program.new])[:-1])
        found: list[list[Array]] = [[] for _ in parts]
        for _ in range(_PROBLEMS * (_STEPS if isinstance(setting, Site) else 1)):
            error, relative, absolute, clear = self._errors_of(name, setting)
            for columns, values in zip(parts, found, strict=True):
                keep = clear[..., columns]
                values.append(np.stack([array[..., columns][keep] for array in (error, relative, absolute)]))
            if min(sum(part.shape[1] for part in values) for values in found if values[0].size) >= _VALUES:
                break
        joined = (np.concatenate(values, axis=1) for values in found)
        return [_largest_error(*values) for values in joined if values.shape[1] >= _VALUES // 16]

    def _errors_of(self, name: str, setting: Setting | Site) -> tuple[Array, Array, Array, Array]:
        """Errors beyond the rounding of states, what a unit of the function's value and of one would make, and where.

        Of a few steps, (steps, B, H).
        """
        parameters, inputs, z0 = self._problem_of(setting)
        states = self.run(parameters, inputs, z0)
        model = self.model.with_parameters(parameters)
        first = isinstance(setting, Site) or self.layout.remembers(model, np.moveaxis(inputs[:, :1], 1, 0))
        steps = 1 if first else max(1, min(self.steps, _ENTRIES // z0.size))
        z = np.moveaxis(np.concatenate([z0[:, None], states[:, :-1]], axis=1)[:, :steps], 1, 0)
        x = np.moveaxis(inputs[:, :steps], 1, 0)
        relative, share, absolute = sensitivity(model, z, x, name)
        right = _extended(model, z, x)
        error = np.abs(np.moveaxis(states[:, :steps], 1, 0) - right) - self.storage * np.abs(right)
        clear = (share > _SHARE) & (absolute > 0.25 * absolute.max())
        if isinstance(setting, Setting):
            clear &= self.layout.varies(model, z, x)
        return np.maximum(error, 0.0).astype(float), self.storage * relative, self.storage * absolute, clear

    def _problem_of(self, setting: Setting | Site) -> tuple[dict[str, Array], Array, Array]:
        """Parameters, inputs (B, T, n_in) and initial states."""
        if isinstance(setting, Site):
            parameters, x, z0 = argument_problem(setting, self._generator)
            return parameters, np.tile(x, (self.trials, self.steps, 1)), z0
        parameters, inputs = self.layout.function_problem(setting, (self.trials, self.steps), self._generator)
        return parameters, inputs, np.zeros((self.trials, self.model.n_states))

    def _range(self, settings: Sequence[Setting | Site]) -> tuple[float | None, float | None]:
        """Smallest normal and largest number: the tiniest of numbers that are told from zero."""
        for tell in self._tellers(settings):
            told = self._all_told(tell)
            if told is not None:
                widest = max(itertools.takewhile(told.__getitem__, _RANGES), default=0)
                return (2.0**-widest, float(2.0**widest * (4 - 4 * self.storage))) if widest else (None, None)
        self.unknown["range"] = "no state of this network shows tiny numbers"
        return None, None

    def _tellers(self, settings: Sequence[Setting | Site]) -> Iterator[Callable[[int], dict[int, bool]]]:
        """What tells tiny numbers from zero: a tanh that is right to units of its value, or multiples of them."""
        if settings and not self.errors.get("tanh", (0.0, 1.0))[1]:
            first = settings[0]
            if isinstance(first, Site):
                yield partial(self._told_by_multiples, way_through(first))
            else:
                yield partial(self._told_by_tanh, first)
        if way := linear_way(self.layout):
            yield partial(self._told_by_multiples, way)

    @staticmethod
    def _all_told(tell: Callable[[int], dict[int, bool]]) -> dict[int, bool] | None:
        """For each exponent whether numbers so tiny are told from zero; None if some are not shown."""
        told: dict[int, bool] = {}
        for turn in range(len(_RANGES)):
            for exponent, kept in tell(turn).items():
                told[exponent] = told.get(exponent, True) and kept
            if len(told) == len(_RANGES):
                return told
        return None

    def _told_by_multiples(self, way: LinearWay, turn: int) -> dict[int, bool]:
        """As `_told_by_tanh`, by the first step of a way on which nothing is smaller than the number in question."""
        exponents = np.asarray(_RANGES)[::-1][(turn + np.arange(self.trials)) % len(_RANGES)]
        x, z0 = way.start(2.0 ** -exponents.astype(float) / way.least)
        inputs = np.zeros((self.trials, self.steps, self.model.n_inputs))
        inputs[:, 0] = x
        right = self.model.with_parameters(way.parameters).evaluate(z0, x)[:, way.columns]
        first = self.run(way.parameters, inputs, z0)[:, 0, way.columns]
        kept = (np.abs(first - right) < 0.5 * np.abs(right)).all(axis=1)
        return {exponent: bool(kept[exponents == exponent].all()) for exponent in _RANGES if exponent in exponents}

    def _told_by_tanh(self, setting: Setting, turn: int) -> dict[int, bool]:
        """Of the exponents of `_RANGES` that a problem shows, whether numbers so tiny are told from zero.

        `turn`: which of them comes first. Few trials show few.
        """
        parameters, inputs = self.layout.function_problem(setting, (self.trials, self.steps), self._generator)
        varied = self.layout.driven[setting.varied]
        block = parameters[varied.parameter][varied.rows, varied.columns]
        block[block != 0] = 1.0
        exponents = np.asarray(_RANGES)[self._generator.permuted(np.arange(inputs[..., 0].size) % len(_RANGES))]
        exponents = exponents.reshape(self.trials, self.steps)
        # From zero, where nothing is added to it, the first step shows the tiniest.
        exponents[:, 0] = np.asarray(_RANGES)[::-1][(turn + np.arange(self.trials)) % len(_RANGES)]
        sizes = 2.0 ** -exponents[..., None].astype(float)
        inputs[..., self.layout.free_channels.start :] = sizes
        z0 = np.zeros((self.trials, self.model.n_states))
        states = self.run(parameters, inputs, z0)
        model = self.model.with_parameters(parameters)
        before = np.concatenate([z0[:, None], states[:, :-1]], axis=1)
        right, none = model.evaluate(before, inputs), model.evaluate(before, 1.0 * (inputs == 1))
        seen = np.abs(right - none) > 0.5 * np.maximum(sizes, np.abs(right))
        kept = np.abs(states - right) < np.abs(states - none)
        asked = {exponent: seen & (exponents == exponent)[..., None] for exponent in _RANGES}
        return {exponent: bool(kept[here].all()) for exponent, here in asked.items() if here.any()}

    # Products

    def _products(self) -> dict[str, float]:
        """Unit roundoffs of sums, operands (weights and states) and results."""
        site = self.site
        if site is None:
            alone = "no state of this network shows them alone"
            few = "none of this network has three terms that depend on states"
            self.unknown["products"] = alone if sums_terms(self.model.program) else few
            return {}
        longest = 28 if self.storage == 2.0**-11 else 52
        stored = min(longest, int(-np.log2(self.storage)) - 1)
        kinds = {"sums": longest, "results": longest, "weights": stored, "states": stored}
        if not site.shows_states:
            del kinds["states"]  # weights say what operands are rounded to
        if site.added is None:
            del kinds["results"]
        answers: dict[str, dict[int, list[bool]]] = {kind: {} for kind in kinds}
        self._ask_all(site, kinds, answers)
        if site.added is None:
            kinds["results"], answers["results"] = longest, {}
            if (other := site_with_sum(self.layout)) is not None:
                self._ask_all(other, {"results": longest}, answers)
            else:
                del kinds["results"]
                self.unknown["results"] = "nothing is added to those that a state of this network shows"
        return {kind: unit for kind in kinds if (unit := self._unit_of(kind, answers[kind])) is not None}

    def _ask_all(self, site: Site, kinds: Mapping[str, int], answers: dict[str, dict[int, list[bool]]]) -> None:
        """Ask for numbers of bits of each kind, up to so many, until nothing is open."""
        inputs = np.zeros((self.trials, self.steps, self.model.n_inputs))
        inputs[..., 0] = 1.0
        for _ in range(_ROUNDS):
            wanted = {kind: _open(answers[kind], most) for kind, most in kinds.items()}
            if not any(wanted.values()):
                break
            self._ask(site, Bits.make(site, wanted, self._generator), inputs, answers)

    def _unit_of(self, kind: str, answers: Mapping[int, list[bool]]) -> float | None:
        """The unit roundoff that answers speak of."""
        lost = [bits for bits, kept in answers.items() if not all(kept)]
        if lost:
            return 2.0 ** (1 - min(lost))
        longest = max(answers, default=0)
        if kind in ("weights", "states") and longest:
            return self.storage
        if longest > 24:
            return 2.0**-53
        self.unknown[kind] = f"kept to {longest} bits, beyond which nothing shows"
        return None

    def _ask(self, site: Site, problem: Bits, inputs: Array, answers: dict[str, dict[int, list[bool]]]) -> None:
        """Run a problem of products and note what was kept: one answer a row, in which all trials agree or are lost."""
        first = self.run(problem.parameters, inputs, problem.z0)[:, 0]
        right, lost = (
            self.model.with_parameters(parameters).evaluate(z0, inputs[:, 0])[:, site.columns]
            for parameters, z0 in ((problem.parameters, problem.z0), (problem.lost_parameters, problem.lost_z0))
        )
        mine = first[:, site.columns]
        of_value = max((error[0] for error in self.errors.values()), default=1.0)
        # Where the value is small: of functions that vanish at zero.
        of_one = max((error[1] for name, error in self.errors.items() if name in ("tanh", "erf")), default=0.0)
        noise = self.storage * np.maximum((of_value + 1) * np.abs(right), of_one)
        gap = np.abs(right - lost)
        kept = np.abs(mine - right) < np.abs(mine - lost)
        clear = (gap > 8 * noise) & (np.minimum(np.abs(mine - right), np.abs(mine - lost)) < gap / 4)
        for unit, kind in enumerate(problem.kinds):
            for bits in set(problem.bits[clear[:, unit], unit]).intersection(_DECISIVE):
                same = clear[:, unit] & (problem.bits[:, unit] == bits)
                answers[kind].setdefault(int(bits), []).append(bool(kept[same, unit].all()))


def _open(answers: Mapping[int, list[bool]], most: int) -> list[int]:
    """Numbers of bits that must still be asked for: the middle of those that are open, then its neighbours.

    What keeps a number of bits keeps fewer, what loses it loses more.
    """
    lost = min((bits for bits, kept in answers.items() if not all(kept)), default=most + 1)
    kept = max((bits for bits, found in answers.items() if len(found) >= _REPEATS and all(found)), default=0)
    left = [bits for bits in _DECISIVE if kept < bits < lost]
    middle = len(left) // 2
    return left[middle : middle + 1]


def _extended(model: Any, z: Array, x: Array) -> Array:
    """The next state in extended precision, where the network's functions have it."""

    def wide(values: Array) -> Array:
        return np.asarray(values, dtype=np.longdouble)

    try:
        parameters = {name: wide(value) for name, value in model.parameters.items()}
        return np.asarray(model._evaluate(parameters, wide(z), wide(x)))
    except TypeError:  # functions of SciPy's
        return np.asarray(model.evaluate(z, x))
