"""Answers Predict, Embed and Generate calls with ONNX models.

The path of a request, and the module for each change of its form:

    bytes ─ transport ─► Call ─ rpc.dispatch ─► handler ─ rpc.inputs ─► Job ─ scheduling ─►
        runtime.session.run ─► result ─ rpc.answers ─► bytes

`transport` knows gRPC and nothing of models; `rpc` knows messages and nothing of gRPC's API;
`scheduling` decides what runs when; `runtime` knows ONNX Runtime and the repository. `app` puts
them together, `workers` runs several of that on one port, `cli` reads the settings.
"""
