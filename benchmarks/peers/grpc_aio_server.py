"""What one writes by hand with grpc.aio: `python -m benchmarks.peers.grpc_aio_server NAME FILE`.

The graph runs on the event loop's own thread: a small one takes less time than a change of thread.
"""

import asyncio
import json
import signal
import sys
from typing import Any

import grpc

from benchmarks.peers.model import Model, ModelInferRequest, ModelInferResponse
from forwardpass.wire.open_inference import SERVICE


async def main() -> None:
    """Serves until it is told to stop."""
    model = Model(sys.argv[1], sys.argv[2])

    async def infer(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        try:
            return model.infer(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        infer, ModelInferRequest.FromString, ModelInferResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    ready = {"event": "ready", "address": f"127.0.0.1:{port}"}
    print(json.dumps(ready), file=sys.stderr, flush=True)
    await stopped.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main())
