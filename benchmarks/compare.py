"""Compares what is checked out with an earlier commit: `make bench BASE=COMMIT` runs it.

Exits with 1 where a figure falls short of the earlier commit's.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import grpc
from rich.progress import track

from benchmarks.builds import Build, build, checked_out, find_commit
from benchmarks.competitor import Competitor
from benchmarks.figures import LEAST, MEMORY, RATE, SECONDS, Figure
from benchmarks.questions import publish
from benchmarks.report import Table, machine, show
from benchmarks.serving import CLIENT_CORES, Serving, serve

REPOSITORY = Path(__file__).parents[1]
MEASUREMENTS = ("rates", "rows", "streams", "starts", "memory")
_COLD, _WARM = "start, verification cache cold", "start, verification cache warm"
_READY, _MOST = "resident memory once ready", "most resident memory, after some load"
Each = TypeVar("Each")
Given = TypeVar("Given")


def main() -> None:
    """Builds both commits, measures them in turn, and prints the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is measured")
    parser.add_argument("--only", choices=MEASUREMENTS, help="measure one thing")
    given = parser.parse_args()
    base, current = find_commit(REPOSITORY, given.base), checked_out(REPOSITORY)
    heading = f"{current.told} (current) against {base.told} (base)"
    print(f"{heading}, on {machine()}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        builds = [
            build(name, REPOSITORY, commit, Path(scratch) / name)
            for name, commit in (("base", base), ("current", current))
        ]
        # We call from here, and so does what we start unless it is put elsewhere.
        os.sched_setaffinity(0, CLIENT_CORES)
        wanted = {given.only} if given.only else set(MEASUREMENTS)
        figures = Comparison(builds, Path(scratch), wanted).measure(given.rounds)
    show([_table(heading, figures, given.rounds)])
    short = [figure.what for figure in figures if figure.falls_short()]
    if short:
        print(f"{current.told} FALLS SHORT of {base.told}: {'; '.join(short)}")
        sys.exit(1)
    print(f"{current.told} does not fall short of {base.told}")


class Comparison:
    """Two builds, measured in turn.

    Args:
        builds: The base, then the current one.
        scratch: A folder for what they serve and what they keep.
        wanted: Which of MEASUREMENTS to make.
    """

    def __init__(self, builds: Sequence[Build], scratch: Path, wanted: Collection[str]) -> None:
        self._builds = builds
        self._scratch = scratch
        self._models = scratch / "models"
        self._again = "starts" in wanted
        questions = publish(self._models)
        # Memory is read after a little of every question, whether or not that is measured.
        self._asked = [
            question
            for name, group in questions.items()
            if name in wanted or "memory" in wanted
            for question in group
        ]
        figures = {
            **{
                name: [Figure(one.what, RATE) for one in group] for name, group in questions.items()
            },
            "starts": [Figure(_COLD, SECONDS), Figure(_WARM, SECONDS)],
            "memory": [Figure(_READY, MEMORY), Figure(_MOST, MEMORY)],
        }
        self._figures = {
            one.what: one for name in figures if name in wanted for one in figures[name]
        }

    def measure(self, rounds: int) -> Sequence[Figure]:
        """Returns what is wanted, measured in each round.

        Raises:
            SystemExit: A server does not start, does not answer, or answers wrongly.
        """
        for number in track(range(rounds), "rounds"):
            self._measure_round(number)
        return list(self._figures.values())

    def _measure_round(self, number: int) -> None:
        """Measures servers that are started for this round.

        Two processes of one build differ for as long as they run: by where things lie in memory,
        and by the batches that they have found to pay. Servers that stayed would be compared with
        these differences, which no interval over the rounds would show.
        """
        # Neither is always the first.
        builds = {one.name: one for one in self._builds[:: -1 if number % 2 else 1]}
        with ExitStack() as stack:
            servings = _in_turn(builds, lambda one: stack.enter_context(self._start(one, number)))
            self._add(_COLD, _in_turn(servings, lambda one: one.seconds_to_ready))
            self._add(_READY, _in_turn(servings, Serving.rss_megabytes))
            pairs = {one.what: _in_turn(servings, one.competitor) for one in self._asked}
            self._add(_MOST, _in_turn(servings, Serving.most_rss_megabytes))
            for what, pair in pairs.items():
                if what in self._figures:
                    _in_turn(pair, Competitor.measure)
                    self._add(what, _in_turn(pair, lambda one: one.rates[-1]))
            if pairs:
                _in_turn(servings, Serving.check_handled)
        if self._again:
            self._add(_WARM, _in_turn(builds, lambda one: self._seconds_to_ready(one, number)))

    def _start(self, build: Build, number: int) -> Serving:
        cache = self._scratch / f"{build.name}-cache-{number}"
        return serve(self._models, cache=cache, program=build.program)

    def _seconds_to_ready(self, build: Build, number: int) -> float:
        with self._start(build, number) as serving:
            return serving.seconds_to_ready

    def _add(self, what: str, values: Mapping[str, float]) -> None:
        if what in self._figures:
            self._figures[what].add(**values)


def _in_turn(things: Mapping[str, Each], step: Callable[[Each], Given]) -> dict[str, Given]:
    """Takes a step with the thing of each build; where one fails, tells of which build it is."""
    given = {}
    for name, thing in things.items():
        try:
            given[name] = step(thing)
        except (SystemExit, grpc.RpcError) as error:
            raise SystemExit(f"{name}: {error}") from error
    return given


def _table(heading: str, figures: Sequence[Figure], rounds: int) -> Table:
    how = (
        f"Medians of {rounds} rounds, and of the rounds' ratios the 95 % bootstrap interval. A "
        "ratio above 1 is for the current build: current ÷ base, of seconds and memory base ÷ "
        f"current. It falls short where the whole interval is below {LEAST}. Each server on one "
        "core, the other one idle, h2load on another core."
    )
    columns = ["what", "base", "current", "ratio", ""]
    return Table(heading, how, columns, [figure.cells() for figure in figures])


if __name__ == "__main__":
    main()
