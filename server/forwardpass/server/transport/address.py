"""Where to listen: how gRPC writes it, and why it cannot be."""

import errno
import socket

# What the address of a unix-domain socket begins with.
SOCKET = "unix:"


def address_of(host: str, port: int) -> str:
    """Returns where to listen, as gRPC and URLs write it: an address of IPv6 has brackets."""
    if host.startswith(SOCKET):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def refused(address: str, error: OSError) -> OSError:
    """Returns the error that says where nobody can listen, and why."""
    reason = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        reason += ": is another server there?"
    return OSError(f"cannot listen on {address}: {reason}")


def try_to_bind(address: str) -> None:
    """Binds an address and lets go of it, to find out what gRPC does not tell.

    Args:
        address: As `address_of` writes it; no socket's.

    Raises:
        OSError: It cannot be bound.
    """
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, _, _, where in found:
        with socket.socket(family, kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(where)
            one.listen()
