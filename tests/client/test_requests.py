"""The bytes of requests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forwardpass.client.models import Version
from forwardpass.client.requests import (
    plain_predict_message,
    plain_predict_request,
    to_reference,
)
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.wire import Array

SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9)


@given(
    array=hnp.arrays(np.dtype("<f4"), SHAPES) | hnp.arrays(np.dtype("u1"), SHAPES),
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
    version=st.none() | st.integers(1, 1 << 62) | st.sampled_from(["stable", "é"]),
)
def test_the_bytes_of_a_plain_request_are_those_of_the_message(
    array: Array, name: str, version: Version
) -> None:
    request = plain_predict_request(to_reference("digits", version), {name: array}, (), ())
    # A second time from what is remembered.
    for _ in range(2):
        message = plain_predict_message("digits", version, {name: array})
        assert message is not None
        assert PredictRequest.FromString(message) == request


def test_rows_that_do_not_lie_side_by_side_are_sent_in_order() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    message = plain_predict_message("digits", None, {"x": array})
    assert message is not None
    assert message.endswith(np.ascontiguousarray(array).tobytes())


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"x": np.zeros(1, np.float32), "y": np.zeros(1, np.float32)},
        {"x": np.zeros(1, ">f4")},
        {"x": np.zeros(1, bool)},
        {"x": np.array(["text"], object)},
    ],
)
def test_other_arrays_take_a_message(arrays: dict[str, Array]) -> None:
    assert plain_predict_message("digits", None, arrays) is None
