"""A study as one HTML page: findings first, then figures with captions, tables, and the self-check.

The page needs nothing but itself: styles are inline, pictures embedded, and there is no script.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np

from kpref._version import __version__
from kpref.analysis.exhibits import Exhibit, Panel
from kpref.analysis.findings import findings
from kpref.analysis.numbers import Analysis
from kpref.analysis.resting_points import points_tables
from kpref.analysis.study import Study
from kpref.analysis.style_sheet import STYLE_SHEET
from kpref.analysis.tables import alignment_table, breakable, quantity_table, table
from kpref.analysis.wording import LEVEL, number, percent, with_interval
from kpref.spectra import Estimate

__all__ = ["exhibit_as_html", "facts_as_html", "page", "render"]

_GLOSSARY = (
    ("states", "the activity of all units at all steps of all trials"),
    ("Err", "how the loss changes if a state is nudged: the error signal, seen at the states"),
    ("K", "which changes of the dynamics the trainable parameters can make, and how strongly"),
    ("P, P*", "how the network carries a nudge forward in time, and an error signal backward"),
    ("NTK", "neural tangent kernel: gradient descent moves the states by −η NTK Err. In discrete time it is P K P*"),
    (
        "mode",
        "an eigenfunction of the NTK: a pattern over trials, time and units that moves independently of the others",
    ),
    ("effective dimension", "about how many eigenvalues carry the trace: (sum λ)² / sum λ²"),
    (
        "trace",
        "the sum of all eigenvalues: the total strength of an operator over all independent ways",
    ),
    (
        "Schmidt rank",
        "how many products of a pattern over trials and time with a pattern over units an operator is the sum of, "
        "weighted as the effective dimension is: 1 if space and time do not mix in it",
    ),
    ("operator norm of P", "the most that P can lengthen a nudge: the root of the largest eigenvalue of P P*"),
    (
        "Lyapunov exponent",
        "the rate, in nats a step, at which small differences grow (above zero) or fade (below): a factor e for each "
        "nat. Finite-time: over the length of a trial, not for ever",
    ),
    (
        "fixed point",
        "a state that stays as it is under no input. Stable if small differences from it fade in all directions, a "
        "saddle if they grow in some. Slow point: the speed is least there, but not zero",
    ),
    (
        "alignment",
        "the cosine between two operators taken as vectors: 1 if they are the same up to a factor, 0 if they have "
        "nothing in common",
    ),
    ("η", "learning rate: the parameters move by −η times the gradient of the loss"),
)
_STATUS = {"pass": "pass", "FAIL": "fail", "nothing to test": "idle"}
_CONTINUOUS_GLOSSARY = (
    ("P_s, J_s", "P and J at the stages of the method, where the linearised flow of the method is exact"),
    (
        "D = P_s J_s",
        "what a step of the parameters does to the states. The NTK is D D*; P K P*, with P and K taken at the times of "
        "the trials, tends to it as the step of the method goes to zero",
    ),
)


def render(study: Study, exhibits: Sequence[Exhibit], beside: Sequence[str] = ()) -> str:
    """The page.

    `beside`: names of the other files of the report.
    Returns HTML.
    """
    sections = [part for part in _sections(study, exhibits) if part is not None]
    body = [
        _header(study),
        _findings(study),
        _contents([(key, title) for key, title, _ in sections]),
        *(f'<section id="{key}"><h2>{escape(title)}</h2>{content}</section>' for key, title, content in sections),
        _provenance(study, beside),
    ]
    return page(f"kpref report: {', '.join(analysis.name for analysis in study.analyses)}", body)


def page(title: str, body: Sequence[str]) -> str:
    """A page of these parts, with the style of a report."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE_SHEET}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _sections(study: Study, exhibits: Sequence[Exhibit]) -> Iterator[tuple[str, str, str] | None]:
    """Key, title and content of each section, in the order of the page; None for one that has nothing to show."""
    shown: dict[str, list[Exhibit]] = {}
    for exhibit in exhibits:
        shown.setdefault(exhibit.section, []).append(exhibit)

    def section(title: str, key: str, *extra: str, lead: str = "") -> tuple[str, str, str] | None:
        own, said = shown.get(key, []), [exhibit.caption for exhibit in shown.get(key, [])]
        parts = [exhibit_as_html(exhibit, exhibit.caption not in said[:index]) for index, exhibit in enumerate(own)]
        parts += [text for text in extra if text]
        return (key, title, lead + "".join(parts)) if parts else None

    yield section("What the network does", "outputs")
    yield section("Where gradient descent can move the states", "modes")
    yield section("How strong the leading ways are", "spectra", *map(_eigenvalue_table, study.analyses))
    yield section("How many ways there are", "dimensions", quantity_table(study, "dimensions"))
    yield section("Does the network forget or amplify?", "stability", quantity_table(study, "stability"))
    yield section("Where the dynamics rest", "points", *points_tables(study))
    yield section(
        "What points the same way",
        "alignments",
        quantity_table(study, "alignments"),
        *(alignment_table(comparison) for comparison in study.comparisons),
    )
    yield section("What that means for the loss", "shares")
    yield section("Prediction and reality", "steps", *map(_step_table, study.analyses))
    if study.comparisons:
        title = "What changed between the checkpoints"
        yield section(title, "changes", _comparison_table(study), lead=_overview_table(study))
    else:
        yield "changes", "Overview", _overview_table(study)
    tables = map(_check_table, study.analyses)
    yield section("Can these numbers be trusted?", "check", *tables, lead=_verdict(study))


