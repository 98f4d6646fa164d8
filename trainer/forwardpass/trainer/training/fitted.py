"""What a training loop found out about a model, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

# What one epoch measured, by name: "train_loss", "validation_accuracy" and so on.
Epoch = dict[str, float]


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a model that was fitted did on the validation rows.

    Attributes:
        metric: The metric's name, such as "accuracy"; greater is better.
        history: What each epoch measured.
        chosen: The epoch whose weights the model has, from 0.
    """

    metric: str
    history: Sequence[Epoch]
    chosen: int

    @property
    def score(self) -> float:
        """The metric after the chosen epoch."""
        return self.history[self.chosen][f"validation_{self.metric}"]

    @property
    def loss(self) -> float:
        """The validation loss after the chosen epoch."""
        return self.history[self.chosen]["validation_loss"]
