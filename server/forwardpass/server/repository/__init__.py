"""Models on disk and in memory: the repository, its versions, and ONNX Runtime."""
