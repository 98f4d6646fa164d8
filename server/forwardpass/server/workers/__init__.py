"""Several processes that serve one port, and the one that starts them and counts for them.

    supervisor ── port       holds the gRPC port, so that none but its workers can listen there
        │  ╲── aggregate   what all workers have counted, rendered at /metrics
        ├── process ── pipe ── worker     a `Server` as one process has it, without its metrics port
        └── process ── pipe ── worker

The supervisor knows neither gRPC nor ONNX Runtime. No call passes through it: the kernel gives each
connection to one of the workers.
"""
