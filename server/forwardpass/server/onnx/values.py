"""Between numpy's arrays and ONNX Runtime's values, for the types that numpy has no name for."""

import ctypes
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from forwardpass.wire import Array

_BFLOAT16, BFLOAT16_TENSOR = 16, "tensor(bfloat16)"  # onnx.TensorProto.BFLOAT16
STRING_TENSOR = "tensor(string)"


def with_bfloat16(inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Returns the inputs, with those that numpy has no type for in ONNX Runtime's own form."""
    return {
        name: _bfloat16_value(array) if array.dtype == ml_dtypes.bfloat16 else array
        for name, array in inputs.items()
    }


def _bfloat16_value(array: Array) -> Any:
    # A scalar's copy has an axis, unless it is told otherwise.
    bits = np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)


def size_of(value: Any) -> int:
    """Returns the bytes of a tensor's elements; 0 for strings, which lie elsewhere."""
    return 0 if value.data_type() == STRING_TENSOR else value.tensor_size_in_bytes()


def from_ort_value(value: Any) -> Array:
    """Returns the array of a value of ONNX Runtime's, copied."""
    if value.data_type() != BFLOAT16_TENSOR:
        array: Array = value.numpy()
        return array
    # `numpy` refuses the type, so its bytes are copied from where they lie.
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, ml_dtypes.bfloat16).reshape(value.shape())