def _contents(sections: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title in sections)
    return (
        f'<nav aria-label="Contents"><h2>Contents</h2><ol>{items}<li><a href="#provenance">Where this comes from</a>'
        "</li></ol></nav>"
    )


def _header(study: Study) -> str:
    first = study.analyses[0]
    names = " → ".join(escape(analysis.name) for analysis in study.analyses)
    objective, integration = study.objective, study.integration
    step = "step" if integration is None else "time"
    loss = method = ""
    if objective is not None:
        loss = f" Loss: {objective.in_words(study.trials, step)}."
    if integration is not None:
        words = integration.in_words()
        method = f" {words[0].upper()}{words[1:]}."
    return (
        f'<header><p class="kicker">kpref {escape(__version__)} · K-P flow of a recurrent network</p>'
        f"<h1>What gradient descent does to the states</h1>"
        f'<p class="sub"><strong>{names}</strong><br>{escape(_model_in_words(first))}; '
        f"{study.trials.in_words(step)}.{escape(method)}{escape(loss)}</p>"
        "</header>"
    )


def _model_in_words(analysis: Analysis) -> str:
    """The network in words, with the nonlinearity of its units where it could have been another."""
    nonlinearity = getattr(analysis.flow.model, "nonlinearity", None)
    name = getattr(nonlinearity, "name", "")
    return analysis.model if not name or name in analysis.model else f"{analysis.model}; nonlinearity {name}"


def _findings(study: Study) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(study))
    notes = "".join(f"<li>{escape(note)}</li>" for note in study.notes)
    notes = f'<div class="note"><p>Mind:</p><ul>{notes}</ul></div>' if notes else ""
    glossary = _GLOSSARY + (() if study.integration is None else _CONTINUOUS_GLOSSARY)
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in glossary)
    return (
        f'<section id="findings" class="box"><h2>In short</h2><ul>{items}</ul>{notes}</section>'
        f'<details class="words"><summary>The words and symbols used here</summary><dl>{words}</dl></details>'
    )


