"""For the KServe SDK's own environment: makes calls to a server, prints what came, as JSON.

Run as: python client.py ADDRESS
"""

import asyncio
import json
import sys
from typing import Any

import grpc
import numpy as np
from kserve import (  # type: ignore[attr-defined]  # installed in the environment that runs this
    InferenceGRPCClient,
    InferInput,
    InferRequest,
)

_FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)
_ECHOED = {
    "FP16": np.array([0.5, -65504, np.inf], np.float16),
    "BOOL": np.array([True, False]),
    "INT64": np.array([2**63 - 1, -(2**63)]),
    "BYTES": np.array([b"", "ünï 🙂".encode(), b"b"], object),
}


def _input(name: str, kind: str, array: Any, *, raw: bool) -> Any:
    made = InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array, binary_data=raw)
    return made


async def _infer(client: Any, model: str, *inputs: Any) -> Any:
    request = InferRequest(model_name=model, infer_inputs=list(inputs), request_id="mine")
    return await client.infer(request, headers=(("x-request-id", "mine"),))


async def _refusal(client: Any, model: str, array: Any) -> list[str]:
    try:
        await _infer(client, model, _input("features", "FP32", array, raw=True))
    except grpc.RpcError as error:
        return [error.code().name, error.details() or ""]
    return []


async def _tell(address: str) -> dict[str, Any]:
    async with InferenceGRPCClient(address, timeout=60) as client:
        told = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready("emb"),
        }
        for form in ("raw", "typed"):
            features = _input("features", "FP32", _FEATURES, raw=form == "raw")
            response = await _infer(client, "emb", features)
            told[form] = response.outputs[0].as_numpy().tolist()
        told["answered"] = [response.id, response.model_name, response.model_version]
        told["same"] = {}
        for kind, array in _ECHOED.items():
            response = await _infer(client, kind, _input("x", kind, array, raw=True))
            echoed = response.outputs[0].as_numpy()
            told["same"][kind] = echoed.dtype == array.dtype and echoed.tolist() == array.tolist()
        told["refusals"] = [
            await _refusal(client, "embb", _FEATURES),
            await _refusal(client, "emb", _FEATURES[:, :3]),
        ]
        return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_tell(sys.argv[1]))))
