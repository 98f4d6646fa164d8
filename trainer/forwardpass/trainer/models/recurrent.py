"""Recurrent networks: one cell, used again at each step, with a state h_t between the steps.

Each comes in two forms with the same weights. Unrolled it takes a sequence of any length and is
trained through time; as a step it takes one element and the state before it, and gives the state
after it, so that whoever keeps the state can go on whenever the next element comes.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class Scale(nn.Module):
    """Brings a series to mean 0 and deviation 1, and back.

    Args:
        kind: Of which function of the values: "log" where what happens is proportional to the
            level, "sqrt" where the values are counts, "linear" where they may be below 0.
        values: The training values, (t).
    """

    def __init__(self, kind: Literal["log", "sqrt", "linear"], values: Tensor) -> None:
        super().__init__()
        self.kind = kind
        curved = self._curve(values)
        self.mean, self.deviation = float(curved.mean()), float(curved.std())

    def forward(self, values: Tensor) -> Tensor:
        """From values to scaled ones, of any shape; below 1 for "log", or 0, they count as that."""
        return (self._curve(values) - self.mean) / self.deviation

    def back(self, scaled: Tensor) -> Tensor:
        """From scaled values to values; what `forward` undoes."""
        curved = scaled * self.deviation + self.mean
        if self.kind == "linear":
            return curved
        return curved.exp() if self.kind == "log" else curved.clamp(min=0).square()

    def _curve(self, values: Tensor) -> Tensor:
        if self.kind == "linear":
            return values
        return values.clamp(min=1).log() if self.kind == "log" else values.clamp(min=0).sqrt()


class Forecaster(nn.Module):
    """Forecasts the next value of a series after each one, in the series' own unit.

    The network gives by how much the next value differs from the last, so that one that has learned
    nothing repeats the last value.

    Args:
        cell: "rnn" is Elman's (1990), h' = tanh(W x + U h + b), "lstm" Hochreiter and
            Schmidhuber's (1997), whose second state, c, is added to and not overwritten.
        width: Numbers in a state.
        scale: Of the series.
    """

    def __init__(self, cell: Literal["rnn", "lstm"], width: int, scale: Scale) -> None:
        super().__init__()
        kind = nn.RNN if cell == "rnn" else nn.LSTM
        self.scale = scale
        self.cell = kind(1, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, series: Tensor) -> Tensor:
        """From float32 (n, t) to the forecast of each value's next, float32 (n, t)."""
        hidden, _ = self.cell(self.scale(series)[..., None])  # (n, t, width)
        return self._next(series, hidden)

    @torch.no_grad()
    def read(self, series: Tensor) -> tuple[Tensor, ...]:
        """From float32 (n, t) to h, and c of an LSTM, after the last value, each (n, width)."""
        _, after = self.cell(self.scale(series)[..., None])
        return tuple(state[0] for state in (after if isinstance(after, tuple) else (after,)))

    def loss(self, forecasts: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean squared error of the last forecasts, scaled: of (n, t) and (n, k)."""
        last = forecasts[:, -targets.shape[1] :]
        return functional.mse_loss(self.scale(last), self.scale(targets))

    def step(self, value: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Goes on by one value.

        Args:
            value: float32 (n, 1).
            *states: h, and c of an LSTM, each float32 (n, width); zeros before the first value.

        Returns:
            The forecast of the next value, (n, 1), and the states after this one.
        """
        before = [state[None] for state in states]  # (layers, n, width)
        hidden, after = self.cell(
            self.scale(value)[..., None], before[0] if len(before) == 1 else tuple(before)
        )
        after = after if isinstance(after, tuple) else (after,)
        return self._next(value, hidden), *(state[0] for state in after)

    def _next(self, last: Tensor, hidden: Tensor) -> Tensor:
        change: Tensor = self.head(hidden)[..., 0]
        return self.scale.back(self.scale(last) + change)


class RnnStep(nn.Module):
    """What is published of a forecaster with one state: its step, with names."""

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        self.forecaster = forecaster

    def forward(self, value: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """From (n, 1) and (n, width) to the next value's forecast, (n, 1), and h after it."""
        return self.forecaster.step(value, h)


class LstmStep(nn.Module):
    """What is published of a forecaster with two states: its step, with names."""

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        self.forecaster = forecaster

    def forward(self, value: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """From (n, 1) and twice (n, width) to the forecast, (n, 1), and h and c after it."""
        return self.forecaster.step(value, h, c)


class CharacterGru(nn.Module):
    """Tells which character comes next: a gated recurrent unit (Cho et al. 2014) on embeddings.

    Args:
        characters: How many there are.
        embedding: Numbers that a character is given as.
        width: Numbers in the state.
    """

    def __init__(self, characters: int, embedding: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.cell = nn.GRU(embedding, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, tokens: Tensor) -> Tensor:
        """From int64 (n, t) to the logits of what follows each, (n, characters, t).

        That is where losses and metrics look for classes.
        """
        hidden, _ = self.cell(self.embedding(tokens))  # (n, t, width)
        logits: Tensor = self.head(hidden)  # (n, t, characters)
        return logits.transpose(1, 2)


class CharacterStep(nn.Module):
    """What is published of a `CharacterGru`: its step, with names."""

    def __init__(self, network: CharacterGru) -> None:
        super().__init__()
        self.network = network

    def forward(self, token: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """From int64 (n) and float32 (n, width) to logits (n, characters) and h after it."""
        embedded = self.network.embedding(token)[:, None]  # (n, 1, embedding)
        hidden, after = self.network.cell(embedded, h[None])
        logits: Tensor = self.network.head(hidden[:, 0])
        return logits, after[0]


@torch.no_grad()
def states_along(cell: nn.RNN | nn.LSTM | nn.GRU, inputs: Tensor) -> Tensor:
    """Returns h after each step of a sequence from its start, (t, width).

    Args:
        cell: Of one layer, batch first.
        inputs: (t, inputs).
    """
    hidden, _ = cell(inputs[None])
    states: Tensor = hidden[0]
    return states
