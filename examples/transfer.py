"""A classifier of your own photographs, of which a few are enough: transfer learning, end to end.

    python examples/transfer.py digits models/mnist-resnet my-digits

embeds a folder that has a folder for each class, fits a linear layer to the vectors with
scikit-learn, puts it behind the model in one ONNX graph, and publishes that as models/my-digits: a
server then answers `forwardpass predict my-digits photo.jpg` with your classes. The vectors stay
beside the folder, so a second run embeds nothing.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from forwardpass.artefact import CARD_KEY, card_from_json, card_to_json, write_manifest
from forwardpass.v1 import model_card_pb2, tensor_pb2


def embed(photos: Path, model: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the photographs' vectors, float32 (n, dimension), and labels, (n)."""
    out = photos.with_name(f"{photos.name}-vectors")
    program = str(Path(sys.executable).with_name("forwardpass"))
    ended = subprocess.run(
        [program, "embed", str(photos), "--model", str(model.absolute()), "--out", str(out)],
        check=False,
    )
    # 7: done, but some files are no pictures; which, the command has said.
    if ended.returncode not in (0, 7):
        sys.exit(ended.returncode)
    table = parquet.read_table(out / "vectors")
    return np.stack(table["embedding"].to_numpy()), table["label"].to_numpy()


def fit(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns a linear layer that tells labels apart: weights, biases, and what each is of."""
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / len(vectors), max_iter=1000)
    )
    known, held_out, known_labels, held_out_labels = train_test_split(
        vectors, labels, test_size=0.25, stratify=labels, random_state=0
    )
    accuracy = classifier.fit(known, known_labels).score(held_out, held_out_labels)
    print(f"accuracy: {accuracy:.3f} of {len(held_out)} photographs that were held out")
    scaler, regression = classifier.fit(vectors, labels)
    # The scaler's work, done by the layer: w (v - mean) / scale + b = (w / scale) v + b'.
    weights = regression.coef_ / scaler.scale_
    biases = regression.intercept_ - weights @ scaler.mean_
    if len(weights) == 1:
        # Of two classes scikit-learn keeps the second one's score.
        weights, biases = np.concatenate([-weights, weights]) / 2, np.append(-biases, biases) / 2
    return weights.astype(np.float32), biases.astype(np.float32), regression.classes_.tolist()


def join(
    model: Path, weights: np.ndarray, biases: np.ndarray, labels: list[str]
) -> onnx.ModelProto:
    """Returns the model with the layer behind its embedding, and a card that says so."""
    joined = onnx.load(model / "model.onnx")
    properties = {item.key: item for item in joined.metadata_props}
    card = card_from_json(properties[CARD_KEY].value)
    embedding = next(
        output
        for output in card.signature.outputs
        if output.role == model_card_pb2.TENSOR_ROLE_EMBEDDING
    )
    graph = joined.graph
    graph.initializer.append(numpy_helper.from_array(weights.T.copy(), "own_weights"))
    graph.initializer.append(numpy_helper.from_array(biases, "own_biases"))
    graph.node.extend(
        [
            helper.make_node("MatMul", [embedding.name, "own_weights"], ["own_products"]),
            helper.make_node("Add", ["own_products", "own_biases"], ["own_scores"]),
            helper.make_node("Softmax", ["own_scores"], ["own_probabilities"], axis=1),
        ]
    )
    kept = [output for output in graph.output if output.name == embedding.name]
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("own_probabilities", TensorProto.FLOAT, ["rows", len(labels)])
    )
    graph.output.extend(kept)
    own = model_card_pb2.ModelCard(
        description=f"Tells {', '.join(labels[:10])} apart, by what {model.parent.name} sees.",
        labels=labels,
        image=card.image,
        tolerance=card.tolerance,
    )
    own.signature.CopyFrom(card.signature)
    del own.signature.outputs[:]
    own.signature.outputs.add(
        name="own_probabilities",
        data_type=tensor_pb2.DATA_TYPE_FLOAT32,
        shape=[-1, len(labels)],
        role=model_card_pb2.TENSOR_ROLE_PROBABILITIES,
    )
    own.signature.outputs.append(embedding)
    properties[CARD_KEY].value = card_to_json(own)
    onnx.checker.check_model(joined)
    return joined


def newest(model: Path) -> Path:
    """Returns the folder of a model's newest version."""
    return max(
        (path for path in model.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name)
    )


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder with a folder for each class")
    parser.add_argument("model", type=Path, help="an embedder, such as models/resnet50-imagenet")
    parser.add_argument("name", help="what the new model is called, beside the embedder")
    given = parser.parse_args()
    version = newest(given.model)
    weights, biases, labels = fit(*embed(given.photos, version))
    folder = given.model.parent / given.name / "1"
    folder.mkdir(parents=True)
    onnx.save(join(version, weights, biases, labels), folder / "model.onnx")
    write_manifest(folder)
    print(f"published {folder}: serve {given.model.parent}, and call {given.name}")


if __name__ == "__main__":
    main()
