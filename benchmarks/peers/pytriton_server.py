"""PyTriton with the graph behind it: `python pytriton_server.py NAME FILE COLUMNS GRPC HTTP`.

The last two are ports. Runs in PyTriton's own environment, without anything of ours.
"""

import sys
from typing import Any

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

# As many as the other servers may gather.
MOST_ROWS = 64
LOOPBACK = "127.0.0.1"


def main() -> None:
    """Serves until it is told to stop."""
    name, file, columns, grpc_port, http_port = sys.argv[1:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(file, options)

    @batch  # type: ignore[untyped-decorator]  # PyTriton is not installed where types are checked
    def infer(x: Any) -> list[Any]:
        values: list[Any] = session.run(["y"], {"x": x})
        return values

    config = TritonConfig(
        grpc_address=LOOPBACK,
        grpc_port=int(grpc_port),
        http_address=LOOPBACK,
        http_port=int(http_port),
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=(int(columns),))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MOST_ROWS, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
