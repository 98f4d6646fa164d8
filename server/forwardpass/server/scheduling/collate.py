"""Several jobs' arrays to one run's, and the run's outputs back to each job's own rows."""

from collections.abc import Mapping, Sequence

import numpy as np

from forwardpass.server.scheduling.job import Job
from forwardpass.wire import Array


def collate(jobs: Sequence[Job]) -> Mapping[str, Array]:
    """Returns the inputs of all jobs, joined along axis 0; a single job's as they are."""
    if len(jobs) == 1:
        return jobs[0].inputs
    return {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}


def split(outputs: Mapping[str, Array], jobs: Sequence[Job]) -> list[Mapping[str, Array]]:
    """Returns each job's rows of the outputs, without copying them.

    Raises:
        ValueError: An output has not one row for each row that went in.
    """
    if len(jobs) == 1:
        return [outputs]
    rows = sum(job.rows for job in jobs)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise ValueError(f"output {name!r} has shape {array.shape} for {rows} rows")
    parts: list[Mapping[str, Array]] = []
    start = 0
    for job in jobs:
        parts.append({name: array[start : start + job.rows] for name, array in outputs.items()})
        start += job.rows
    return parts
