"""Servers that are at fault, for the soak to find: `python doubles.py keeps|errs`.

The first keeps each request, the second gives a wrong answer now and then.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from forwardpass.v1.inference_service_pb2 import PredictRequest, PredictResponse
from forwardpass.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)

# One of so many answers is wrong.
WRONG = 40


class Double(InferenceServiceServicer):
    """Gives back what it is given, like the model `echo`.

    Args:
        fault: "keeps" or "errs".
    """

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._kept: list[bytes] = []
        self._answers = 0

    def Predict(self, request: PredictRequest, context: Any) -> PredictResponse:  # noqa: N802  # as it is generated
        """Answers a request with its input."""
        if "x" not in request.inputs:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is no input 'x'")
        answer = PredictResponse()
        answer.outputs["y"].CopyFrom(request.inputs["x"])
        self._answers += 1
        if self._fault == "keeps":
            self._kept.append(request.SerializeToString())
        elif self._answers % WRONG == 0:
            answer.outputs["y"].content = bytes(len(answer.outputs["y"].content))
        return answer


def main(fault: str) -> None:
    """Serves until it is ended."""
    server = grpc.server(ThreadPoolExecutor(8))
    double = Double(fault)  # type: ignore[abstract]  # nobody calls the other methods
    add_InferenceServiceServicer_to_server(double, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    for line in ({"event": "listening", "address": address, "metrics": ""}, {"event": "ready"}):
        sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
