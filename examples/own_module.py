"""A torch module of your own, trained on your own data, published and tried.

    python examples/own_module.py

trains a small network on the wines that come with scikit-learn: thirteen measurements of a wine go
in, and which of three vineyards it is from comes out. What it publishes is models/wines: `publish`
puts it into ONNX, and refuses it where ONNX Runtime would answer otherwise than torch.
"""

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from forwardpass.trainer import publish

STEPS = 300


class Network(nn.Module):
    """Standardises the measurements, so that callers send them as they were taken."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", rows.mean(dim=0))
        self.register_buffer("deviation", rows.std(dim=0))
        self.body = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, measurements: Tensor) -> dict[str, Tensor]:
        """Returns the logits of the vineyards, by the name that callers read them under."""
        return {"logits": self.body((measurements - self.mean) / self.deviation)}


def main() -> None:
    wines = load_wine()
    rows = wines.data.astype(np.float32)
    split = train_test_split(rows, wines.target, random_state=0, stratify=wines.target)
    train, test, classes, expected = map(torch.from_numpy, split)

    torch.manual_seed(0)
    network = Network(train)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(STEPS):
        loss = functional.cross_entropy(network(train)["logits"], classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()

    right = network(test)["logits"].argmax(dim=1) == expected
    published = publish(
        network,
        "wines",
        inputs={"measurements": test},
        labels=list(wines.target_names),
        metrics={"accuracy": right.double().mean().item()},
    )
    print(f"{published.folder}, accuracy {published.card.metrics['accuracy']:.3f}")
    np.save("wine.npy", test[:1].numpy())


if __name__ == "__main__":
    main()
