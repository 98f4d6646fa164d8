"""What `forwardpass-train publish` needs beside the ONNX file of Magika: samples and labels.

    pip install --no-deps --target foreign magika==1.0.3
    python examples/magika_samples.py foreign

Magika tells the kind of a file by its first and its last 1,024 bytes. The samples are the files of
this folder; file.npy is one of them, to ask a server with.
"""

import json
import sys
from pathlib import Path

import numpy as np

HOME = "magika/models/standard_v3_3"
PART, PADDING = 1024, 256


def to_input(data: bytes) -> np.ndarray:
    """Returns a file's bytes as the model takes them, int32 (2 * PART)."""
    first, last = (np.frombuffer(part, np.uint8) for part in (data[:PART], data[-PART:]))
    padded = np.full(2 * PART, PADDING, np.int32)
    padded[: len(first)] = first
    padded[2 * PART - len(last) :] = last
    return padded


def main() -> None:
    config = json.loads((Path(sys.argv[1]) / HOME / "config.min.json").read_text(encoding="utf-8"))
    labels = config["target_labels_space"]
    Path("labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    files = [path for path in sorted(Path(__file__).parent.iterdir()) if path.is_file()]
    np.savez("samples.npz", bytes=np.stack([to_input(path.read_bytes()) for path in files]))
    np.save("file.npy", to_input(Path(__file__).read_bytes())[np.newaxis])


if __name__ == "__main__":
    main()
