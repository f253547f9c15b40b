"""The sockets that a server listens on, bound before anything is written, and the addresses to show for them."""

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address
from typing import Any

_ATTEMPTS = 10
"""How often a free port is looked for that all addresses of a name have free."""


async def bind(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Return a bound socket for each address of a host; none listens yet, so that no client waits for a server that is starting.

    If it is `shared`, several processes of this user can listen on it, and the kernel spreads connections over them.
    `::` takes IPv4 too. Addresses of a name that this machine lacks are left out, if it has another one. Port 0 is the same free port
    for all.

    Raises:
        OSError: the host has no address, or one of them cannot be bound; `filename` is the address.
    """
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:  # of the name service: its numbers are not the system's
        raise OSError(errno.EADDRNOTAVAIL, error.strerror, _shown(name, port)) from None
    except ValueError:
        raise OSError(errno.EADDRNOTAVAIL, "not a host name", _shown(ascii(name), port)) from None
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for attempt in range(_ATTEMPTS):
        try:
            return _bind_all(addresses, shared=shared)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError  # not reached


def _bind_all(
    addresses: Sequence[tuple[socket.AddressFamily, tuple[Any, ...]]], *, shared: bool
) -> list[socket.socket]:
    with ExitStack() as stack:
        bound: list[socket.socket] = []
        missing: OSError | None = None
        port = addresses[0][1][1]
        alone = all(family == socket.AF_INET6 for family, _ in addresses)
        for family, address in addresses:
            place = (address[0], port, *address[2:])
            try:
                made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if shared:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if alone else 1)
                made.bind(place)
            except OSError as error:
                problem = OSError(error.errno, error.strerror, _shown(place[0], place[1]))
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise problem from None
                missing = problem
                continue
            bound.append(made)
            port = made.getsockname()[1]
        if not bound and missing:
            raise missing
        stack.pop_all()
        return bound


def urls(host: str, sockets: list[socket.socket]) -> list[str]:
    """Return the URLs by which a server can be reached from this machine: the first by its name, if that was given, then all addresses."""
    port: int = sockets[0].getsockname()[1]
    shown = [f"http://{_shown(_reachable(made), port)}" for made in sockets]
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return [f"http://{host}:{port}", *shown]
    return shown


def _reachable(made: socket.socket) -> str:
    """Return the address of a socket; for one of all addresses, this machine's own."""
    host: str = socket.getnameinfo(made.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
    address = ip_address(host)
    if not address.is_unspecified:
        return host
    dual = made.family == socket.AF_INET6 and not made.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return "127.0.0.1" if dual or made.family == socket.AF_INET else "::1"


def _shown(host: str, port: int) -> str:
    """Return an address as it stands in a URL (RFC 3986, 3.2.2; RFC 6874 for the zone of one)."""
    try:
        IPv6Address(host)
    except ValueError:
        return f"{host}:{port}"
    return f"[{host.replace('%', '%25')}]:{port}"
