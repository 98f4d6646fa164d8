import subprocess
import sys

import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from forwardpass.wire import CODES, Failure, Reason
from forwardpass.wire.open_inference import message_class, pool

TEXT = st.text(st.characters(codec="utf-8"))


@given(
    st.builds(
        Failure,
        reason=st.sampled_from(Reason),
        message=TEXT,
        field=TEXT,
        metadata=st.dictionaries(TEXT, TEXT, max_size=3),
        retry_after=st.none() | st.integers(0, 10**6).map(lambda us: us / 1e6),
        request_id=TEXT,
    )
)
def test_a_failure_survives_the_way(failure: Failure) -> None:
    assert Failure.from_details(failure.to_details()) == failure


def test_every_reason_has_a_code() -> None:
    assert CODES.keys() == set(Reason)


@pytest.mark.parametrize("details", [b"", b"\xff\xff", b"\x0a\x05hello"])
def test_what_is_not_ours_is_none(details: bytes) -> None:
    assert Failure.from_details(details) is None


def test_another_domain_is_not_ours() -> None:
    status = status_pb2.Status(code=3, message="x")
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason="INVALID_INPUT", domain="example.org")
    )
    assert Failure.from_details(status.SerializeToString()) is None


def test_the_open_inference_protocol_has_its_twelve_methods() -> None:
    request = message_class("ModelInferRequest")()
    assert request.DESCRIPTOR.fields_by_name["raw_input_contents"].number == 7
    methods = pool().FindServiceByName("inference.GRPCInferenceService").methods_by_name
    assert len(methods) == 12


def test_the_open_inference_protocol_stays_in_its_own_pool() -> None:
    """In a process of its own, since tritonclient may have registered the names in this one."""
    code = (
        "from google.protobuf import descriptor_pool\n"
        "from forwardpass.wire.open_inference import message_class\n"
        "message_class('ModelInferRequest')()\n"
        "try: descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
        "except KeyError: print('not there')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "not there\n"
