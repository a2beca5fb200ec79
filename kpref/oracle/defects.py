"""Hypothetical defects: what an operator would return if this or that were wrong in it.

Each is built into the reference, as a linearisation with the defect (`kpref.oracle.form_defects`) or as another answer
(`kpref.oracle.answer_defects`), so that a claimed answer can be held against it (`kpref.oracle.hypotheses`). The text
before the colon is the class of the defect.
"""

from __future__ import annotations

from collections.abc import Iterator

from kpref._types import Array
from kpref.oracle.answer_defects import answer_defects
from kpref.oracle.certificates import Judge
from kpref.oracle.form_defects import Defect, form_defects

__all__ = ["defects"]


def defects(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """All hypothetical defects of an operator's formulas, given what it was applied to and the right answer."""
    yield from answer_defects(judge, operator, tensor, truth)
    yield from form_defects(judge, operator)
