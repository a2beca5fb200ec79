"""A training in its course: what K-P flow says of each checkpoint of a folder of `kpref.train`, against steps.

>>> from kpref.course import analyze_run
>>> found = analyze_run("run", checkpoints=10, out="report")  # doctest: +SKIP
>>> found["dimension_NTK"].values  # doctest: +SKIP
"""

from kpref.course.measures import Curve, Number
from kpref.course.run_analysis import Course, analyze_run

__all__ = ["Course", "Curve", "Number", "analyze_run"]
