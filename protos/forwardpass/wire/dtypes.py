"""One table of element types: ours, numpy's, ONNX Runtime's and the Open Inference Protocol's."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from forwardpass.v1 import tensor_pb2

# An array of any element type and shape.
Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ElementType:
    """One element type under each of its names.

    Attributes:
        data_type: The value of forwardpass.v1.DataType.
        name: What a person reads and types, which is numpy's name: "float32".
        dtype: The little-endian numpy type; `object` for strings.
        onnx: What ONNX Runtime calls a tensor of it: "tensor(float)".
        open_inference: What the Open Inference Protocol calls it: "FP32".
    """

    data_type: "tensor_pb2.DataType.ValueType"
    name: str
    dtype: np.dtype[Any]
    onnx: str
    open_inference: str


STRING = ElementType(
    tensor_pb2.DATA_TYPE_STRING, "string", np.dtype(object), "tensor(string)", "BYTES"
)

ELEMENT_TYPES = (
    ElementType(tensor_pb2.DATA_TYPE_BOOL, "bool", np.dtype("?"), "tensor(bool)", "BOOL"),
    ElementType(tensor_pb2.DATA_TYPE_UINT8, "uint8", np.dtype("u1"), "tensor(uint8)", "UINT8"),
    ElementType(tensor_pb2.DATA_TYPE_UINT16, "uint16", np.dtype("<u2"), "tensor(uint16)", "UINT16"),
    ElementType(tensor_pb2.DATA_TYPE_UINT32, "uint32", np.dtype("<u4"), "tensor(uint32)", "UINT32"),
    ElementType(tensor_pb2.DATA_TYPE_UINT64, "uint64", np.dtype("<u8"), "tensor(uint64)", "UINT64"),
    ElementType(tensor_pb2.DATA_TYPE_INT8, "int8", np.dtype("i1"), "tensor(int8)", "INT8"),
    ElementType(tensor_pb2.DATA_TYPE_INT16, "int16", np.dtype("<i2"), "tensor(int16)", "INT16"),
    ElementType(tensor_pb2.DATA_TYPE_INT32, "int32", np.dtype("<i4"), "tensor(int32)", "INT32"),
    ElementType(tensor_pb2.DATA_TYPE_INT64, "int64", np.dtype("<i8"), "tensor(int64)", "INT64"),
    ElementType(
        tensor_pb2.DATA_TYPE_FLOAT16, "float16", np.dtype("<f2"), "tensor(float16)", "FP16"
    ),
    ElementType(
        tensor_pb2.DATA_TYPE_BFLOAT16,
        "bfloat16",
        np.dtype(ml_dtypes.bfloat16),
        "tensor(bfloat16)",
        "BF16",
    ),
    ElementType(tensor_pb2.DATA_TYPE_FLOAT32, "float32", np.dtype("<f4"), "tensor(float)", "FP32"),
    ElementType(tensor_pb2.DATA_TYPE_FLOAT64, "float64", np.dtype("<f8"), "tensor(double)", "FP64"),
    STRING,
)

DTYPES: dict["tensor_pb2.DataType.ValueType", ElementType] = {t.data_type: t for t in ELEMENT_TYPES}
_BY_DTYPE = {t.dtype: t for t in ELEMENT_TYPES}
ONNX_TYPES: dict[str, ElementType] = {t.onnx: t for t in ELEMENT_TYPES}


def element_type(dtype: np.dtype[Any]) -> ElementType:
    """Returns the element type of a numpy array: byte order is ignored, any text is a string.

    Raises:
        TypeError: No tensor can hold the type, such as complex128 or datetime64.
    """
    if dtype.kind in "USTO":
        return STRING
    found = _BY_DTYPE.get(dtype.newbyteorder("<"))
    if found is None:
        known = ", ".join(t.name for t in ELEMENT_TYPES)
        raise TypeError(f"a tensor cannot hold {dtype}; it can hold {known}")
    return found