def exhibit_as_html(exhibit: Exhibit, with_caption: bool = True) -> str:
    """Its pictures, embedded, and how to read them."""
    caption = exhibit.caption if with_caption else "Read as the figure above."
    images = "".join(_picture(panel) for panel in exhibit.panels)
    return (
        f'<figure><h3>{escape(exhibit.title)}</h3><div class="panels">{images}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _picture(panel: Panel) -> str:
    data = base64.b64encode(panel.png).decode()
    letter = f'<span class="letter">{panel.letter}</span>' if panel.letter else ""
    alt = f"{panel.letter}: {panel.description}" if panel.letter else panel.description
    kind = "panel lettered" if panel.letter else "panel"
    return f'<div class="{kind}">{letter}<img alt="{escape(alt)}" src="data:image/png;base64,{data}"></div>'


def _overview_table(study: Study) -> str:
    analyses = study.analyses

    def row(name: str, how: str, values: Sequence[str]) -> list[str]:
        return [name, *values, how]

    def optional(value: float | None) -> str:
        return "–" if value is None else number(value)

    rows = []
    if any(a.loss is not None for a in analyses):
        rows.append(row("loss", "exact", [optional(a.loss) for a in analyses]))
        if any(a.accuracy is not None for a in analyses):
            rows.append(
                row("accuracy", "exact", ["–" if a.accuracy is None else percent(a.accuracy, 2) for a in analyses])
            )
        rows.append(row("size of the error, |Err|", "exact", [optional(a.error_norm) for a in analyses]))
        rows.append(row("change of the loss per unit η", "exact", [optional(a.loss_rate) for a in analyses]))
    states, estimated = [number(a.states_rms) for a in analyses], f"estimated, {100 * LEVEL:g} % interval"
    rows += [
        row("rms of the states", "exact", states),
        row("largest eigenvalue of K", _of_kernel(analyses, _residual(analyses, "kernel_modes")),
            [number(a.kernel_values[0]) for a in analyses]),
        row("trace of K", _of_kernel(analyses, estimated), [_estimate(a.dimensions.kernel_trace) for a in analyses]),
        row("effective dimension of K", _of_kernel(analyses, estimated),
            [_estimate(a.dimensions.kernel) for a in analyses]),
        row("largest eigenvalue of P P*", _residual(analyses, "propagator_modes"),
            [number(a.propagator_modes.values[0]) for a in analyses]),
        row("largest eigenvalue of the NTK", _residual(analyses, "ntk_modes"),
            [number(a.ntk_modes.values[0]) for a in analyses]),
        row("trace of the NTK", estimated, [_estimate(a.dimensions.ntk_trace) for a in analyses]),
        row(f"share of it in the first {len(analyses[0].ntk_modes.values)} modes", "estimated",
            [percent(a.ntk_modes.values.sum() / (a.dimensions.ntk_trace.value or 1.0), 1) for a in analyses]),
    ]  # fmt: skip
    if any(a.discretisation is not None for a in analyses):
        differences = ["–" if a.discretisation is None else f"{100 * a.discretisation:.2g} %" for a in analyses]
        rows.append(row("P K P* against the NTK, on its first mode", "size of the discretisation", differences))
    head = ["", *(breakable(a.name) for a in analyses), "how it is known"]
    note = "“Exact” means up to rounding in double precision"
    note += "." if study.integration is None else ", for the discrete flow of the method."
    return table("The main numbers", head, rows, note)


def _estimate(estimate: Estimate) -> str:
    return number(estimate.value) if estimate.exact else with_interval(estimate.value, *estimate.interval(LEVEL))


def _of_kernel(analyses: Sequence[Analysis], otherwise: str) -> str:
    """How numbers of K are known: exact, unless it couples units."""
    coupled = [analysis.kernel is None for analysis in analyses]
    return otherwise if all(coupled) else f"exact, or {otherwise}" if any(coupled) else "exact"


def _residual(analyses: Sequence[Analysis], attribute: str) -> str:
    worst = max(float(getattr(analysis, attribute).residuals.max()) for analysis in analyses)
    return f"iterated, residual ≤ {number(worst, 2)}"


def _eigenvalue_table(analysis: Analysis) -> str:
    exact, propagator, ntk, shares = (
        analysis.kernel, analysis.propagator_modes, analysis.ntk_modes, analysis.shares
    )  # fmt: skip
    head = [*([] if exact is None else ["K, exact"]), "K, of its mode", "residual"]
    head = ["mode", *head, "P P*", "trial", "residual", "NTK", "residual"]
    head += ["share of |Err|²", "of the loss rate"] if shares is not None else []
    rows = []
    for index, value in enumerate(ntk.values):
        cells = [
            str(index + 1),
            *([] if exact is None else [number(exact.values[index]) if index < len(exact.values) else "0"]),
            number(analysis.kernel_modes.values[index]),
            number(analysis.kernel_modes.residuals[index], 2),
            number(propagator.values[index]),
            str(propagator.blocks[index]),
            number(propagator.residuals[index], 2),
            number(value),
            number(ntk.residuals[index], 2),
        ]
        if shares is not None:
            cells += [percent(shares.error[index], 2), percent(shares.rate[index], 2)]
        rows.append(cells)
    note = (
        "The eigenvalue of a mode is off by at most residual × largest eigenvalue. P does not mix "
        "trials, so that each of its modes belongs to one trial (counted from 0)."
    )
    return table(f"Leading eigenvalues of {analysis.name}", head, rows, note, folded=True)


def _step_table(analysis: Analysis) -> str:
    step = analysis.step
    if step is None:
        return ""
    head = ["η", "error of predicted dz", "loss, predicted change", "loss, realised change"]
    rows = [
        [number(eta), f"{number(100 * error)} %", number(predicted), number(realised)]
        for eta, error, predicted, realised in zip(
            step.etas, step.relative_error, step.loss_predicted, step.loss_realised, strict=True
        )
    ]
    slope = "not measured, too few small steps" if step.slope is None else f"{step.slope:.4f}"
    note = f"All numbers exact to rounding. Fitted slope of |realised − predicted| against η: {slope} (expected: 2)."
    return table(f"Steps of {analysis.name}", head, rows, note, folded=True)


def _comparison_table(study: Study) -> str:
    found = study.comparisons
    degrees = [np.degrees(comparison.angles) for comparison in found]
    rows = [
        ["change of the states, relative", *(f"{100 * c.states:.3g} %" for c in found), "exact"],
        ["change of the outputs, rms", *("–" if c.outputs is None else number(c.outputs) for c in found), "exact"],
        ["angles between leading NTK modes", *(f"{a[0]:.1f}° to {a[-1]:.1f}°" for a in degrees), "iterated"],
        ["shared part of their spaces", *(percent(c.overlap, 1) for c in found), "iterated"],
    ]
    head = ["", *(f"{breakable(c.before)} → {breakable(c.after)}" for c in found), "how it is known"]
    note = "Shared part: mean squared cosine of the angles, 100 % if both spaces are the same and 0 % if orthogonal."
    return table("First checkpoint against the later", head, rows, note)


def _check_table(analysis: Analysis) -> str:
    rows = [
        [
            f"{escape(check.name)}<small>{escape(check.identity)}</small>",
            f'<span class="{_STATUS[check.status]}">{escape(check.status)}</span>',
            number(check.error, 2),
            number(check.bound, 2),
            escape(_typeset(f"{check.verdict}; {check.reason}" if check.verdict else check.reason)),
        ]
        for check in analysis.check.checks
    ]
    differences = analysis.check.differences
    slope = "not measured" if differences.slope is None else f"{differences.slope:.4f}"
    derivative = "P J" if analysis.times is None else "D"
    note = (
        f"Errors are relative; u = 1.1×10⁻¹⁶ is the unit of rounding. Finite differences: slope {slope} (expected: 2), "
        f"extrapolated to step zero they differ from {derivative} by {number(differences.error, 2)}, "
        f"with an error estimate of {number(differences.error_estimate, 2)} of their own."
    )
    if analysis.discretisation is not None:
        note += (
            " P K P* at the times of the trials is not the NTK of the discrete flow, and no check: on the first mode "
            f"it differs by {100 * analysis.discretisation:.2g} %, which is the size of the discretisation."
        )
    head = ["check", "", "error", "bound", "what was found, and where the bound comes from"]
    return table(f"Self-check of {analysis.name}", head, rows, note)


def _typeset(text: str) -> str:
    """Numbers like 5.4e-13 in a sentence as 5.4×10⁻¹³."""
    return re.sub(r"\d(?:\.(\d+))?e[+-]\d+", lambda match: number(float(match[0]), 1 + len(match[1] or "")), text)


def _verdict(study: Study) -> str:
    checks = [check for analysis in study.analyses for check in analysis.check.checks]
    failed = sum(not check.passed for check in checks)
    if failed:
        text, kind = f"{failed} of {len(checks)} self-checks FAILED: do not rely on this report.", "fail"
    elif idle := sum(check.idle for check in checks):
        others = "the other" if idle == 1 else "the others"
        text = f"{len(checks) - idle} of {len(checks)} self-checks passed; {others} had nothing to test."
        kind = "idle" if idle > len(checks) / 2 else "pass"
    else:
        text, kind = f"All {len(checks)} self-checks passed.", "pass"
    return f'<p class="verdict {kind}">{text}</p>'


def _provenance(study: Study, beside: Sequence[str]) -> str:
    facts = {"kpref": __version__, **study.facts}
    files = {
        "metrics.json": "all numbers of this page",
        "metrics.csv": "the metrics as a table, with errors and intervals",
        "modes.npz": "the eigenfunctions",
    }
    said = [f"{name}: {what}" for name, what in files.items() if name in beside]
    kinds = sorted({name.rsplit(".")[-1].upper() for name in beside if name.endswith((".png", ".svg", ".pdf"))})
    said += [f"each figure as {' and '.join(kinds)}"] if kinds else []
    return (
        '<footer id="provenance"><h2>Where this comes from</h2>'
        + facts_as_html(facts)
        + f"<p>Beside this page: {escape('; '.join(said))}. "
        "Theory: J. Hazelden and others, KPFlow (arXiv:2507.06381).</p></footer>"
    )


def facts_as_html(facts: Mapping[str, str]) -> str:
    """Where a page comes from, as a list."""
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f'<dl class="facts">{rows}</dl>'
