"""A viser server that only this machine reaches, and only its own page.

viser asks nobody for a token, so nothing but loopback is listened on: SSH brings the page
elsewhere. A browser lets any page that is open in it connect to loopback; those carry another
page's Origin (or a Host that somebody's name server pointed here) and are turned away before
anything is sent. The button that asks a public relay to forward the page is taken out, with what is
behind it.
"""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from everview.pipeline.errors import EnvironmentUnfit, TryAgain, UsageError

if TYPE_CHECKING:
    from viser import ViserServer

_POLICY_VIOLATION = 1008


def open_server(host: str, port: int) -> ViserServer:
    """Listen at host:port (0: a free one). Raises UsageError for a host that isn't loopback,
    TryAgain when the port is taken, EnvironmentUnfit when viser is not installed."""
    check_loopback(host)
    try:
        import viser
    except ImportError:
        raise EnvironmentUnfit(
            "the viewer needs the package `viser`: install everview[viewer]"
        ) from None
    _check_free(host, port)

    class Private(viser.ViserServer):
        """Never forwarded by a public relay, whoever asks."""

        def request_share_url(self, verbose: bool = True) -> str | None:
            return None

    with _silent():
        server = Private(host=host, port=port, verbose=False)
    server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
    connections = server._websock_server

    async def turn_away(arrived: Any) -> None:
        connection = connections._live_connections[arrived.client_id]
        request = connection.request
        assert request is not None
        headers = request.headers
        if not is_own_page(headers.get("Host", ""), headers.get("Origin", "")):
            await connection.close(_POLICY_VIOLATION, "another page's connection")

    connections.on_client_connect(turn_away)
    return server


def close_server(server: ViserServer) -> None:
    """Stop listening, and wait until it has stopped."""
    with _silent():
        server.stop()


def check_loopback(host: str) -> None:
    """Raises UsageError for any other host."""
    if not _is_loopback(host):
        raise UsageError(
            f"--host {host}: the viewer can't ask for a token, so it listens on loopback only; "
            "leave --host out and use the `ssh -L` line that it prints"
        )


def is_own_page(host: str, origin: str) -> bool:
    """Whether a connection with these headers comes from a page that this server gave out.

    Through a tunnel both name the other end's loopback, on any port.
    """
    try:
        named, page = urlsplit(f"//{host}"), urlsplit(origin)
        same = (named.hostname, named.port) == (page.hostname, page.port or 80)
    except ValueError:
        return False
    return page.scheme == "http" and same and _is_loopback(named.hostname or "")


def tunnel_line(port: int) -> str:
    """What to run on another machine to see the page there."""
    return f"ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{socket.gethostname()}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_free(host: str, port: int) -> None:
    """viser would take the next free port instead, and a tunnel would lead to somebody else's."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise TryAgain(
                f"--port {port} can't be listened on ({error.strerror}): give another, or 0 for a "
                "free one"
            ) from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the lines that viser prints to stdout, which holds a verb's result."""
    import rich

    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before
