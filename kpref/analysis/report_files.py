"""The files of a report: the page, its figures, the numbers."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kpref.analysis.numbers import Analysis
from kpref.analysis.provenance import circumstances
from kpref.analysis.sections import Sections, in_words, together
from kpref.analysis.study import Study

__all__ = ["FIGURE_FORMATS", "report_files"]

#: Formats of the figures beside the page.
FIGURE_FORMATS = ("png", "svg", "pdf")


def report_files(
    study: Study,
    started: float,
    tick: Callable[[object], object],
    *,
    figures: str = "png",
    save_modes: bool = False,
    forked: bool = False,
) -> dict[str, bytes]:
    """Every file of the report, by name.

    `started`: `time.monotonic` at the start of the work. `tick`: called before each figure. `figures`: one of "png",
    "svg", "pdf"; format of the figures beside the page. `save_modes`: whether to add the eigenfunctions, ``modes.npz``,
    which may be the largest file by far. `forked`: whether a forked process may draw some of the figures.
    `kpref.analysis.folders.INDEX` is among them, which lists the others.
    """
    # Here and not above: matplotlib is slow to import, and `kpref analyze --help` does not need it.
    from kpref.analysis.figures import draw_exhibits
    from kpref.analysis.report import render
    from kpref.analysis.report_data import metrics, metrics_table

    sections = Sections(tick)
    sections("figures")
    exhibits = draw_exhibits(study, tick, forked)
    files: dict[str, bytes] = {}
    pictures: dict[str, str] = {}
    for exhibit in exhibits:
        for panel in exhibit.panels:
            name = f"{panel.name}.{figures}"
            files[name] = panel.png if figures == "png" else panel.picture(figures)
            pictures[name] = f"{exhibit.title}, {panel.letter or 'figure'}: {panel.description}"
            tick(panel)
    spent = together([*(analysis.seconds for analysis in study.analyses), study.seconds, sections.closed()])
    seconds = f"{time.monotonic() - started:.0f}; of each part, networks added: {in_words(spent)}"
    study.facts.update(circumstances(), seconds=seconds)
    files["metrics.csv"] = metrics_table(study).encode()
    if save_modes:
        files["modes.npz"] = _modes_file(study.analyses)
    files["report.html"] = render(study, exhibits, [*files, "metrics.json"]).encode()
    names = sorted([*files, "metrics.json"])
    content = {"program": "kpref", "files": names, "figures": pictures, **metrics(study)}
    files["metrics.json"] = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).encode()
    return files


def _modes_file(analyses: Sequence[Analysis]) -> bytes:
    arrays: dict[str, Any] = {}
    for analysis in analyses:
        prefix = f"{analysis.name}/"
        arrays[f"{prefix}mu"] = analysis.space.mu
        if analysis.times is not None:
            arrays[f"{prefix}times"] = analysis.times
        arrays[f"{prefix}ntk_values"] = analysis.ntk_modes.values
        # Single precision halves a large file; the eigenfunctions are orthonormal to 1e-7 all the same.
        arrays[f"{prefix}ntk_modes"] = analysis.ntk_modes.vectors.astype(np.float32)
        arrays[f"{prefix}propagator_values"] = analysis.propagator_modes.values
        arrays[f"{prefix}propagator_modes"] = analysis.propagator_modes.vectors.astype(np.float32)
        arrays[f"{prefix}propagator_trials"] = analysis.propagator_modes.blocks
        arrays[f"{prefix}kernel_values"] = analysis.kernel_values
        arrays[f"{prefix}kernel_modes"] = analysis.kernel_modes.vectors.astype(np.float32)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
