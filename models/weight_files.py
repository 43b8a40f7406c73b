"""Weights on disk: safetensors in files of at most 16 MiB, a configuration, a card, a manifest.

A folder holds `config.json`, `weights-NN.safetensors`, `manifest.json` (bytes and hash of every
file; written last, so a folder without it is unfinished) and `card.md`. Everything is read back
through the manifest: sizes first, then hashes, then names, shapes and types.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from everview.models.config import config_from_dict, config_to_dict
from everview.models.quantisation import is_packed, is_stored_well, pack_rows, unpack_rows
from everview.models.scene_model import SceneModel
from everview.models.weights import DEFAULT_WEIGHTS

_FILE_LIMIT = 16 * 2**20
_TOTAL_LIMIT = 2 * 2**30
_MANIFEST = "manifest.json"
_SCALE = "::scale"
_REMOTE = re.compile(r"^https?://[^#]+#(?P<hash>[0-9a-f]{32})$")

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class WeightsError(ValueError):
    """Weights that can't be used: which file, what is wrong, what to do."""


def published_names() -> list[str]:
    """Names of the weights that came with the package."""
    root = resources.files("everview.models.weights")
    return sorted(entry.name for entry in root.iterdir() if (entry / _MANIFEST).is_file())


def weights_folder(source: str | os.PathLike[str]) -> Path:
    """The folder for NAME, DIR or URL#hash. Raises WeightsError that lists the known names."""
    text = os.fspath(source)
    if re.match(r"^https?://", text):
        return _fetched(text)
    names = published_names()
    if text in names:  # a folder that happens to have the name is ./NAME
        return Path(str(resources.files("everview.models.weights") / text))
    if Path(text).is_dir():
        return Path(text)
    raise WeightsError(
        f"no weights called {text!r}: give one of {', '.join(names) or '(none published)'}, "
        "a folder, or an URL with #hash"
    )


