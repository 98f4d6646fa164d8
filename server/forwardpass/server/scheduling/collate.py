"""Several jobs' arrays to one run's, whose outputs then have a row for each row."""

from collections.abc import Mapping, Sequence

import numpy as np

from forwardpass.server.scheduling.job import Job, Kind
from forwardpass.wire import Array


def collate(jobs: Sequence[Job], kind: Kind | None) -> Mapping[str, Array]:
    """Returns the inputs of all jobs, joined along axis 0; a single job's as they are.

    Args:
        jobs: The jobs.
        kind: As `kind_of` tells.
    """
    if len(jobs) == 1:
        return jobs[0].inputs
    if kind is not None:
        return kind.gather(jobs)
    return {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}


def check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    """Checks that the outputs of a run can be shared out.

    Raises:
        ValueError: An output has not one row for each of the `rows` that went in.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise ValueError(f"output {name!r} has shape {array.shape} for {rows} rows")
