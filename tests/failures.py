"""Reads what a failed call said, as a client that knows the contract would."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from forwardpass.wire import DETAILS_KEY, PUSHBACK_KEY, Failure


def failure_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> Failure:
    """Makes a call that must fail, and returns what its details say."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return read_failure(caught.value)


def read_failure(error: grpc.RpcError) -> Failure:
    """Returns what the details of an error say, after checking that its status says the same."""
    pairs: Any = error.trailing_metadata()
    metadata: dict[str, Any] = dict(pairs)
    failure = Failure.from_details(metadata[DETAILS_KEY])
    assert failure is not None
    assert error.code().value[0] == failure.code
    assert error.details() == failure.message
    if failure.retry_after is not None:
        assert metadata[PUSHBACK_KEY] == str(round(failure.retry_after * 1000))
    return failure
