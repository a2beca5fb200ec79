"""Tables of a report: HTML of any table, and those of the metrics, with how each number is known."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

import numpy as np

from kpref.analysis.quantities import Quantity, interval_of, quantities
from kpref.analysis.study import Comparison, Study
from kpref.analysis.wording import number, with_error, with_interval

__all__ = ["alignment_table", "breakable", "quantity_table", "table"]

#: What tells words from a number with its power of ten.
_WORD = re.compile("[a-z]{4}")

_NOTES = {
    "dimensions": "In brackets: the interval that contains the number with a probability of 95 %, over the random "
    "vectors behind it. ± over trials: how far the number would change with other trials of the same kind (standard "
    "error, jackknife over groups of trials), which is another thing. A dimension of K along units is that of K summed "
    "over trials and times, and so on: how many independent units, trials or times carry what the parameters can do.",
    "stability": "An early change: of the initial state. Its log growth is the logarithm of the most that any such "
    "change has been lengthened by that time.",
    "alignments": "",
}


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", folded: bool = False) -> str:
    """A table whose first column names the row; cells are HTML already.

    Each cell knows the head of its column: on a phone a row is a list of them, and no column is out of sight. A last
    column of words is set as text.
    """
    texts = any(_WORD.search(row[-1]) for row in rows)
    kinds = [*("" for _ in head[1:]), "words" if texts else ""]
    top = "".join(f'<th scope="col"{_class(kind)}>{cell}</th>' for cell, kind in zip(head, kinds, strict=True))
    labels = [re.sub("<[^>]+>", "", cell) for cell in head[1:]]
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(
            f'<td{_class(kind or _kind(cell))} data-label="{label}"><span>{cell}</span></td>'
            for label, cell, kind in zip(labels, row[1:], kinds[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    body = f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
    note = f'<p class="caption">{note}</p>' if note else ""
    if folded:
        return f"<details><summary>{escape(title)}</summary>{body}{note}</details>"
    return f"<h3>{escape(title)}</h3>{body}{note}"


def _kind(cell: str) -> str:
    return "value" if "<small>" in cell else ""


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def quantity_table(study: Study, group: str) -> str:
    """The metrics of one group: a row for each, a column for each checkpoint, and how they are known."""
    found = [[q for q in quantities(analysis) if q.group == group] for analysis in study.analyses]
    by_key: dict[str, dict[int, Quantity]] = {}
    for index, of_one in enumerate(found):
        for quantity in of_one:
            by_key.setdefault(quantity.key, {})[index] = quantity
    if not by_key:
        return ""
    columns = range(len(study.analyses))
    rows = []
    for quantity_of in by_key.values():
        first = next(iter(quantity_of.values()))
        values = [_in_cell(quantity_of[i]) if i in quantity_of else "–" for i in columns]
        rows.append([escape(first.label), *values, _how_known(list(quantity_of.values()))])
    head = ["metric", *(breakable(analysis.name) for analysis in study.analyses), "how it is known"]
    return table("The numbers", head, rows, _NOTES[group])


def _in_cell(quantity: Quantity) -> str:
    """The value, and in smaller letters its interval and what other trials would change, where a column may break."""
    value, bracket, interval = with_interval(quantity.value, *interval_of(quantity)).partition(" (")
    parts = [value] + ([f"<small>({interval}</small>"] if bracket else [])
    if quantity.trial_error is not None and math.isfinite(quantity.trial_error):
        parts.append(f"<small>± {number(quantity.trial_error, 2)} over trials</small>")
    return " ".join(parts)


def _how_known(found: Sequence[Quantity]) -> str:
    # What "± over trials" means stands once, in the note below the table.
    words = list(dict.fromkeys(quantity.how.split("; ±")[0] for quantity in found))
    needed = max((quantity.products_needed or 0 for quantity in found), default=0)
    if needed:
        words.append(f"to know it to ± 5 % would take about {number(needed, 2)} products")
    return escape("; ".join(words))


def alignment_table(comparison: Comparison) -> str:
    """The alignments of K and the NTK of two checkpoints as a folded table."""
    found = comparison.alignments
    rows = [
        [
            f"{breakable(found.names[row])} with {breakable(found.names[column])}",
            with_error(float(found.values[row, column]), float(found.errors[row, column])),
            "exact" if found.errors[row, column] == 0 else "estimated from random vectors, ± standard error",
        ]
        for row in range(len(found.names))
        for column in range(row + 1, len(found.names))
        if np.isfinite(found.values[row, column])
    ]
    title = f"Alignments of {comparison.before} and {comparison.after}"
    return table(title, ["operators", "alignment", "how it is known"], rows, folded=True)


def breakable(name: str) -> str:
    """A name that a narrow screen may break behind an underscore."""
    return escape(name).replace("_", "_<wbr>")
