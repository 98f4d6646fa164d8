"""ONNX Runtime: sessions, execution providers, and what a graph takes and gives."""
