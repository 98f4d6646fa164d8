"""What one writes by hand with grpc.server: `python -m benchmarks.peers.grpc_server NAME FILE`.

A thread of a pool answers each call.
"""

import json
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from benchmarks.peers.model import Model, ModelInferRequest, ModelInferResponse
from forwardpass.wire.open_inference import SERVICE

# On one core, rates with 1 to 32 threads differ by less than two runs do.
THREADS = 8


def main() -> None:
    """Serves until it is told to stop."""
    model = Model(sys.argv[1], sys.argv[2])

    def infer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return model.infer(request)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    server = grpc.server(ThreadPoolExecutor(THREADS))
    handler = grpc.unary_unary_rpc_method_handler(
        infer, ModelInferRequest.FromString, ModelInferResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    ready = {"event": "ready", "address": f"127.0.0.1:{port}"}
    print(json.dumps(ready), file=sys.stderr, flush=True)
    stopped.wait()
    server.stop(1).wait()


if __name__ == "__main__":
    main()
