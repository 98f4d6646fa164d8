"""From a trained module to a published version.

    module ─ graph ─► ONNX ─ parity ─► card ─ publish ─► MODELS/<name>/<n>
                        └─── int8 ────► card ─ publish ─► MODELS/<name>/<n + 1>

Each arrow either succeeds or raises, and nothing is visible to a server before the last one.
"""

import os

# ONNX Runtime 1.29 and later send telemetry unless told not to before the import. The trainer
# imports it in this package alone.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
