"""Who may see the page: this machine, and only through the page itself."""

from __future__ import annotations

import socket

import pytest

from everview.pipeline.errors import TryAgain, UsageError
from everview.pipeline.viewing.config import PageOptions
from everview.pipeline.viewing.server import close_server, is_own_page, open_server, tunnel_line

viser = pytest.importorskip("viser")


@pytest.fixture(scope="module")
def server():
    opened = open_server("127.0.0.1", 0)
    opened.gui.add_text("secret", "the scene")
    yield opened
    close_server(opened)


def greet(server, origin: str | None, host: str | None = None) -> bytes:
    """What the server sends first to a connection with these headers."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    port = server.get_port()
    address = socket.create_connection(("127.0.0.1", port), timeout=20)
    with connect(
        f"ws://{host or '127.0.0.1'}:{port}", sock=address, origin=origin,
        subprotocols=[f"viser-v{viser.__version__}"], close_timeout=5,
    ) as connection:  # fmt: skip
        try:
            return connection.recv(timeout=20)
        except ConnectionClosed:
            return b""


def test_the_own_page_is_served_and_a_foreign_one_gets_nothing(server):
    port = server.get_port()
    assert greet(server, f"http://127.0.0.1:{port}")
    assert greet(server, "https://example.org") == b""
    assert greet(server, None) == b""
    assert greet(server, f"http://rebound.example:{port}", host="rebound.example") == b""


@pytest.mark.parametrize(
    ("host", "origin", "is_own"),
    [("localhost:7007", "http://localhost:7007", True), ("[::1]:80", "http://[::1]", True),
     ("127.0.0.1:7007", "http://127.0.0.1:8000", False), ("", "", False),
     ("127.0.0.1:x", "http://127.0.0.1:x", False), ("localhost:1", "null", False)],
)  # fmt: skip
def test_a_page_is_known_by_its_origin(host, origin, is_own):
    assert is_own_page(host, origin) == is_own


def test_no_public_relay_forwards_the_page(server):
    assert server.request_share_url() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_hosts_are_refused_with_the_way_round(host):
    with pytest.raises(UsageError, match="ssh -L"):
        PageOptions(host=host)


def test_a_port_that_is_taken_is_said(server):
    with pytest.raises(TryAgain, match="another"):
        open_server("127.0.0.1", server.get_port())


def test_the_tunnel_leads_to_loopback():
    assert "ssh -N -L 7007:127.0.0.1:7007 " in tunnel_line(7007)