def load_model(source: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> SceneModel:
    """The scene model of published weights, a folder or an URL: eval mode, float32, on the CPU.

    Raises WeightsError that names the file and what is wrong with it.
    """
    return load_module(source, lambda configuration: SceneModel(config_from_dict(configuration)))


def load_module(
    source: str | os.PathLike[str], build: Callable[[dict[str, Any]], AnyModule]
) -> AnyModule:
    """`load_model` of what `build` makes of the folder's configuration (ValueError or TypeError
    for one that isn't its own)."""
    folder = weights_folder(source)
    manifest = _read_manifest(folder)
    configuration = _verified(folder, "config.json", manifest)
    packed: dict[str, Tensor] = {}
    for name in sorted(manifest["files"]):
        if name.endswith(".safetensors"):
            try:
                packed.update(load(_verified(folder, name, manifest)))
            except SafetensorError as error:
                raise WeightsError(f"{folder / name}: not safetensors ({error})") from error
    try:
        config = json.loads(configuration)
        with torch.device("meta"):  # shapes first: a configuration can ask for any amount of memory
            values = _unpacked(build(config), packed, folder)
        model = build(config)
    except WeightsError:
        raise
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{folder / 'config.json'}: {error}") from error
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
    return model.eval().requires_grad_(False)


def weights_hash(source: str | os.PathLike[str]) -> str:
    """Hash of a weights folder: of its manifest, which holds the hash of every file."""
    return _hash((weights_folder(source) / _MANIFEST).read_bytes())


def save_weights(
    model: SceneModel,
    folder: Path,
    card: str,
    *,
    bits: int = 8,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Write `model` to `folder` (replaced as a whole when complete). bits: 8 for rows of int8,
    16 for float16, 32 for float32. facts: small JSON kept in the manifest (steps, tokens, data)."""
    return save_module(model, config_to_dict(model.config), folder, card, bits=bits, facts=facts)


def save_module(
    model: nn.Module,
    configuration: dict[str, Any],
    folder: Path,
    card: str,
    *,
    bits: int = 16,
    facts: dict[str, Any] | None = None,
) -> Path:
    """`save_weights` of any module, which `load_module` finds again by its configuration."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    replaced = building.with_name(f"{building.name}-replaced")
    try:
        contents = {"config.json": json.dumps(configuration, indent=1).encode()}
        contents["card.md"] = card.encode()
        for index, part in enumerate(_parts(_packed_tensors(model, bits))):
            contents[f"weights-{index:02d}.safetensors"] = save(part)
        listing = {n: {"bytes": len(c), "blake2b": _hash(c)} for n, c in contents.items()}
        manifest = {"format": 1, "bits": bits, "files": listing, "facts": facts or {}}
        contents[_MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode()
        for name, content in contents.items():
            (building / name).write_bytes(content)
        building.chmod(0o755)  # mkdtemp's folder is its owner's alone
        if folder.exists():  # set aside first: a half-deleted folder must never be the only copy
            folder.rename(replaced)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return folder


def _packed_tensors(model: nn.Module, bits: int) -> dict[str, Tensor]:
    if bits not in (8, 16, 32):
        raise ValueError(f"{bits} bits: 8, 16 or 32")
    packed: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if bits == 8 and is_packed(name, parameter):
            packed[name], packed[name + _SCALE] = pack_rows(parameter)
        else:
            value = parameter.detach().float().cpu()
            packed[name] = value.half().contiguous() if bits == 16 else value.contiguous()
    return packed


def _parts(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Tensors in order, cut into files under the limit."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        amount = tensor.numel() * tensor.element_size() + 256
        if size + amount > _FILE_LIMIT - 2**16 and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += amount
    return parts


def _unpacked(model: nn.Module, packed: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """A float32 value for every parameter of `model`, whose shapes and names they must have."""
    values: dict[str, Tensor] = {}
    left = dict(packed)
    for name, parameter in model.named_parameters():
        if name not in left:
            raise WeightsError(
                f"{folder}: the weights lack {name!r}, which the configuration needs"
            )
        value = left.pop(name)
        scale = left.pop(name + _SCALE, None)
        if value.shape != parameter.shape:
            raise WeightsError(
                f"{folder}: {name!r} has shape {tuple(value.shape)}, expected "
                f"{tuple(parameter.shape)}"
            )
        if not is_stored_well(value, scale):
            raise WeightsError(f"{folder}: {name!r} is stored as {value.dtype} with a wrong scale")
        value = value.float() if scale is None else unpack_rows(value, scale)
        if not bool(value.isfinite().all()):
            raise WeightsError(f"{folder}: {name!r} holds values that are not finite")
        values[name] = value
    if left:
        raise WeightsError(f"{folder}: the weights hold {sorted(left)[0]!r}, which no layer has")
    return values


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if manifest["format"] != 1:
            raise WeightsError(f"{folder}: weights of format {manifest['format']!r}, not 1")
        files = manifest["files"]
        total = sum(_entry_bytes(entry) for entry in files.values())
    except WeightsError:
        raise
    except FileNotFoundError:
        raise WeightsError(f"{folder}: no {_MANIFEST}: not weights, or never finished") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder / _MANIFEST}: not a manifest ({error!r})") from error
    if total > _TOTAL_LIMIT:
        raise WeightsError(f"{folder}: {total} bytes of weights are over the limit of 2 GiB")
    return manifest


def _entry_bytes(entry: dict[str, Any]) -> int:
    """The size of a file that a manifest lists; ValueError for what isn't an entry."""
    size, digest = entry["bytes"], entry["blake2b"]
    if not isinstance(size, int) or size < 0 or not isinstance(digest, str):
        raise ValueError(f"{entry} isn't the size and hash of a file")
    return size


def _verified(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    """A file's bytes, if they are what the manifest says: size first, then hash."""
    entry = manifest["files"].get(name)
    if entry is None or "/" in name or name.startswith("."):
        raise WeightsError(f"{folder}: the manifest doesn't list a usable {name!r}")
    path = folder / name
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        raise WeightsError(
            f"{path}: missing or not {entry['bytes']} bytes: fetch the weights again"
        )
    content = path.read_bytes()
    if _hash(content) != entry["blake2b"]:
        raise WeightsError(f"{path}: its hash differs from the manifest's: fetch the weights again")
    return content


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _fetched(url: str) -> Path:
    """The folder of remote weights in the cache, downloaded through their manifest if needed.

    URL#hash names the folder's manifest.json; the hash is the manifest's, so nothing that was
    changed on the way is ever read.
    """
    match = _REMOTE.match(url)
    if match is None:
        raise WeightsError(
            f"{url}: an URL needs #hash, 32 hexadecimal digits of its manifest's blake2b"
        )
    base = url.split("#")[0].removesuffix(_MANIFEST).rstrip("/")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "everview" / "weights"
    folder = cache / match["hash"]
    if (folder / _MANIFEST).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=cache))
    try:
        content = _download(f"{base}/{_MANIFEST}", 2**20)
        if _hash(content) != match["hash"]:
            raise WeightsError(f"{base}/{_MANIFEST}: its hash isn't {match['hash']}")
        (building / _MANIFEST).write_bytes(content)
        manifest = _read_manifest(building)
        for name, entry in manifest["files"].items():
            (building / Path(name).name).write_bytes(_download(f"{base}/{name}", entry["bytes"]))
            _verified(building, name, manifest)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _download(url: str, limit: int) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            content = response.read(limit + 1)
    except OSError as error:
        raise WeightsError(f"{url}: can't be fetched ({error})") from error
    if len(content) > limit:
        raise WeightsError(f"{url}: larger than the {limit} bytes it should have")
    return content
