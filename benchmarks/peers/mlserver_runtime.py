"""A runtime for MLServer, which has none for ONNX; `servers` copies it beside the settings.

Runs in MLServer's own environment, without anything of ours.
"""

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):  # type: ignore[misc]  # MLServer is not installed where types are checked
    """A graph of one float32 input and one float32 output, run on one thread."""

    async def load(self) -> bool:
        """Loads the graph that the settings name."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers a request."""
        (tensor,) = payload.inputs
        (y,) = self._session.run(["y"], {tensor.name: NumpyCodec.decode_input(tensor)})
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)]
        )
