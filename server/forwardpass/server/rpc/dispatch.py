"""What happens to every call before its handler sees it: it is counted, and admitted or refused."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from time import perf_counter
from typing import Any, TypeAlias

import structlog

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.counters import MethodCounters
from forwardpass.server.rpc.authorization import Authorization
from forwardpass.server.rpc.request_templates import RequestTemplates
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.route import CallType, Route
from forwardpass.server.transport.stream_call import StreamCall

Begin: TypeAlias = Callable[[StreamCall, bytes], None]
Pass: TypeAlias = Callable[[Call, int], None]
_log = structlog.get_logger()


class Takes(Enum):
    """What a call of a method takes a place of, before its message is parsed."""

    NOTHING = auto()
    CALL = auto()
    # Its requests take the places of calls, each its own.
    STREAM = auto()
    WATCH = auto()


@dataclass(frozen=True, slots=True)
class Method:
    """A line of the table of methods.

    Attributes:
        call_type: How many messages go each way.
        begin: Begins to answer a call, as `Route.begin`.
        takes: What its calls take a place of.
        is_management: Whether it changes what is served, and so is answered where the operator
            says, to whom the operator says.
    """

    call_type: CallType
    begin: Begin
    takes: Takes = Takes.NOTHING
    is_management: bool = False


def fact(answer: Callable[[bytes], bytes]) -> Method:
    """Returns a method that is answered from what is known, whatever else is under way."""
    return Method(CallType.UNARY, lambda call, message: call.reply(answer(message)))


def work(
    handler: Callable[[Call, bytes], Coroutine[Any, Any, bytes]],
    templates: RequestTemplates | None = None,
) -> Method:
    """Returns a method with one answer that runs a model.

    Args:
        handler: Answers a request.
        templates: Of its requests, tried first; None where no request is like another.
    """
    if templates is None:
        return Method(
            CallType.UNARY,
            lambda call, message: call.drive(handler(call, message)),
            takes=Takes.CALL,
        )
    take = templates.take

    def begin(call: StreamCall, message: bytes) -> None:
        if not take(call, message):
            call.drive(handler(call, message))

    return Method(CallType.UNARY, begin, takes=Takes.CALL)


def answers(
    handler: Callable[[StreamCall, bytes], Coroutine[Any, Any, None]], *, takes: Takes
) -> Method:
    """Returns a method with many answers to one message."""
    return Method(
        CallType.SERVER_STREAM,
        lambda call, message: call.drive_stream(handler(call, message)),
        takes=takes,
    )


def stream(handler: Callable[[StreamCall], Coroutine[Any, Any, None]]) -> Method:
    """Returns a method with many messages each way."""
    return Method(
        CallType.BIDI_STREAM,
        lambda call, _: call.drive_stream(handler(call)),
        takes=Takes.STREAM,
    )


def management(handler: Callable[[Call, bytes], Coroutine[Any, Any, bytes]]) -> Method:
    """Returns a method that changes what is served."""
    return Method(
        CallType.UNARY,
        lambda call, message: call.drive(handler(call, message)),
        is_management=True,
    )


class Gate:
    """What every call of a method passes when it comes and when it goes.

    Args:
        begin: Begins to answer a call.
        counters: What is counted of its method.
        places: What lets a call in, given the call and its bytes, and what lets it out again; None
            where all come in.
    """

    def __init__(
        self, begin: Begin, counters: MethodCounters, places: tuple[Pass, Pass] | None
    ) -> None:
        self._begin = begin
        self._count_start = counters.started.add
        self._count_end = counters.ended
        self._let_in: Pass | None = None if places is None else places[0]
        self._let_out: Pass | None = None if places is None else places[1]
        # What a line says of a call takes longer to find out than the call takes to be refused.
        self._is_logged = _log.is_enabled_for(logging.DEBUG)

    def enter(self, call: StreamCall, message: bytes) -> None:
        """Lets a call in, and has its handler begin.

        Raises:
            CallError: It is not admitted.
        """
        self._count_start()
        call.size = len(message)
        try:
            if self._let_in is not None:
                self._let_in(call, call.size)
        except CallError:
            call.on_end(self._count)
            raise
        call.on_end(self._leave)
        self._begin(call, message)

    def _leave(self, call: Call, code: int) -> None:
        self._count(call, code)
        if self._let_out is not None:
            self._let_out(call, call.size)

    def _count(self, call: Call, code: int) -> None:
        self._count_end(perf_counter() - call.started, code)
        if self._is_logged:
            _log_end(call, code)


def routes(
    methods: Mapping[str, Method],
    counters: Mapping[str, MethodCounters],
    admission: Admission,
    authorization: Authorization | None,
) -> dict[str, Route]:
    """Returns what a transport asks for, with every call passing its method's gate.

    Args:
        methods: By path.
        counters: By path.
        admission: Admits the calls that run models.
        authorization: Tells who may manage; None where whoever reaches the port may.
    """
    places = {
        Takes.NOTHING: None,
        Takes.CALL: (admission.enter, admission.leave),
        Takes.STREAM: (admission.enter_stream, admission.leave_stream),
        Takes.WATCH: (admission.enter_watch, admission.leave_watch),
    }
    found = {}
    for path, method in methods.items():
        begin = method.begin
        if method.is_management and authorization is not None:
            begin = authorization.required(begin)
        found[path] = Route(
            method.call_type, Gate(begin, counters[path], places[method.takes]).enter
        )
    return found


def _log_end(call: Call, code: int) -> None:
    _log.debug(
        "call",
        method=call.method,
        code=code,
        request_id=call.request_id,
        peer=call.peer,
        seconds=round(call.elapsed, 6),
    )
