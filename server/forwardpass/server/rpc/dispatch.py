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
from forwardpass.server.rpc.tokens import Permission
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.route import BUSY, UNKNOWN, CallType, Route
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.wire import Failure

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
        permission: What a token has to permit where the server takes tokens; None where it never
            takes one. Methods that need `MANAGE` change what is served, and so are answered where
            the operator says.
        takes: What its calls take a place of.
    """

    call_type: CallType
    begin: Begin
    permission: Permission | None
    takes: Takes = Takes.NOTHING


def fact(answer: Callable[[bytes], bytes], permission: Permission | None) -> Method:
    """Returns a method that is answered from what is known, whatever else is under way."""
    return Method(CallType.UNARY, lambda call, message: call.reply(answer(message)), permission)


def work(
    handler: Callable[[Call, bytes], Coroutine[Any, Any, bytes]],
    permission: Permission,
    templates: RequestTemplates | None = None,
) -> Method:
    """Returns a method with one answer that runs a model.

    Args:
        handler: Answers a request.
        permission: What a token has to permit.
        templates: Of its requests, tried first; None where no request is like another.
    """
    if templates is None:
        return Method(
            CallType.UNARY,
            lambda call, message: call.drive(handler(call, message)),
            permission,
            Takes.CALL,
        )
    take = templates.take

    def begin(call: StreamCall, message: bytes) -> None:
        if not take(call, message):
            call.drive(handler(call, message))

    return Method(CallType.UNARY, begin, permission, Takes.CALL)


def answers(
    handler: Callable[[StreamCall, bytes], Coroutine[Any, Any, None]],
    permission: Permission | None,
    *,
    takes: Takes,
) -> Method:
    """Returns a method with many answers to one message."""
    return Method(
        CallType.SERVER_STREAM,
        lambda call, message: call.drive_stream(handler(call, message)),
        permission,
        takes,
    )


def stream(
    handler: Callable[[StreamCall], Coroutine[Any, Any, None]], permission: Permission
) -> Method:
    """Returns a method with many messages each way."""
    return Method(
        CallType.BIDI_STREAM,
        lambda call, _: call.drive_stream(handler(call)),
        permission,
        Takes.STREAM,
    )


def management(handler: Callable[[Call, bytes], Coroutine[Any, Any, bytes]]) -> Method:
    """Returns a method that changes what is served."""
    return Method(
        CallType.UNARY,
        lambda call, message: call.drive(handler(call, message)),
        Permission.MANAGE,
    )


class Gate:
    """What every call of a method passes when it comes and when it goes.

    Args:
        begin: Begins to answer a call.
        counters: What is counted of its method.
        let_in: Lets a call in, given the call and its bytes; None where all come in.
        let_out: Lets it out again; None where it had no place.
    """

    def __init__(
        self, begin: Begin, counters: MethodCounters, let_in: Pass | None, let_out: Pass | None
    ) -> None:
        self._begin = begin
        self._count_start = counters.started.add
        self._count_end = counters.ended
        self._let_in = let_in
        self._let_out = let_out
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

    def turn_away(self) -> Failure:
        """Counts a call that is not begun; returns what its caller is told."""
        self._count_start()
        self._count_end(0.0, BUSY.code)
        return BUSY

    def _leave(self, call: Call, code: int) -> None:
        self._count(call, code)
        if self._let_out is not None:
            self._let_out(call, call.size)

    def _count(self, call: Call, code: int) -> None:
        self._count_end(perf_counter() - call.started, code)
        if self._is_logged:
            _log_end(call, code)


class GuardedGate(Gate):
    """A gate whose calls carry a token, which is looked at before their message is received.

    Args:
        method: What is called.
        counters: What is counted of it.
        let_in: See `Gate`.
        let_out: See `Gate`.
        permission: What the token has to permit.
        authorization: Tells whether it does.
    """

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        method: Method,
        counters: MethodCounters,
        let_in: Pass | None,
        let_out: Pass | None,
        permission: Permission,
        authorization: Authorization,
    ) -> None:
        super().__init__(method.begin, counters, let_in, let_out)
        self._takes = method.takes
        self._is_stream = method.call_type is not CallType.UNARY
        self._permission = permission
        self._authorization = authorization

    def check(self, call: StreamCall) -> None:
        """Lets a call pass whose token permits it, and has room for it.

        Raises:
            CallError: It carries no such token.
        """
        self._count_start()
        call.on_end(self._count)
        token, account = self._authorization.check(call, self._permission)
        if self._takes is Takes.CALL:
            account.enter_call()
            call.on_end(lambda *_: account.leave_call())
        elif self._takes is Takes.STREAM:
            account.enter_stream()
            call.on_end(lambda stream, _: account.leave_stream(stream))
        if self._is_stream:
            self._authorization.follow(call, token, self._permission)

    def enter(self, call: StreamCall, message: bytes) -> None:
        """Lets a call in that has passed the check, and has its handler begin.

        Raises:
            CallError: It is not admitted.
        """
        call.size = len(message)
        if self._let_in is not None:
            self._let_in(call, call.size)
            call.on_end(self._release)
        self._begin(call, message)

    def _release(self, call: Call, _: int) -> None:
        if self._let_out is not None:
            self._let_out(call, call.size)


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
        authorization: Tells whose calls are answered; None where whoever reaches the port has them
            answered.
    """
    places: dict[Takes, tuple[Pass | None, Pass | None]] = {
        Takes.NOTHING: (None, None),
        Takes.CALL: (admission.enter, admission.leave),
        Takes.STREAM: (admission.enter_stream, admission.leave_stream),
        Takes.WATCH: (admission.enter_watch, admission.leave_watch),
    }
    found = {}
    for path, method in methods.items():
        passes = places[method.takes]
        permission = method.permission
        if permission and authorization and authorization.guards(permission):
            guarded = GuardedGate(method, counters[path], *passes, permission, authorization)
            route = Route(method.call_type, guarded.enter, guarded.check, guarded.turn_away)
        else:
            gate = Gate(method.begin, counters[path], *passes)
            route = Route(method.call_type, gate.enter, turn_away=gate.turn_away)
        found[path] = route
    return found


def unknown_route(authorization: Authorization | None) -> Route:
    """Returns what answers methods that are not served: who has no token is not told so."""
    if authorization is None or not authorization.everywhere:
        return UNKNOWN

    def check(call: StreamCall) -> None:
        authorization.authenticate(call)

    return Route(UNKNOWN.call_type, UNKNOWN.begin, check)


def _log_end(call: Call, code: int) -> None:
    _log.debug(
        "call",
        method=call.method,
        code=code,
        request_id=call.request_id,
        peer=call.peer,
        seconds=round(call.elapsed, 6),
    )
