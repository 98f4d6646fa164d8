"""The calls that a server answers.

Requests are handed over as bytes: the client looks at their size before it sends them, and to make
the bytes of a large one twice would double what it costs.
"""

from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1 import model_service_pb2 as model_pb

Response = TypeVar("Response", bound=Message)

# grpc.health.v1 in protobuf's own messages. Its two messages have one field each, of number 1, and
# so the same bytes as these: the request a string, the answer an enum, which travels as an integer.
# The package with its generated modules is not part of the base install, and whoever has it may
# load it beside us, where a second registration of the same names would fail.
HealthRequest = StringValue
HealthResponse = Int32Value
SERVING = 1


class Methods:
    """Each call, ready to be made over one channel.

    Args:
        channel: A blocking one, or one of grpc.aio, whose calls are awaited.
    """

    def __init__(self, channel: Any) -> None:
        inference, models = "forwardpass.v1.InferenceService", "forwardpass.v1.ModelService"
        self.predict = _method(channel, f"/{inference}/Predict", pb.PredictResponse)
        self.embed = _method(channel, f"/{inference}/Embed", pb.EmbedResponse)
        self.generate = _method(channel, f"/{inference}/Generate", pb.GenerateResponse)
        self.generate_stream = channel.unary_stream(
            f"/{inference}/GenerateStream",
            response_deserializer=pb.GenerateStreamResponse.FromString,
        )
        self.predict_stream = channel.stream_stream(
            f"/{inference}/PredictStream",
            response_deserializer=pb.PredictStreamResponse.FromString,
        )
        self.embed_stream = channel.stream_stream(
            f"/{inference}/EmbedStream",
            response_deserializer=pb.EmbedStreamResponse.FromString,
        )
        self.list_models = _method(channel, f"/{models}/ListModels", model_pb.ListModelsResponse)
        self.get_model = _method(channel, f"/{models}/GetModel", model_pb.GetModelResponse)
        self.health = _method(channel, "/grpc.health.v1.Health/Check", HealthResponse)


def _method(channel: Any, path: str, response: type[Response]) -> Any:
    return channel.unary_unary(path, response_deserializer=response.FromString)
