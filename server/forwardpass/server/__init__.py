"""Answers Predict, Embed and Generate calls with ONNX models.

Layers, from the top; each imports only what stands below it (`tests/test_layout.py`):

- `cli`, `options`, `settings`, `workers`, `check`, `app`, `build`, `routes`: make up the server.
- `native`, `open_inference`: what each method of the two protocols does.
- `rpc`: what both share, from a message's bytes to a run of a model.
- `repository`, `loading`: the models on disk, and what makes one ready.
- `scheduling`: what runs when.
- `onnx`: ONNX Runtime. `metrics`: what is counted. `transport`: the network.
- `process`: memory, threads and log of the process. `errors`: why a call is refused.

server/README.md draws the path of a request.
"""
