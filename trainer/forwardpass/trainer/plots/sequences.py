"""What a recurrent network makes of a sequence: forecasts, what context is worth, its state."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from forwardpass.trainer.plots.canvas import TRAIN, VALIDATION, drawing, to_png

Floats = NDArray[np.float32]
# Of what a forecast is compared with.
_TRUTH, _BASELINE = "black", "#999999"
# Units of a state that are drawn, so that each can be told from the next.
_UNITS = 24


def forecast_picture(
    times: Floats,
    series: Floats,
    forecasts: Mapping[str, Floats],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> bytes:
    """Draws the whole series, and beside it the held-out end with each forecast of it.

    Args:
        times: When each value was measured (t).
        series: The values (t).
        forecasts: Of the last values, each made from those before it, by what made it; the first
            is the network's.
        title: Of the series.
        xlabel: What the times count.
        ylabel: What its values are, with their unit.
    """
    held_out = len(next(iter(forecasts.values())))
    begin = times[-held_out]
    with drawing(9, 6.4) as figure:
        whole, end = figure.subplots(2, 1)
        whole.plot(times, series, color=_TRUTH, linewidth=0.9)
        whole.axvspan(begin, times[-1], color=VALIDATION, alpha=0.15, label="held out")
        whole.set(xlabel=xlabel)
        whole.set_title(title, parse_math=False)
        whole.set_ylabel(ylabel, parse_math=False)
        whole.legend(loc="upper left")
        end.plot(times[-held_out:], series[-held_out:], color=_TRUTH, label="what came")
        colours = (VALIDATION, _BASELINE)
        for (name, values), colour in zip(forecasts.items(), colours, strict=True):
            error = float(np.abs(values - series[-held_out:]).mean())
            style = "-" if colour == VALIDATION else "--"
            label = f"{name}, off by {error:.3g} on average"
            end.plot(times[-held_out:], values, style, color=colour, linewidth=1.3, label=label)
        end.set(title="Each value forecast from those before it", xlabel=xlabel)
        end.set_ylabel(ylabel, parse_math=False)
        end.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(*end.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return to_png(figure)


def bits_by_context(bits: Floats, baselines: Mapping[str, float]) -> bytes:
    """Draws how much better a character is foretold the more characters came before it.

    Args:
        bits: Mean cross-entropy of the next character after 1, 2, 3 ... characters (t).
        baselines: That of models which look at a fixed number of characters, by name.
    """
    with drawing(7, 4) as figure:
        axes = figure.subplots()
        counts = np.arange(1, len(bits) + 1)
        axes.plot(counts, bits, color=VALIDATION, label="the network")
        for style, (name, value) in zip(("--", ":"), baselines.items(), strict=True):
            axes.axhline(value, color=_BASELINE, linestyle=style, label=f"{name}: {value:.2f}")
        axes.set(
            title="What the state is worth",
            xlabel="characters read before the one that is foretold",
            ylabel="bits a character, held-out chapters",
            xscale="log",
            ylim=(0, None),
        )
        axes.legend()
        return to_png(figure)


def state_along(
    states: Floats,
    ticks: Sequence[tuple[int, str]],
    values: Floats | None = None,
    *,
    xlabel: str,
    title: str = "",
) -> bytes:
    """Draws the units of a state that vary most, step by step, as colours.

    Args:
        states: After each step, in [-1, 1] (t, units).
        ticks: Steps that are marked, and what is written there.
        values: What was read at each step, drawn above; None for nothing (t).
        xlabel: What a step is.
        title: What the values are.
    """
    shown = np.sort(np.argsort(-states.std(axis=0), kind="stable")[:_UNITS])
    with drawing(10, 4.6) as figure:
        if values is None:
            units = figure.subplots()
        else:
            above, units = figure.subplots(2, 1, height_ratios=(1, 2), sharex=True)
            above.plot(values, color=TRAIN)
            above.set_title(title, parse_math=False)
        drawn = units.imshow(
            states[:, shown].T,
            cmap="PuOr_r",
            vmin=-1,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
        )
        units.grid(visible=False)
        units.set_xticks([step for step, _ in ticks], [text for _, text in ticks])
        units.set_yticks([])
        units.set(xlabel=xlabel, ylabel=f"{len(shown)} of {states.shape[1]} units of $h_t$")
        figure.colorbar(drawn, ax=units, label="$h_t$", pad=0.01)
        return to_png(figure)
