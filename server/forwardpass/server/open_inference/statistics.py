"""ModelStatistics: what has been counted for each version since it was found."""

from typing import Any

from forwardpass.server.open_inference.messages import message as kind
from forwardpass.server.open_inference.messages import read
from forwardpass.server.open_inference.reference import leased
from forwardpass.server.repository.repository import Repository
from forwardpass.server.repository.version import Version

_ModelStatisticsResponse = kind("ModelStatisticsResponse")

_StatisticDuration = kind("StatisticDuration")
_InferBatchStatistics = kind("InferBatchStatistics")
# Our phases under the protocol's names.
_PHASES = {
    "queue": "queue",
    "compute_input": "decode",
    "compute_infer": "compute",
    "compute_output": "encode",
}


class Statistics:
    """Answers ModelStatistics.

    Args:
        repository: The models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def model_statistics(self, message: bytes) -> bytes:
        """Answers a ModelStatisticsRequest: of one model, or of every one where none is named."""
        request = read(kind("ModelStatisticsRequest"), message)
        names = sorted(self._repository.models)
        number = None
        if request.name:
            with leased(self._repository, request.name, request.version) as loaded:
                names = [loaded.name]
                number = loaded.number if request.version else None
        response = _ModelStatisticsResponse()
        for name in names:
            for version in self._repository.models[name].versions:
                if version.ready and number in (None, version.number):
                    _describe(version, response.model_stats.add())
        data: bytes = response.SerializeToString()
        return data


def _describe(version: Version, statistics: Any) -> None:
    counters = version.counters
    statistics.name, statistics.version = version.name, str(version.number)
    statistics.last_inference = int(counters.last_run * 1e3)
    statistics.inference_count = counters.rows
    statistics.execution_count = counters.runs
    inference = statistics.inference_stats
    inference.success.CopyFrom(_duration(*counters.succeeded))
    inference.fail.CopyFrom(_duration(*counters.failed.read()))
    totals = counters.phase_totals()
    for theirs, ours in _PHASES.items():
        getattr(inference, theirs).CopyFrom(_duration(*totals[ours]))
    # Requests are decoded and encoded one by one, outside of runs: a run has no times for these.
    statistics.batch_stats.extend(
        _InferBatchStatistics(batch_size=rows, compute_infer=_duration(runs, seconds))
        for rows, runs, seconds in counters.batches()
    )


def _duration(count: int, seconds: float) -> Any:
    return _StatisticDuration(count=count, ns=round(seconds * 1e9))
