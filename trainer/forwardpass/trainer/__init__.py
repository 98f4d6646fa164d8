"""From data to a checked artefact.

    data ─ recipe ─► model ─ fit ─► weights ─ export ─► ONNX ─ parity ─► MODELS/<name>/<n>

A recipe (`recipes/`, one file each) says what is learned from what; `fit` is the loop; `export/`
turns the weights into a file that ONNX Runtime answers from as torch does, or publishes nothing.
"""
