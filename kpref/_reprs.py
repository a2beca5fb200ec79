"""Results in one line, where their whole arrays would fill the screen, and as a small table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, SupportsFloat

import numpy as np

__all__ = ["html_table", "short_repr"]

_LONGEST = 60  # characters of a part that is neither number nor array
_FEW = 6  # entries of a vector that are all shown


def short_repr(result: Any) -> str:
    """One line for a dataclass; ``__repr__ = short_repr`` in its body makes it the class's own.

    Numbers have six digits; vectors are shown whole if short, else by their ends; other arrays by dtype and shape.

    Examples
    --------
    >>> kpref.eigh(flow.NTK, 10)  # doctest: +SKIP
    Eigen(values=[413.2, 210.4, ..., 2.175] (10), vectors=float64 (10, 20, 60, 64), residuals=..., n_products=43, ...)
    """
    shown = (field.name for field in fields(result) if field.repr)
    parts = ", ".join(f"{name}={_part(getattr(result, name))}" for name in shown)
    return f"{type(result).__name__}({parts})"


def html_table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table for a notebook: each row begins with its label, and `head` has the names of the other columns."""

    def row(cells: Sequence[str], tag: str) -> str:
        label = f"<th style='text-align:left'>{html.escape(cells[0])}</th>"
        return "<tr>" + label + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells[1:]) + "</tr>"

    top = f"<thead>{row(['', *head], 'th')}</thead>" if head else ""
    return f"<table>{top}<tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody></table>"


def _part(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, str | int | np.bool_ | np.integer | np.str_) or value is None:
        text = repr(value.item() if isinstance(value, np.generic) else value)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    if isinstance(value, SupportsFloat):  # estimates too
        return f"{float(value):.6g}"
    if isinstance(value, tuple | list | dict) and len(value) > 0:
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    text = repr(value)
    return text if len(text) <= _LONGEST and "\n" not in text else f"<{type(value).__name__}>"


def _array(array: np.ndarray[Any, Any]) -> str:
    if array.ndim != 1:
        return f"{array.dtype} {array.shape}"
    if array.dtype == bool:
        number = int(array.sum())
        return "all True" if number == len(array) else f"{number} of {len(array)} True"
    if array.dtype.kind not in "iuf":
        return f"{array.dtype} {array.shape}"
    if len(array) <= _FEW:
        return f"[{', '.join(f'{value:.4g}' for value in array)}]"
    return f"[{array[0]:.4g}, {array[1]:.4g}, ..., {array[-1]:.4g}] ({len(array)})"
