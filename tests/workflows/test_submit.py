"""`everview submit` and `everview jobs` without a cluster: what is asked, printed and refused."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from everview.pipeline.cluster.jobs import Job, dashboard_address
from everview.pipeline.errors import UsageError
from everview.workflows.cli.main import main
from everview.workflows.cli.submit import job_request, parse_words, ray_command


@pytest.fixture(autouse=True)
def no_cluster_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token")


@pytest.fixture
def dashboard(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of something that answers every request with the status given as parameter."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def everview(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and stderr."""
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert isinstance(leaving.value.code, int)
    return leaving.value.code, capfd.readouterr().err


def test_flags_before_the_verb_are_those_of_submit_and_the_rest_is_the_verbs() -> None:
    words = ["--submission-id", "train", "--no-wait", "train", "tiny", "--seed", "3"]
    arguments = parse_words(words, "everview submit")
    assert (arguments.submission_id, arguments.no_wait) == ("train", True)
    assert arguments.words == ("train", "tiny", "--seed", "3")


@pytest.mark.parametrize("words", [[], ["--no-wait"], ["jobs", "list"], ["submit", "train", "tiny"],
                                   ["--out", "x", "train", "tiny"],
                                   ["train", "tiny", "--config", "local.yaml"]])  # fmt: skip
def test_what_can_not_be_a_job_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_words(words, "everview submit")


def test_a_misspelt_flag_of_the_verb_costs_no_job(capfd: pytest.CaptureFixture[str]) -> None:
    code, said = everview(capfd, "submit", "train", "tiny", "--sede", "3")
    assert code == 2
    assert "--seed" in said


def test_the_line_for_a_shell_says_exactly_the_words_of_the_job() -> None:
    """The entry point is a shell string: a hostile name must stay one word of it."""
    words = [
        "--submission-id", "a b", "--metadata-json", '{"who": "me"}', "--entrypoint-num-cpus", "1",
        "--runtime-env-json", '{"env_vars": {"API_KEY": "hidden", "LEVEL": "2"}}',
        "inspect", "a; touch x", "--out", "$(id)",
    ]  # fmt: skip
    arguments = parse_words(words, "everview submit")
    request = job_request(arguments, ["/code/everview"])
    line = ray_command(request, "https://head:8265", arguments)
    said = shlex.split(line)
    assert said[:2] == ["RAY_AUTH_MODE=token", "RAY_API_SERVER_ADDRESS=https://head:8265"]
    assert said[said.index("--address") + 1] == "https://head:8265"
    assert said[said.index("--submission-id") + 1] == "a b"
    assert json.loads(said[said.index("--metadata-json") + 1]) == {"who": "me"}
    environment = json.loads(said[said.index("--runtime-env-json") + 1])
    assert environment["py_modules"] == ["/code/everview"]
    assert environment["env_vars"] == {"API_KEY": "[redacted]", "LEVEL": "2"}
    assert request.runtime_env["env_vars"]["API_KEY"] == "hidden"
    assert said[said.index("--") + 1 :] == list(request.words)
    assert request.words[-4:] == ("inspect", "a; touch x", "--out", "$(id)")


def test_the_dashboard_is_found_in_the_order_that_ray_documents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert dashboard_address() == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://b:8265/")
    assert dashboard_address() == "http://b:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "a:8265")
    assert dashboard_address() == "http://a:8265"
    assert dashboard_address("https://given") == "https://given"
    with pytest.raises(UsageError, match="no dashboard"):
        dashboard_address("ray://head:10001")


@pytest.mark.parametrize("dashboard", [200], indirect=True)
@pytest.mark.parametrize("verb", [["submit"], ["jobs", "list"], ["doctor", "--cluster"]])
def test_a_cluster_that_answers_strangers_is_refused_with_the_reason(
    dashboard: str, verb: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    more = ["inspect", "x"] if verb == ["submit"] else []
    with pytest.raises(SystemExit) as leaving:
        main([*verb, "--address", dashboard, *more])
    told = capfd.readouterr()
    assert leaving.value.code == 4
    assert "without a token" in told.err + told.out
    assert "runs code on it" in told.err + told.out


@pytest.mark.parametrize("dashboard", [404, 503], indirect=True)
def test_what_is_no_dashboard_is_told_apart(
    dashboard: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = everview(capfd, "jobs", "list", "--address", dashboard)
    assert code == 75
    assert "no dashboard of Ray" in said


@pytest.mark.parametrize("dashboard", [401], indirect=True)
def test_without_a_token_it_says_where_to_put_one(
    dashboard: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, said = everview(capfd, "jobs", "list", "--address", dashboard)
    assert code == 4
    assert "RAY_AUTH_TOKEN_PATH" in said


@pytest.mark.parametrize("dashboard", [401], indirect=True)
def test_another_token_is_a_sentence(dashboard: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, said = everview(capfd, "jobs", "list", "--address", dashboard)
    assert code == 4
    assert "doesn't take the token given" in said


def test_a_cluster_that_is_not_there_is_worth_another_try(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, said = everview(capfd, "jobs", "list", "--address", "http://127.0.0.1:1")
    assert code == 75
    assert "doesn't answer" in said


@pytest.mark.parametrize(
    ("status", "exit_code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", 75, 75), ("FAILED", None, 1),
     ("FAILED", -9, 137), ("STOPPED", None, 143)],
)  # fmt: skip
def test_the_exit_code_of_a_job_is_that_of_its_entry_point(
    status: str, exit_code: int | None, expected: int
) -> None:
    job = Job("id", status, "", "python x", exit_code, 0.0, 1.0, {})
    assert job.exit_status() == expected
