"""What a model takes and gives, and whether arrays fit it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from forwardpass.server.errors import InvalidInput, nearest, quote
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import DTYPES, Array, ElementType
from forwardpass.wire.dtypes import ONNX_TYPES, STRING


class SignatureError(ValueError):
    """A graph that cannot be served, or a card that does not fit it; the message says why."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: Its name.
        type: The type of its elements.
        shape: Its extents; -1 where any will do.
        role: What it means.
        ranked: Whether it has these axes; else any number will do, and `shape` is empty.
    """

    name: str
    type: ElementType
    shape: tuple[int, ...]
    role: "model_card_pb2.TensorRole.ValueType"
    ranked: bool = True

    @property
    def row_bytes(self) -> int:
        """How many bytes the elements of one row take; 0 where that is not fixed, as for text."""
        extents = self.shape[1:]
        if self.type is STRING or not self.ranked or -1 in extents:
            return 0
        return self.type.dtype.itemsize * prod(extents)


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs by name, in the graph's order.

    Attributes:
        batched: Whether axis 0 of every tensor counts independent rows.
        max_rows: The most rows of a request; 0 for any number.
        states: The (input, output) pairs that carry a step model's state.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batched: bool
    max_rows: int
    states: tuple[tuple[str, str], ...] = ()

    def max_bytes(self) -> int:
        """Returns how many bytes the inputs of a request have at most; 0 for any number."""
        if not self.batched or not self.max_rows:
            return 0
        rows = [spec.row_bytes for spec in self.inputs.values()]
        return self.max_rows * sum(rows) if all(rows) else 0

    def input_of(self, role: "model_card_pb2.TensorRole.ValueType") -> TensorSpec | None:
        """Returns the first input of a role."""
        return next((spec for spec in self.inputs.values() if spec.role == role), None)

    def outputs_of(self, role: "model_card_pb2.TensorRole.ValueType") -> list[TensorSpec]:
        """Returns the outputs of a role."""
        return [spec for spec in self.outputs.values() if spec.role == role]

    def select_outputs(self, names: Iterable[str]) -> tuple[str, ...]:
        """Returns the outputs asked for, all where none is named.

        Raises:
            InvalidInput: An unknown name, or one named twice.
        """
        chosen = tuple(names)
        for name in chosen:
            if name not in self.outputs:
                raise InvalidInput(
                    f"no output {quote(name)}{nearest(name, self.outputs)}; "
                    f"the model has {_listed(self.outputs)}",
                    field="outputs",
                )
        if len(set(chosen)) != len(chosen):
            raise InvalidInput("an output is asked for twice", field="outputs")
        return chosen or tuple(self.outputs)

    def check(self, arrays: Mapping[str, Array]) -> int:
        """Compares arrays with the inputs, and returns how many rows they have.

        A model that is not batched has one row.

        Raises:
            InvalidInput: A name, type, number of axes, extent or number of rows that does not fit.
        """
        for name in arrays:
            if name not in self.inputs:
                raise InvalidInput(
                    f"no input {quote(name)}{nearest(name, self.inputs)}; "
                    f"the model takes {_listed(self.inputs)}",
                    field="inputs",
                )
        rows = -1
        for name, spec in self.inputs.items():
            array = arrays.get(name)
            if array is None:
                raise InvalidInput(
                    f"input {quote(name)} is missing; the model takes {_listed(self.inputs)}",
                    field="inputs",
                )
            _check_array(spec, array)
            if self.batched:
                if rows not in (-1, len(array)):
                    raise InvalidInput(
                        f"inputs[{quote(name)}] has {len(array)} rows, "
                        f"but an input before it has {rows}",
                        field=f"inputs.{quote(name)}.shape",
                    )
                rows = len(array)
        if self.max_rows and rows > self.max_rows:
            raise InvalidInput(
                f"{rows} rows, but the model takes at most {self.max_rows} in a request",
                field="inputs",
                expected=self.max_rows,
                got=rows,
            )
        return rows if self.batched else 1


def _check_array(spec: TensorSpec, array: Array) -> None:
    name = quote(spec.name)
    if array.dtype != spec.type.dtype:
        got = "string" if array.dtype == STRING.dtype else array.dtype
        raise InvalidInput(
            f"inputs[{name}] is {got}, but the model takes {spec.type.name}",
            field=f"inputs.{name}.data_type",
            expected=spec.type.name,
            got=got,
        )
    fits = not spec.ranked or (
        array.ndim == len(spec.shape)
        and all(want in (-1, extent) for want, extent in zip(spec.shape, array.shape, strict=True))
    )
    if not fits:
        raise InvalidInput(
            f"inputs[{name}] has shape {_shape(array.shape)}, "
            f"but the model takes {_shape(spec.shape)} (-1 is any extent)",
            field=f"inputs.{name}.shape",
            expected=_shape(spec.shape),
            got=_shape(array.shape),
        )


def graph_signature(
    inputs: Iterable[Any], outputs: Iterable[Any], unranked: Collection[str] = ()
) -> Signature:
    """Returns the signature that the graph itself tells, with nothing known of rows.

    Args:
        inputs: What ONNX Runtime says of the graph's inputs.
        outputs: And of its outputs.
        unranked: The inputs that may have any number of axes: ONNX Runtime shows them as scalars.

    Raises:
        SignatureError: An input or output that is no tensor, or of a type no tensor can hold.
    """
    specs = _specs("input", inputs)
    for name in specs.keys() & unranked:
        specs[name] = replace(specs[name], ranked=False)
    return Signature(specs, _specs("output", outputs), batched=False, max_rows=0)


def card_signature(graph: Signature, card: model_card_pb2.ModelCard) -> Signature:
    """Returns the card's signature, which must describe the same tensors as the graph.

    Raises:
        SignatureError: A tensor of the one is not in the other, or has another type or shape.
    """
    stated = card.signature
    inputs = {spec.name: _from_card(spec) for spec in stated.inputs}
    outputs = {spec.name: _from_card(spec) for spec in stated.outputs}
    for kind, ours, theirs in (
        ("input", graph.inputs, inputs),
        ("output", graph.outputs, outputs),
    ):
        if list(ours) != list(theirs):
            raise SignatureError(
                f"the card names the {kind}s {_listed(theirs)}, the graph {_listed(ours)}"
            )
        for name, spec in theirs.items():
            if not _compatible(ours[name], spec):
                raise SignatureError(
                    f"{kind} {quote(name)} is {spec.type.name} {_shape(spec.shape)} on the card, "
                    f"but {ours[name].type.name} {_shape(ours[name].shape)} in the graph"
                )
    states = tuple((pair.input, pair.output) for pair in stated.states)
    for before, after in states:
        if before not in inputs or after not in outputs:
            raise SignatureError(f"the card pairs {before!r} and {after!r}, which are not there")
        if inputs[before].shape != outputs[after].shape:
            raise SignatureError(f"the state {before!r} and its next, {after!r}, differ in shape")
    return Signature(inputs, outputs, stated.batched, stated.max_rows, states)


def signature_message(signature: Signature) -> model_card_pb2.Signature:
    """Returns the signature as it is sent."""

    def specs(tensors: Mapping[str, TensorSpec]) -> list[model_card_pb2.TensorSpec]:
        return [
            model_card_pb2.TensorSpec(
                name=spec.name, data_type=spec.type.data_type, shape=spec.shape, role=spec.role
            )
            for spec in tensors.values()
        ]

    return model_card_pb2.Signature(
        inputs=specs(signature.inputs),
        outputs=specs(signature.outputs),
        batched=signature.batched,
        max_rows=signature.max_rows,
        states=[
            model_card_pb2.StatePair(input=before, output=after)
            for before, after in signature.states
        ],
    )


def _specs(kind: str, nodes: Iterable[Any]) -> dict[str, TensorSpec]:
    specs = {}
    for node in nodes:
        element = ONNX_TYPES.get(node.type)
        if element is None:
            raise SignatureError(
                f"{kind} {quote(node.name)} is a {node.type}, which cannot be sent; "
                "export the model with plain tensors (for scikit-learn: zipmap=False)"
            )
        shape = tuple(extent if isinstance(extent, int) else -1 for extent in node.shape)
        specs[node.name] = TensorSpec(
            node.name, element, shape, model_card_pb2.TENSOR_ROLE_UNSPECIFIED
        )
    return specs


def _from_card(spec: model_card_pb2.TensorSpec) -> TensorSpec:
    element = DTYPES.get(spec.data_type)
    if element is None:
        raise SignatureError(f"the card gives {quote(spec.name)} no known data type")
    return TensorSpec(spec.name, element, tuple(spec.shape), spec.role)


def _compatible(graph: TensorSpec, card: TensorSpec) -> bool:
    if graph.type is not card.type or not graph.ranked:
        return graph.type is card.type
    return len(graph.shape) == len(card.shape) and all(
        ours in (-1, theirs) for ours, theirs in zip(graph.shape, card.shape, strict=True)
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(quote(name) for name in list(names)[:8])


def _shape(shape: Iterable[int]) -> str:
    return str(list(shape))
