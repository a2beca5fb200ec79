"""The files of a report on the course of a training: the page, its figures, the table."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from kpref._validate import one_of
from kpref._version import __version__
from kpref.analysis.folders import INDEX
from kpref.analysis.provenance import circumstances
from kpref.analysis.report import exhibit_as_html, facts_as_html, page
from kpref.analysis.report_files import FIGURE_FORMATS
from kpref.analysis.tables import table
from kpref.analysis.wording import number, with_error
from kpref.course.run_figures import draw_course

if TYPE_CHECKING:
    from kpref.course.measures import Curve
    from kpref.course.run_analysis import Course

__all__ = ["report_files"]

#: Columns of the table on the page.
_MOST_COLUMNS = 6


def report_files(course: Course, figures: str = "png") -> dict[str, bytes]:
    """Every file of the report, by name; `kpref.analysis.folders.INDEX`, which lists them, among them."""
    one_of("figures", figures, FIGURE_FORMATS)
    exhibits = draw_course(course.curves)
    panels = [panel for made in exhibits for panel in made.panels]
    files = {f"{panel.name}.{figures}": panel.png if figures == "png" else panel.picture(figures) for panel in panels}
    files["course.csv"] = course.table.encode()
    facts = {
        **course.request.facts,
        "checkpoints": f"{len(course['dimension_K'].steps)} of {course.path}",
        **circumstances(),
        "seconds": f"{course.seconds:.0f}",
    }
    pictures = "".join(f"<section>{exhibit_as_html(made)}</section>" for made in exhibits)
    files["report.html"] = page(
        f"kpref report: the course of {course.path.name}",
        [_header(course), pictures, f"<section>{_table(course)}</section>", _footer(facts, [*files])],
    ).encode()
    content = {
        "program": "kpref", "files": sorted([*files, INDEX]), "facts": facts,
        "steps": course["dimension_K"].steps.tolist(),
        "quantities": {name: _plain(curve) for name, curve in course.curves.items()},
    }  # fmt: skip
    files[INDEX] = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).encode()
    return files


def _header(course: Course) -> str:
    network, trials = course.request.networks[0].model, course.request.trials
    objective = course.request.objective
    loss = "" if objective is None else f" Loss: {objective.in_words(trials)}."
    said = f"{network.in_words}; {trials.in_words()}.{loss}"
    return (
        f'<header><p class="kicker">kpref {escape(__version__)} · K-P flow in the course of a training</p>'
        f"<h1>What changes while the network learns</h1>"
        f'<p class="sub"><strong>{escape(course.path.name)}</strong><br>{escape(said)} Bars: 95 % intervals over the '
        "random vectors behind an estimate; no bar: exact. Shaded: standard error from the choice of trials, which is "
        "another thing.</p></header>"
    )


def _table(course: Course) -> str:
    steps = course["dimension_K"].steps
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MOST_COLUMNS)).round().astype(int))
    rows = [
        [escape(name), *(_cell(curve, index) for index in chosen)] for name, curve in course.curves.items()
    ]  # fmt: skip
    head = ["quantity", *(f"step {steps[index]:,}" for index in chosen)]
    note = "± standard error of random vectors; in small letters that from the choice of trials. All are in course.csv."
    return table("The numbers", head, rows, note)


def _cell(curve: Curve, index: int) -> str:
    text, spread = with_error(float(curve.values[index]), float(curve.errors[index])), curve.trial_errors[index]
    return f"{text} <small>± {number(float(spread), 2)} over trials</small>" if np.isfinite(spread) else text


def _footer(facts: dict[str, str], files: list[str]) -> str:
    return (
        f'<footer id="provenance"><h2>Where this comes from</h2>{facts_as_html(facts)}<p>Beside this page: '
        f"course.csv, all numbers with their errors; each figure ({len(files) - 1}); metrics.json. Theory: J. Hazelden "
        "and others, KPFlow (arXiv:2507.06381), The Global Empirical NTK (arXiv:2605.08746).</p></footer>"
    )


def _plain(curve: Curve) -> dict[str, list[float | None]]:
    """For JSON, which has no number for what is not defined."""
    columns = {"value": curve.values, "standard_error": curve.errors, "trial_error": curve.trial_errors}
    return {
        name: [float(one) if np.isfinite(one) else None for one in column] for name, column in columns.items()
    }  # fmt: skip
