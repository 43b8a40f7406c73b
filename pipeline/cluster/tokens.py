"""The token that every cluster of ours has: where it comes from and how Ray is told.

Ray knows three places: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token. It reads
them once a process. A cluster that only this process uses gets a fresh token in the environment
of this process, and nothing is written to anybody's home.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from everview.pipeline.errors import EnvironmentUnfit

HOW_TO_GIVE = (
    "give it in RAY_AUTH_TOKEN_PATH (a file that only you can read), in ~/.ray/auth_token or in "
    "RAY_AUTH_TOKEN"
)


def find_token() -> str | None:
    """The token that Ray would use here, or None. Raises EnvironmentUnfit for a file that is named
    and can't be read, or is empty."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise EnvironmentUnfit(f"RAY_AUTH_TOKEN_PATH {path} can't be read: {reason}") from error
        return None
    if named and not token:
        raise EnvironmentUnfit(f"RAY_AUTH_TOKEN_PATH {path} is empty; write a token into it")
    return token or None


def require_tokens(*, may_make_one: bool) -> str:
    """Switch Ray's token authentication on in this process and those it starts; the token.

    may_make_one: of a cluster that this process starts for itself. Raises EnvironmentUnfit when
    there is no token, or when the environment switches authentication off.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() != "token":
        raise EnvironmentUnfit(
            f"RAY_AUTH_MODE is {mode}: anyone who reaches such a cluster runs code on it; "
            "unset it, or set it to `token`"
        )
    token = find_token()
    if token is None:
        if not may_make_one:
            raise EnvironmentUnfit(f"there is no token for the cluster; {HOW_TO_GIVE}")
        token = os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # `uv run` would make the working tree the runtime environment of every worker.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    _refresh_ray()
    return token


def _refresh_ray() -> None:
    """Ray copies its settings from the environment when it is imported, perhaps before now."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")
