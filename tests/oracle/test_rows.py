"""Long tables of scripts are kept row by row: an ended run goes on, and takes no row of other code for its own."""

from dataclasses import dataclass

import pytest
from apparatus.rows import rows


@dataclass(frozen=True)
class Square:
    """A row."""

    of: int
    value: float


def counting(calls):
    """A function of tasks that says which it was called with."""

    def square(task):
        calls.append(task)
        return Square(task, float(task) ** 2)

    return square


def test_a_run_that_was_ended_goes_on(tmp_path):
    path, calls = tmp_path / "rows.jsonl", []
    rows(counting(calls), [3, 1], Square, kept=path)
    with path.open("a") as file:
        file.write('["[\\"\\", 7]", {"of": 7, "val')  # a kill in the middle of a line
    found = rows(counting(calls), [1, 7, 3], Square, kept=path)
    assert found == [Square(1, 1.0), Square(7, 49.0), Square(3, 9.0)]
    assert calls == [3, 1, 7]
    assert rows(counting(calls), [7, 1], Square, kept=path) == [Square(7, 49.0), Square(1, 1.0)]
    assert len(calls) == 3


def test_tables_of_one_file_are_apart(tmp_path):
    path, calls = tmp_path / "rows.jsonl", []
    for title in ("one", "other"):
        rows(counting(calls), [2], Square, title=title, kept=path)
    assert calls == [2, 2]


def test_rows_of_other_code_and_other_files_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    for text, message in (('{"code": "0"}\n', "rows of other code"), ("1,2\n", "is none"), ("", "is none")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            rows(counting([]), [2], Square, kept=path)
        assert path.read_text() == text
