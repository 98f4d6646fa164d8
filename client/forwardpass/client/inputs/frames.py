"""Data frames: tables of named columns, of pandas, polars or Arrow."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from forwardpass.client.errors import InvalidInput
from forwardpass.client.inputs.libraries import is_instance


def is_frame(value: object) -> bool:
    """Whether a value is a data frame."""
    return (
        is_instance(value, "pandas", "DataFrame")
        or is_instance(value, "polars", "DataFrame", "LazyFrame")
        or is_instance(value, "pyarrow", "Table", "RecordBatch")
    )


def is_column(value: object) -> bool:
    """Whether a value is a column of a data frame."""
    return (
        is_pandas_column(value)
        or is_instance(value, "polars", "Series")
        or is_instance(value, "pyarrow", "Array", "ChunkedArray")
    )


def is_pandas_column(value: object) -> bool:
    """Whether a value is a column of pandas, or what is in one."""
    return is_instance(value, "pandas", "Series", "Index") or is_instance(
        value, "pandas.api.extensions", "ExtensionArray"
    )


def columns(frame: Any) -> list[tuple[str, Any]]:
    """Returns a data frame's columns with their names, in its order.

    Raises:
        InvalidInput: It is a query of polars that has not been run.
    """
    if is_instance(frame, "polars", "LazyFrame"):
        raise InvalidInput(
            "a LazyFrame of polars holds no values yet: give lazy_frame.collect()", field="inputs"
        )
    if is_instance(frame, "pandas", "DataFrame"):
        return [(str(name), column) for name, column in frame.items()]
    if is_instance(frame, "polars", "DataFrame"):
        return [(column.name, column) for column in frame.get_columns()]
    return list(zip(frame.schema.names, frame.columns, strict=True))


def by_name(frame: list[tuple[str, Any]], wanted: list[str]) -> dict[str, Any]:
    """Returns a data frame's columns by name, where they are the model's inputs.

    Args:
        frame: As `columns` gives it.
        wanted: The names of the model's inputs, each of which takes one column.

    Raises:
        InvalidInput: A column is missing, is no input, or is there twice.
    """
    given = [name for name, _ in frame]
    problems = [
        f"{what} {', '.join(map(repr, found))}"
        for what, found in (
            ("it lacks", [name for name in wanted if name not in given]),
            ("the model has no input", [name for name in given if name not in wanted]),
            ("it has more than one", sorted({name for name in given if given.count(name) > 1})),
        )
        if found
    ]
    if problems:
        raise InvalidInput(
            f"a data frame for a model with {len(wanted)} inputs has one column for each "
            f"({', '.join(wanted)}): {'; '.join(problems)}. Rename, add or drop columns, or give a "
            "mapping from the inputs' names to arrays",
            field="inputs",
        )
    return dict(frame)


def cells(column: Iterable[Any], field: str) -> Iterable[Any]:
    """Returns what an iterable holds, of Arrow's columns as Python's own objects.

    Raises:
        InvalidInput: It is no iterable of values. A data frame or a mapping has names in it.
    """
    if isinstance(column, Mapping) or is_frame(column):
        raise InvalidInput(
            f"{field}: a {type(column).__name__} holds values by name: give one of its columns, or "
            "a list",
            field=field,
        )
    if is_instance(column, "pyarrow", "Array", "ChunkedArray"):
        values: list[Any] = cast("Any", column).to_pylist()
        return values
    if not isinstance(column, Iterable):
        raise InvalidInput(
            f"{field}: expected a list or another iterable, got {type(column).__name__}",
            field=field,
        )
    return column
