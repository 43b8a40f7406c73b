"""`everview VERB ...`: find the verb, parse its flags, run it, turn the end into an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from everview.pipeline.errors import EverviewError, UsageError, exit_code_of
from everview.workflows.cli.outcome import Outcome, stdout_for_result, to_json
from everview.workflows.cli.verbs import VERBS, Verb, find_verb

log = logging.getLogger("everview")


def main(words: Sequence[str] | None = None) -> NoReturn:
    """The program. Always leaves by SystemExit with one of the codes of `pipeline.errors`."""
    words = list(sys.argv[1:] if words is None else words)
    signal.signal(signal.SIGTERM, _terminate)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        sys.exit(0 if words else 2)
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"everview {version('everview')}")
        sys.exit(0)
    sys.exit(run_verb(words[0], words[1:]))


def overview() -> str:
    """`everview --help`: what it is and one line for each verb."""
    width = max(len(verb.name) for verb in VERBS)
    return "\n".join(
        [
            "usage: everview VERB ...",
            "",
            "Streams of video frames in, a scene memory out that renders any view at any time.",
            "",
            *(f"  {verb.name:{width}}  {verb.summary}" for verb in VERBS),
            "",
            "everview VERB --help shows the flags of a verb; everview --version the version.",
            "Exit codes: 0 done, 1 failed, 2 usage, 3 input rejected, 4 environment unfit,",
            "75 try again, 130 and 143 interrupted.",
        ]
    )


def run_verb(name: str, words: Sequence[str]) -> int:
    """Run one verb to its exit code; every error is one sentence on stderr."""
    wants_json, debug = "--json" in words, "--debug" in words
    with stdout_for_result(wants_json and not {"-h", "--help"} & set(words)) as stdout:
        try:
            outcome = _parse_and_run(find_verb(name), words)
        except SystemExit as leaving:  # tyro has said what is wrong, or --help what there is
            code = leaving.code if isinstance(leaving.code, int) else 1
            if wants_json and code:
                print(to_json({"exit_status": code, "error": "see stderr"}), file=stdout)
            raise
        except BrokenPipeError:
            _forget_stdout()
            return 1
        except (Exception, KeyboardInterrupt) as error:
            code = exit_code_of(error)
            sentence = _sentence(error)
            if debug and not isinstance(error, KeyboardInterrupt):
                traceback.print_exc()
            print(f"everview {name}: {sentence}", file=sys.stderr)
            if wants_json:
                print(to_json({"exit_status": code, "error": sentence}), file=stdout)
            return code
        shown = outcome.as_json() if wants_json else outcome.as_text()
        try:
            print(shown, file=stdout, flush=True)
        except BrokenPipeError:
            _forget_stdout()
    return outcome.exit_code


def _parse_and_run(verb: Verb, words: Sequence[str]) -> Outcome:
    from everview.workflows.cli.arguments import CommonFlags, parse

    module = verb.load()
    prog = f"everview {verb.name}"
    if hasattr(module, "parse_words"):  # a verb whose flags depend on its first word
        arguments: CommonFlags = module.parse_words(words, prog)
    else:
        arguments = parse(module.Arguments, words, prog)
    if arguments.fresh and arguments.out is None:
        raise UsageError("--fresh needs --out; it names the run directory to start over in")
    set_up_logging(arguments.quiet, arguments.debug)
    outcome: Outcome = module.run(arguments)
    return outcome


def set_up_logging(quiet: bool, debug: bool) -> None:
    """Our messages as plain lines on stderr; warnings of libraries only with --debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_no_library_chatter if not debug else lambda record: True)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    logging.captureWarnings(True)


def _no_library_chatter(record: logging.LogRecord) -> bool:
    return record.name.startswith("everview") or record.levelno >= logging.ERROR


def _sentence(error: BaseException) -> str:
    from everview.datasets.errors import DataError

    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    message = " ".join(str(error).split())
    if isinstance(error, EverviewError | DataError):
        return message
    return f"{type(error).__name__}: {message} (--debug shows where)".replace(":  (", " (")


def _terminate(signum: int, frame: FrameType | None) -> Any:
    # An ordinary exit, so that open runs record it and locks are given up.
    raise SystemExit(128 + signum)


def _forget_stdout() -> None:
    """The reader has gone (`| head`): nothing more can be said, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
