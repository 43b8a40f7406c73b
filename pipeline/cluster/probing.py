"""What a cluster answers to a stranger: the difference between a token asked for and none.

Ray clients send their token along, also to a cluster that never looks at it; so the only way to
know is to ask once without.
"""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from everview.pipeline.cluster.tokens import HOW_TO_GIVE
from everview.pipeline.errors import EnvironmentUnfit, TryAgain

if TYPE_CHECKING:
    import grpc

_CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
OPEN_CLUSTER = (
    "answers without a token: whoever reaches it runs code on it, so it is not used; start it "
    "with RAY_AUTH_MODE=token and a token (see the README of workflows/cluster)"
)


def require_token_of_head(address: str, token: str, timeout_s: float = 10.0) -> None:
    """Return if the head at HOST:PORT refuses strangers and takes `token`.

    Raises EnvironmentUnfit for a head without a token, or with another one; TryAgain for one that
    doesn't answer within `timeout_s`.
    """
    import grpc

    with _channel(address) as channel:
        ask = channel.unary_unary(_CHECK_ALIVE)
        try:
            ask(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                raise TryAgain(
                    f"the cluster at {address} doesn't answer ({error.code().name.lower()}); is "
                    "its head running, and is this its address?"
                ) from error
        else:
            raise EnvironmentUnfit(f"the cluster at {address} {OPEN_CLUSTER}")
        try:
            ask(b"", timeout=timeout_s, metadata=[("authorization", f"Bearer {token}")])
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise EnvironmentUnfit(
                    f"the cluster at {address} has another token than the one given; {HOW_TO_GIVE}"
                ) from error
            raise TryAgain(f"the cluster at {address} stopped answering; try again") from error


def answer_to_a_stranger(
    url: str, method: str = "GET", verify: bool | str = True, timeout_s: float = 10.0
) -> int:
    """The HTTP status that `url` gives somebody without a token.

    Redirects are not followed: one to a login page is the answer. Raises TryAgain when nothing
    answers within `timeout_s`.
    """
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), _NoRedirects()
    )
    body = b"{}" if method == "POST" else None
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    try:
        with opener.open(request, timeout=timeout_s) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TryAgain(
            f"the dashboard at {url} doesn't answer ({reason}); is the cluster running, and is "
            "this its address?"
        ) from error


def require_token_of_dashboard(address: str, verify: bool | str = True) -> None:
    """Return if the dashboard at the URL `address` turns strangers away from its jobs.

    Raises EnvironmentUnfit when it lets them in, TryAgain when it doesn't answer.
    """
    status = answer_to_a_stranger(f"{address}/api/jobs/", verify=verify)
    if status in (200, 204):
        raise EnvironmentUnfit(f"the cluster at {address} {OPEN_CLUSTER}")
    if status not in (301, 302, 303, 307, 308, 401, 403):
        raise TryAgain(f"{address}/api/jobs/ answers {status}; that is no dashboard of Ray")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _channel(address: str) -> grpc.Channel:
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(address)
    names = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT")
    try:
        authority, key, certificate = (Path(os.environ[name]).read_bytes() for name in names)
    except (KeyError, OSError) as error:
        raise EnvironmentUnfit(
            f"RAY_USE_TLS is on and {' '.join(names)} don't all name readable files: {error}"
        ) from error
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate))
