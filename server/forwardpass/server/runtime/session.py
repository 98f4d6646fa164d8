"""A loaded graph. The only module that knows ONNX Runtime."""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from forwardpass.server.errors import InvalidInput
from forwardpass.wire import Array

# ONNX Runtime 1.29 and later send telemetry unless told not to before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

PROVIDERS = ("CPUExecutionProvider",)
_BFLOAT16, _BFLOAT16_TENSOR = 16, "tensor(bfloat16)"  # onnx.TensorProto.BFLOAT16
_QUIET = 3  # Errors only; ours say what matters.


class SessionError(Exception):
    """ONNX Runtime cannot load the graph; the message is its own."""


class Session:
    """A graph that ONNX Runtime has loaded and optimised. `run` may be called from many threads.

    Args:
        model: The bytes of the ONNX file.
        weights: The bytes of each file that it refers to, by the name that it uses.
        threads: Threads for one run.

    Raises:
        SessionError: ONNX Runtime refuses the graph.
    """

    def __init__(self, model: bytes, weights: Mapping[str, bytes], threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        # Spinning threads burn the cores that other models and the transport need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if weights:
            buffers = list(weights.values())
            options.add_external_initializers_from_files_in_memory(
                list(weights), buffers, [len(buffer) for buffer in buffers]
            )
        try:
            self._session = ort.InferenceSession(model, options, providers=list(PROVIDERS))
        except Exception as error:
            raise SessionError(str(error)) from error
        self._session.disable_fallback()
        # ONNX Runtime's Python interface has no numpy type for these; they take a way of their own.
        self._has_bfloat16 = any(
            node.type == _BFLOAT16_TENSOR for node in (*self.inputs, *self.outputs)
        )

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the ONNX file says of itself."""
        metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        return metadata

    @property
    def providers(self) -> Sequence[str]:
        """The execution providers in use, in order."""
        providers: Sequence[str] = self._session.get_providers()
        return providers

    @property
    def inputs(self) -> Sequence[Any]:
        """The graph's inputs: each has `name`, `type` ("tensor(float)") and `shape`."""
        inputs: Sequence[Any] = self._session.get_inputs()
        return inputs

    @property
    def outputs(self) -> Sequence[Any]:
        """The graph's outputs, as `inputs`."""
        outputs: Sequence[Any] = self._session.get_outputs()
        return outputs

    def run(
        self,
        outputs: Sequence[str],
        inputs: Mapping[str, Array],
        on_begin: Callable[[Callable[[], None]], None] | None = None,
    ) -> list[Array]:
        """Returns the outputs named, in order.

        Args:
            outputs: Which.
            inputs: An array for each input.
            on_begin: Is told, before the run begins, what stops it from another thread.

        Raises:
            InvalidInput: The graph refuses the values, such as an index out of range.
        """
        options = ort.RunOptions()
        if on_begin is not None:
            on_begin(lambda: setattr(options, "terminate", True))
        try:
            if self._has_bfloat16:
                return self._run_with_bfloat16(outputs, inputs, options)
            values: list[Array] = self._session.run(list(outputs), dict(inputs), options)
        except ort_errors.InvalidArgument as error:
            raise InvalidInput(f"the model refuses the values: {_first_line(error)}") from error
        except ort_errors.RuntimeException as error:
            raise RuntimeError("ONNX Runtime failed") from error
        return values

    def _run_with_bfloat16(
        self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any
    ) -> list[Array]:
        feeds = {name: _to_ort_value(array) for name, array in inputs.items()}
        values = self._session.run_with_ort_values(list(outputs), feeds, options)
        return [_from_ort_value(value) for value in values]


def _to_ort_value(array: Array) -> Any:
    if array.dtype != ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy(array)
    bits = np.ascontiguousarray(array).view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)


def _from_ort_value(value: Any) -> Array:
    if value.data_type() != _BFLOAT16_TENSOR:
        array: Array = value.numpy()
        return array
    # `numpy` refuses the type, so its bytes are copied from where they lie.
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, ml_dtypes.bfloat16).reshape(value.shape())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
