"""Graphs of one operator each: every element type, every rank, empty tensors."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import helper

from forwardpass.wire import Array

from .graph import KINDS, TYPES, Graph, Shape, awkward, graph, tame

_INTS = tuple(name for name in TYPES if "int" in name)
_EVERY = tuple(TYPES)
# No two extents are alike, so that axes which change places are seen.
_EXTENTS = (2, 3, 1, 4, 5, 2)
# How a graph may state its axes; each rank meets each of them with some type.
_STATED: Sequence[Callable[[tuple[int, ...]], Shape]] = (
    lambda shape: shape,
    lambda shape: ["n", *shape[1:]] if shape else [],
    lambda shape: [None] * len(shape),
    lambda shape: [f"axis/{i}" for i in range(len(shape))],
    lambda shape: [*shape[:-1], "last"] if shape else [],
)


def identities() -> Iterator[Graph]:
    """Every type at every rank from 0 to 6, with axes stated in every way."""
    for row, kind in enumerate(_EVERY):
        for rank in range(7):
            shape = _EXTENTS[:rank]
            stated = _STATED[(row + rank) % len(_STATED)](shape)
            yield _identity(f"identity-{kind}-{rank}", kind, shape, stated)
        yield _identity(f"empty-{kind}", kind, (0,), ["n"])
        yield _identity(f"empty-inside-{kind}", kind, (2, 0, 3), ["n", None, 3])
        yield _identity(f"empty-stated-{kind}", kind, (3, 0), [3, 0])


def _identity(name: str, kind: str, shape: tuple[int, ...], stated: Shape) -> Graph:
    node = helper.make_node("Identity", ["x"], ["y"])
    return graph(name, [node], {"x": awkward(kind, shape)}, {"y": kind}, shapes={"x": stated})


def casts() -> Iterator[Graph]:
    """Each type to all that ONNX Runtime converts it to, in one graph of many outputs."""
    for kind in _EVERY:
        targets = [to for to in _EVERY if to != kind and (kind, to) != ("string", "bfloat16")]
        # Text is read as a number, and what is out of a type's range has no defined result.
        array = np.array(["1", "0", "3"], object) if kind == "string" else tame(kind, (3,))
        yield graph(
            f"cast-{kind}",
            [helper.make_node("Cast", ["x"], [to], to=KINDS[to]) for to in targets],
            {"x": array},
            {to: to for to in targets},
            shapes={"x": ["n"]},
        )


def _one(
    operator: str,
    kinds: Sequence[str],
    inputs: Callable[[str], dict[str, Array]],
    constants: dict[str, Array] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    result: str = "",
    **attributes: object,
) -> Iterator[Graph]:
    for kind in kinds:
        sent = inputs(kind)
        node = helper.make_node(operator, [*sent, *(constants or {})], outputs, **attributes)
        yield graph(
            f"{operator.lower()}-{kind}",
            [node],
            sent,
            dict.fromkeys(outputs, result or kind),
            constants,
            shapes={key: [None, *array.shape[1:]] for key, array in sent.items() if array.ndim},
        )


def _x(*shape: int) -> Callable[[str], dict[str, Array]]:
    return lambda kind: {"x": tame(kind, shape)}


def _pair(left: tuple[int, ...], right: tuple[int, ...]) -> Callable[[str], dict[str, Array]]:
    return lambda kind: {"x": tame(kind, left, 1), "z": tame(kind, right, 2)}


def _where(kind: str) -> dict[str, Array]:
    return {"c": awkward("bool", (2, 3)), **_pair((2, 3), (1, 3))(kind)}


def _without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in TYPES if name not in names)


# What ONNX Runtime has kernels for on a CPU.
_NUMBERS = _without("bool", "bfloat16", "string")
_COMMON = ("int32", "int64", "float16", "float32", "float64")
_REAL = ("float16", "float32", "float64")


def operators() -> Iterator[Graph]:
    """Operators by the types that ONNX Runtime computes them in on a CPU."""
    pair = _pair((2, 3), (1, 3))
    yield from _one("Add", _NUMBERS, pair)
    yield from _one("Concat", _EVERY, _pair((2, 3), (2, 1)), axis=1)
    yield from _one("Transpose", _EVERY, _x(2, 3, 4), perm=[2, 0, 1])
    yield from _one("Reshape", _EVERY, _x(2, 3), {"shape": np.array([3, -1])})
    yield from _one("Expand", _without("bfloat16"), _x(2, 1), {"shape": np.array([2, 3])})
    yield from _one("Unsqueeze", _EVERY, _x(2, 3), {"axes": np.array([1])})
    yield from _one("Gather", _EVERY, _x(3, 4), {"i": np.array([[2, 0], [-1, 1]])}, axis=0)
    yield from _one("Slice", _EVERY, _x(4, 3), _spans())
    yield from _one(
        "Split", _EVERY, _x(4, 3), {"sizes": np.array([1, 0, 3])}, outputs=("a", "b", "c")
    )
    yield from _one("Where", ("uint8", "uint32", "int8", *_COMMON, "string"), _where)
    yield from _one("MatMul", ("uint32", "uint64", *_COMMON), _pair((2, 3), (3, 2)))
    yield from _one("ReduceSum", _COMMON, _x(2, 3, 2), {"axes": np.array([1])}, keepdims=0)
    yield from _one("CumSum", _COMMON, _x(2, 3), {"axis": np.array(1)})
    yield from _one("Equal", _without("bfloat16", "string"), pair, result="bool")
    yield from _one("Less", _NUMBERS, pair, result="bool")
    yield from _one(
        "NonZero", ("bool", "uint8", "int32", "int64", "float32"), _x(2, 3), result="int64"
    )
    yield from _one("Shape", _EVERY, _x(2, 3, 1), result="int64")
    yield from _one("ArgMax", ("uint8", "int8", *_COMMON), _x(2, 3), axis=1, result="int64")
    yield from _one("Sign", (*_NUMBERS, "bfloat16"), _x(2, 3))
    yield from _one("BitwiseNot", _INTS, _x(2, 3))
    yield from _one("Not", ("bool",), _x(2, 3))
    yield from _one("Relu", _COMMON, _x(2, 3))
    yield from _one("Softmax", _REAL, _x(2, 3))
    yield from _one("Exp", _REAL, _x(2, 3))
    yield from _one("Unique", ("int8", "int64", *_REAL, "string"), _x(6))
    yield from _one("Conv", ("float16", "float32"), _pair((2, 1, 5, 5), (3, 1, 3, 3)))


def _spans() -> dict[str, Array]:
    """A slice that goes backwards by two, from the end past the beginning."""
    return {name: np.array([at]) for name, at in zip("begn", (-1, -9, 0, -2), strict=True)}
