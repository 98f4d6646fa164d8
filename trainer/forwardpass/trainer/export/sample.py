"""A caller's sample of inputs, and what must be true of the answers to it."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from forwardpass.artefact import Golden
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.table import to_array
from forwardpass.wire import Array, element_type

# Each is asked for alone, when a version is published and whenever it is loaded.
_GOLDEN_ROWS = 16


class Table(Protocol):
    """A data frame, such as pandas'."""

    @property
    def columns(self) -> Any:
        """The columns' names."""

    def __getitem__(self, name: Any, /) -> Any:
        """Returns a column."""


# Arrays, lists or torch tensors by input name, or columns.
Sample: TypeAlias = Mapping[str, Any] | Table


def read_sample(inputs: Sample) -> dict[str, Array]:
    """Returns the arrays by name, on the CPU; texts are objects.

    Raises:
        PublishError: There are none, or one is of a type that no tensor has.
    """
    names = inputs.columns if hasattr(inputs, "columns") else inputs
    if not isinstance(inputs, Mapping) and names is inputs:
        raise PublishError(
            f"inputs is a {type(inputs).__name__}; give a sample by name, such as "
            'inputs={"image": images}'
        )
    sample = {str(name): _to_array(str(name), inputs[name]) for name in names}
    if not sample:
        raise PublishError('inputs is empty; give a sample of each, such as {"image": images}')
    return sample


def golden_rows(sample: Mapping[str, Array]) -> dict[str, Array]:
    """Returns at most 16 rows of the sample, evenly spread over it.

    Raises:
        PublishError: There are fewer than two, or the inputs have different numbers of rows.
    """
    counts = {name: len(array) if array.ndim else 0 for name, array in sample.items()}
    rows = min(counts.values())
    if len(set(counts.values())) > 1 or rows < 2:
        given = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise PublishError(
            f"the sample needs two rows or more, as many of each input; {given}. Rows that share "
            "a run are compared with each alone"
        )
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, _GOLDEN_ROWS)).astype(int))
    return {name: array[chosen] for name, array in sample.items()}


def check_answers(golden: Golden, *, batched: bool) -> None:
    """Refuses answers that would prove nothing of a graph that gives the same.

    Raises:
        PublishError: An output has no row for each of the sample, has no finite number somewhere,
            or is the same for all rows.
    """
    for name, array in golden.outputs.items():
        if batched and not has_rows(array, golden.rows):
            raise PublishError(
                f"output {name!r} has the shape {list(array.shape)}, but {golden.rows} rows went "
                "in; axis 0 of every output counts the same rows. Leave it out by naming the others"
            )
        if array.dtype.kind != "f":
            continue
        bad = ~np.isfinite(array.astype(np.float64))
        if bad.any():
            first = tuple(int(place) for place in np.argwhere(bad)[0])
            where = f"row {first[0]}" if batched else f"element {list(first)}"
            raise PublishError(
                f"output {name!r} is {array[first]} at {where} of the sample, so nothing was "
                "published. Look at that row's inputs, and at the weights"
            )
        if batched and golden.rows > 1 and (array == array[:1]).all():
            raise PublishError(
                f"output {name!r} is the same for all {golden.rows} rows, so it would tell nothing "
                f"of a wrong graph; {_why_alike(golden)}"
            )


def has_rows(array: Array, rows: int) -> bool:
    """Whether axis 0 of an array has the extent of so many rows."""
    return bool(array.ndim) and len(array) == rows


def _why_alike(golden: Golden) -> str:
    if all((array == array[:1]).all() for array in golden.inputs.values()):
        return "the rows of the sample are all alike. Give different ones"
    return (
        "nothing was published. Is the network trained, and are the inputs in the units that it "
        "learned from?"
    )


def _to_array(name: str, values: Any) -> Array:
    # Of a torch tensor, which may need a gradient or lie on a GPU.
    for step in ("detach", "cpu"):
        values = getattr(values, step)() if hasattr(values, step) else values
    try:
        array = to_array(values)
        element_type(array.dtype)
    except (TypeError, ValueError) as error:
        raise PublishError(f"input {name!r} cannot be a tensor: {error}") from None
    if array.dtype.kind == "O" and not all(isinstance(each, str) for each in array.ravel()):
        raise PublishError(f"input {name!r} holds objects that are no strings; give an array")
    return array
