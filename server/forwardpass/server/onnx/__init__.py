"""ONNX Runtime: sessions, execution providers, and what a graph takes and gives."""

import os

# ONNX Runtime 1.29 and later send telemetry unless told not to before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
