"""The part of a hand-written server that has nothing to do with how it receives calls."""

from typing import Any

import numpy as np
import onnxruntime as ort

from forwardpass.wire.open_inference import message_class

ModelInferRequest: Any = message_class("ModelInferRequest")
ModelInferResponse: Any = message_class("ModelInferResponse")


class Model:
    """A graph of one float32 input and one float32 output, run on one thread."""

    def __init__(self, name: str, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._name = name
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (self._input,) = (node.name for node in self._session.get_inputs())
        (self._output,) = (node.name for node in self._session.get_outputs())

    def infer(self, request: Any) -> Any:
        """Answers a ModelInferRequest with raw contents.

        Raises:
            ValueError: It asks for another model, or its tensor is not what the model takes.
        """
        (tensor,), (raw,) = request.inputs, request.raw_input_contents
        asked = (request.model_name, tensor.name, tensor.datatype)
        if asked != (self._name, self._input, "FP32"):
            raise ValueError(f"{self._name!r} takes {self._input!r} as FP32")
        array = np.frombuffer(raw, np.float32).reshape(tensor.shape)
        (result,) = self._session.run([self._output], {self._input: array})
        response = ModelInferResponse(model_name=self._name, model_version="1", id=request.id)
        response.outputs.add(name=self._output, datatype="FP32", shape=result.shape)
        response.raw_output_contents.append(result.tobytes())
        return response
