"""What a message of the native contract may have; `scan` holds its bytes against it.

Text is payload here, as are images and the contents of tensors: a parser keeps such bytes as they
are. What is not listed comes once each.
"""

from collections.abc import Mapping

from google.protobuf.message import Message

from forwardpass.server.rpc.scan import Field, Layout
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedStreamRequest,
    GenerateRequest,
    GenerateStreamRequest,
    PredictRequest,
    PredictStreamRequest,
)

_MAX_INPUTS = 64
# Rows that come as a field each.
_MAX_ROWS = 1 << 16
_MAX_AXES = 32
_TENSOR = Layout({2: Field("axes", _MAX_AXES), 3: Field("contents", 1, payload=True)})
_ENTRY = Layout({2: Field("tensors", 1, inside=_TENSOR)})
_ROWS = {
    3: Field("images", _MAX_ROWS, payload=True),
    4: Field("texts", _MAX_ROWS, payload=True),
}
_OUTPUTS = {5: Field("outputs", _MAX_INPUTS)}
_INPUTS = Layout({2: Field("inputs", _MAX_INPUTS, inside=_ENTRY)} | _ROWS | _OUTPUTS)
_LATENTS = Layout({4: Field("latents", 1, inside=_TENSOR)})

# For messages in which every field comes once.
PLAIN = Layout({})
# What may be long in PredictRequest and EmbedRequest, and in GenerateRequest: all else names the
# model, and says what to do with it.
INPUTS = Layout({2: Field("inputs", _MAX_INPUTS, payload=True)} | _ROWS | _OUTPUTS)
LATENTS = Layout({4: Field("latents", 1, payload=True)})
# The tags of images and texts.
IMAGES, TEXTS = 3 << 3 | 2, 4 << 3 | 2
LAYOUTS: Mapping[type[Message], Layout] = {
    PredictRequest: _INPUTS,
    EmbedRequest: _INPUTS,
    GenerateRequest: _LATENTS,
    PredictStreamRequest: Layout({1: Field("requests", 1, inside=_INPUTS)}),
    EmbedStreamRequest: Layout({1: Field("requests", 1, inside=_INPUTS)}),
    GenerateStreamRequest: Layout({1: Field("requests", 1, inside=_LATENTS)}),
}
