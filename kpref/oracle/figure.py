"""Where a backend errs: a map over trials and time for each operator, as an image."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from kpref.oracle.verdict import Check, Report

__all__ = ["draw_report"]

#: Decades below the bound at which the colours end.
_LOWEST = -4.0

_COLUMNS = 3

#: White to blue below the bound, yellow to brown above it, with a break between them.
_COLORS = LinearSegmentedColormap.from_list(
    "kpref-verdict", [(0.0, "#fbfcfe"), (0.5, "#5b9bd0"), (0.5, "#fed976"), (0.75, "#e8590c"), (1.0, "#5f1d02")]
)


def draw_report(report: Report) -> bytes:
    """Maps of the largest error over units, in multiples of the bound, over trials (down) and time (across).

    A map for every operator's own check that has one, and for every other check that found a defect. White to
    blue is below the bound, yellow to brown above. A cross marks the first violation.

    Returns a PNG image.
    Raises ValueError if no check of the report has a map.
    """
    checks = [check for check in report.checks if check.map is not None and check.bound and _is_shown(check)]
    if not checks:
        raise ValueError("there is nothing to draw: no check got as far as an error for each trial and step")
    rows = -(-len(checks) // _COLUMNS)
    figure = Figure(figsize=(11.0, 1.3 + 2.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    highest = max(1.0, *(float(_log_ratio(check).max()) for check in checks))
    norm = TwoSlopeNorm(0.0, _LOWEST, highest)
    for axis, check in zip(axes, checks, strict=False):
        image = _draw_map(axis, check, norm)
    for axis in axes[len(checks) :]:
        axis.set_axis_off()
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=11)
    bar = figure.colorbar(image, ax=list(axes), fraction=0.03, label="largest error over units / bound")
    ticks = np.concatenate([np.arange(_LOWEST, 0.0), np.arange(0.0, highest + 1e-9, np.ceil(highest / 5))])
    bar.set_ticks(list(ticks), labels=[f"$10^{{{int(tick)}}}$" for tick in ticks])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _is_shown(check: Check) -> bool:
    return check.verdict == "defect" or check.identifier.endswith((".residual", ".value"))


def _log_ratio(check: Check) -> Any:
    """Logarithm of error over bound; what is infinite counts as a factor of 1e16."""
    assert check.map is not None
    assert check.bound is not None
    return np.log10(np.clip(check.map / check.bound, 10.0**_LOWEST, 1e16))


def _draw_map(axis: Any, check: Check, norm: TwoSlopeNorm) -> Any:
    values = _log_ratio(check)
    trials, steps = values.shape
    image = axis.imshow(
        values, norm=norm, cmap=_COLORS, aspect="auto", interpolation="nearest",
        extent=(-0.5, steps - 0.5, trials - 0.5, -0.5),
    )  # fmt: skip
    axis.set_title(f"{check.identifier}: {check.verdict}", fontsize=10, fontweight="bold" if check.first else "normal")
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel("trial", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.yaxis.get_major_locator().set_params(integer=True)
    if check.first is not None and check.first.trial is not None:
        axis.plot(check.first.step, check.first.trial, "x", color="white", markersize=9, markeredgewidth=4.0)
        axis.plot(check.first.step, check.first.trial, "x", color="black", markersize=8, markeredgewidth=1.8)
    return image


def _title(report: Report) -> str:
    verdict = "pass" if report.passed else "defect" if report.defects else "could not run"
    marked = "; a cross marks the first violation" if report.defects else ""
    return f"{verdict}: {report.problem}, {report.arithmetic}{marked}"
