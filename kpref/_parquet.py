"""Tables as Parquet files, by pyarrow, where somebody asks for them: the same columns as in the CSV beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from kpref._archives import replacing

__all__ = ["require_parquet", "write_parquet"]

#: Types of pyarrow's by those of Python.
_KINDS = {bool: "bool", int: "int64", float: "float64", str: "string"}


def require_parquet() -> None:
    """See that files can be written, before any work is done for one.

    Raises ImportError if pyarrow is not there.
    """
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("a table in Parquet needs the package pyarrow (pip install 'kpref[parquet]')") from error


def write_parquet(file: Path, columns: Mapping[str, tuple[type, Sequence[Any]]]) -> None:
    """Write a table, whole or not at all.

    `columns`: by name the type of the values, bool, int, float or str, and the values; None where there is none.
    Raises ImportError if pyarrow is not there, OSError if the file cannot be written.
    """
    require_parquet()
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    schema = arrow.schema([(name, arrow.type_for_alias(_KINDS[kind])) for name, (kind, _) in columns.items()])
    table = arrow.table({name: list(values) for name, (_, values) in columns.items()}, schema=schema)
    with replacing(file) as opened:
        parquet.write_table(table, opened)
