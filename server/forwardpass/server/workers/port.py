"""The port that several processes listen on, held by the one that starts them.

With SO_REUSEPORT, Linux lets every process of the same user listen on a port where each socket that
is bound to it has the option. So a second server that has it too would silently take its share of
the connections. What keeps it out is a socket of ours that is there first:

1. It binds and listens without SO_REUSEPORT. That fails wherever somebody listens already, and of
   two that try at the same time one fails: binding alone would not tell, as SO_REUSEADDR, without
   which a port cannot be taken again for a minute after its last connection, lets both bind.
2. Still listening, it turns SO_REUSEADDR off and SO_REUSEPORT on. From now on nobody can listen
   there without SO_REUSEPORT, and this includes step 1 of another server of ours.
3. It stops listening (`shutdown` does that on Linux) and stays bound: the port remains taken while
   no worker lives, and no connection goes to a socket that nobody accepts from. It keeps the port
   because that was named: one that the kernel had chosen would be given back here.

What it cannot keep out is a program of the same user that comes later and asks for SO_REUSEPORT
itself: Linux knows no closed group.
"""

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from forwardpass.server.transport.address import address_of, refused

# So often a free port is looked for, should another process take it first.
_TRIES = 16
# The machine has no such address, as where IPv6 is off: the others of the name must do.
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# Families, and addresses as `bind` takes them.
_Addresses = Sequence[tuple[socket.AddressFamily, tuple[Any, ...]]]


class Port:
    """A port that none but our own workers can listen on.

    Attributes:
        number: The port.

    Args:
        host: A name or an address without brackets; every address of a name is held.
        port: The port; 0 takes a free one.

    Raises:
        OSError: It is taken, or cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            addresses = [(family, address) for family, _, _, _, address in found]
            if port:
                self.number, self._held = port, _hold(addresses, port)
            else:
                self.number, self._held = _hold_any(addresses)
        except OSError as error:
            raise refused(address_of(host, port), error) from error

    def close(self) -> None:
        """Lets go of it."""
        self._held.close()


def _hold_any(addresses: _Addresses) -> tuple[int, ExitStack]:
    for _ in range(_TRIES):
        with socket.socket(addresses[0][0]) as one:
            one.bind(addresses[0][1])
            number = one.getsockname()[1]
        try:
            return number, _hold(addresses, number)
        except OSError as error:
            refusal = error
    raise refusal


def _hold(addresses: _Addresses, number: int) -> ExitStack:
    """Returns what releases the port again."""
    with ExitStack() as held:
        nowhere: OSError | None = None
        found = False
        for family, (host, _, *rest) in addresses:
            one = held.enter_context(socket.socket(family))
            try:
                _hold_one(one, (host, number, *rest))
                found = True
            except OSError as error:
                if error.errno not in _NO_ADDRESS:
                    raise
                nowhere = error
        if nowhere is not None and not found:
            raise nowhere
        return held.pop_all()


def _hold_one(one: socket.socket, address: tuple[Any, ...]) -> None:
    if one.family == socket.AF_INET6:
        # As gRPC does: "::" is every address of IPv4 too.
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(address)
    one.listen(0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.shutdown(socket.SHUT_RDWR)
