"""The table of verbs: what `everview --help` lists and where each one lives."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from types import ModuleType

from everview.pipeline.errors import UsageError


@dataclass(frozen=True)
class Verb:
    """One sub-command. Its module holds `Arguments` (a frozen dataclass) and `run(arguments)`.

    Importing the module must stay cheap: what a verb needs to work is imported inside `run`.
    """

    name: str
    module: str
    summary: str

    def load(self) -> ModuleType:
        return importlib.import_module(f"everview.workflows.cli.{self.module}")


VERBS = (
    Verb("demo", "demo", "stream a procedural capture, render new views, leave a report; offline"),
    Verb("doctor", "doctor", "check this machine: versions, device, codecs, browser, disk, data"),
    Verb("inspect", "inspect_capture", "decode a capture and say what is in it and what is wrong"),
    Verb("prepare", "prepare", "captures, videos and meshes into verified shards for training"),
    Verb("stream", "stream", "absorb a capture chunk by chunk and leave a reconstruction"),
    Verb("serve", "serve", "take frames over a websocket and absorb them as `stream` does"),
    Verb("render", "render", "render novel views of a streamed scene: orbits, spirals, files"),
    Verb("export", "export", "a streamed scene for nerfstudio, COLMAP, MeshLab or rerun"),
    Verb("view", "view", "look into a streamed scene in a browser, from anywhere"),
    Verb("evaluate", "evaluate", "measure held-out views beside the floors, by stated rules"),
    Verb("adapt", "adapt", "tune the weights to one capture by its own inputs, if that helps it"),
    Verb("train", "train", "train a recipe; the same command again continues it"),
    Verb("submit", "submit", "run any of these verbs as a job on a Ray cluster"),
    Verb("jobs", "jobs", "list, follow and stop the jobs of a Ray cluster"),
    Verb("report", "report", "write the HTML report of a run again"),
    Verb("bench", "bench", "time this machine against the published formulation, checked first"),
)


def find_verb(word: str) -> Verb:
    """The verb of that name. Raises UsageError with the nearest name."""
    for verb in VERBS:
        if verb.name == word:
            return verb
    near = difflib.get_close_matches(word, [verb.name for verb in VERBS], n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else "`everview --help` lists the verbs"
    raise UsageError(f"there is no verb `{word}`; {hint}")
