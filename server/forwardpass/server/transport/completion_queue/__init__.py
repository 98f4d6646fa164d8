"""The fast transport: one thread drives gRPC core's completion queue.

It stands on `grpc._cython.cygrpc`, the layer under grpcio's own server, which is no public API.
What it uses of it is named in `core`, tried out at every start by `contract`, and pinned by the
range of grpcio in pyproject.toml. Where the trial fails the stock transport takes over.
"""
