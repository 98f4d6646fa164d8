"""From a trained module to a published version.

    module ─ graph ─► ONNX ─ parity ─► card ─ publish ─► MODELS/<name>/<n>

Each arrow either succeeds or raises, and nothing is visible to a server before the last one.
"""
