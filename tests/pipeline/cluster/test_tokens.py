"""Every cluster has a token: found, made for a local one, or its absence is the reason."""

from __future__ import annotations

import os
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from everview.pipeline.cluster.probing import require_token_of_head
from everview.pipeline.cluster.tokens import find_token, require_tokens
from everview.pipeline.errors import EnvironmentUnfit, TryAgain

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED",
         "RAY_ENABLE_UV_RUN_RUNTIME_ENV")  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_local_cluster_gets_a_token_that_nobody_else_can_read(tmp_path: Path) -> None:
    token = require_tokens(may_make_one=True)
    assert len(token) == 64
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert list(tmp_path.rglob("*")) == []  # in this process alone
    assert require_tokens(may_make_one=True) == token


def test_attaching_without_a_token_says_where_to_put_it() -> None:
    with pytest.raises(EnvironmentUnfit, match="RAY_AUTH_TOKEN_PATH"):
        require_tokens(may_make_one=False)


def test_authentication_switched_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(EnvironmentUnfit, match="RAY_AUTH_MODE is disabled"):
        require_tokens(may_make_one=True)


def test_a_token_is_found_in_the_order_in_which_ray_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home\n")
    assert find_token() == "of the home"
    (tmp_path / "named").write_text("of a file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert find_token() == "of a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert find_token() == "of the environment"


def test_a_token_file_that_is_named_must_be_there_and_hold_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(EnvironmentUnfit, match="absent can't be read"):
        find_token()
    (tmp_path / "absent").write_text("\n")
    with pytest.raises(EnvironmentUnfit, match="is empty"):
        find_token()


class Head(grpc.GenericRpcHandler):
    """Answers like the head of a cluster whose token is `token`; None asks for none."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        wanted = ("authorization", f"Bearer {self.token}")
        given = [(pair.key, pair.value) for pair in details.invocation_metadata]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if self.token is not None and wanted not in given:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def head() -> object:
    """A function that starts a head with a token and returns its address."""
    servers = []

    def start(token: str | None) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Head(token)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait(5)


def test_a_head_that_asks_for_our_token_is_used(head) -> None:  # type: ignore[no-untyped-def]
    require_token_of_head(head("secret"), "secret")


def test_a_head_that_answers_anybody_is_refused_with_the_reason(head) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EnvironmentUnfit, match="whoever reaches it runs code on it"):
        require_token_of_head(head(None), "secret")


def test_a_head_with_another_token_is_told_apart(head) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EnvironmentUnfit, match="another token"):
        require_token_of_head(head("theirs"), "ours")


def test_a_head_that_does_not_answer_is_worth_another_try() -> None:
    with pytest.raises(TryAgain, match="doesn't answer"):
        require_token_of_head("127.0.0.1:1", "secret", timeout_s=5.0)
