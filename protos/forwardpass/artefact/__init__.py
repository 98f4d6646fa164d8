"""The published model: what the trainer writes and the server believes.

MODELS/<name>/<version>/
    model.onnx      the graph, its weights, and its card in the metadata
    golden.npz      inputs, and the framework's own outputs for them (see ModelCard.golden_source)
    plots/*.png     pictures for people
    report.html     all of it as one page for people
    manifest.json   size and SHA-256 of every other file; written last
"""

from forwardpass.artefact.card import CARD_KEY, CardError, card_from_json, card_to_json
from forwardpass.artefact.digest import array_digest, file_digest, space_id
from forwardpass.artefact.golden import (
    GOLDEN_FILE,
    MAX_GOLDEN_BYTES,
    Golden,
    load_golden,
    parse_golden,
    save_golden,
)
from forwardpass.artefact.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestError,
    compare_names,
    parse_manifest,
    read_manifest,
    verify_manifest,
    write_manifest,
)
from forwardpass.artefact.onnx_graph import (
    External,
    GraphError,
    GraphFile,
    parse_model,
    read_graph,
)
from forwardpass.artefact.philox import draw_latents, draw_uniforms
from forwardpass.artefact.tolerance import max_absolute_error, relative_difference, within

MODEL_FILE = "model.onnx"

__all__ = [
    "CARD_KEY",
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "MAX_GOLDEN_BYTES",
    "MAX_MANIFEST_BYTES",
    "MODEL_FILE",
    "CardError",
    "External",
    "Golden",
    "GraphError",
    "GraphFile",
    "Manifest",
    "ManifestError",
    "array_digest",
    "card_from_json",
    "card_to_json",
    "compare_names",
    "draw_latents",
    "draw_uniforms",
    "file_digest",
    "load_golden",
    "max_absolute_error",
    "parse_golden",
    "parse_manifest",
    "parse_model",
    "read_graph",
    "read_manifest",
    "relative_difference",
    "save_golden",
    "space_id",
    "verify_manifest",
    "within",
    "write_manifest",
]
