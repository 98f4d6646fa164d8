"""What is recorded first, and added up when there is much, or to be read."""

import numpy as np
import pytest

from forwardpass.server.metrics.counters import MethodCounters, ModelCounters
from forwardpass.server.metrics.numbers import MAX_RECORDED
from forwardpass.server.transport.route import CallType


def test_t136_every_call_is_in_the_histogram_of_its_method() -> None:
    counters = MethodCounters(CallType.UNARY)
    spent = np.linspace(0.0, 20.0, 3 * MAX_RECORDED + 7)
    for index, seconds in enumerate(spent.tolist()):
        counters.ended(seconds, index % 2)
    assert len(counters._recorded) == 7
    buckets, total = counters.seconds.cumulative()
    assert total == pytest.approx(spent.sum())
    assert buckets[-1] == ("+Inf", len(spent))
    assert dict(buckets)["10.0"] == (spent <= 10.0).sum()
    assert counters.handled[0].value + counters.handled[1].value == len(spent)
    # To read is not to count again.
    assert counters.seconds.totals() == (len(spent), total)


def test_busy_seconds_are_read_in_the_middle_of_a_run_and_never_fall() -> None:
    counters = ModelCounters()
    started, other = counters.begin_run(), counters.begin_run()
    first, second = counters.busy_seconds, counters.busy_seconds
    assert 0 < first < second
    # As it is read between the end of both runs and the moment that they are recorded.
    ended = list(counters._under_way)
    counters._under_way.clear()
    assert counters.busy_seconds == second
    counters._under_way.extend(ended)
    counters.ran(started, 1, [0.5], 1000)
    counters.run_failed(other, [0.25])
    assert round(counters.busy_seconds / 1000) == 1
    assert counters.busy_seconds > 1000
    assert counters.queue_seconds == 0.75
