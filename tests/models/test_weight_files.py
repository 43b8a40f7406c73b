"""Weights on disk: they come back, and what was damaged is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from everview.models import weight_files
from everview.models.config import tiny
from everview.models.elastic import Elastic
from everview.models.quantisation import is_stored_well, pack_rows, unpack_rows
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.weight_files import WeightsError, load_model, save_weights, weights_hash
from tests.models.scenes import episode, scene_model

TENSORS = "weights-00.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_weights(SceneModel(tiny()), tmp_path_factory.mktemp("weights") / "tiny", "# Card")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and let the manifest vouch for it: a lie told consistently."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    manifest["files"][name] = {"bytes": len(content), "blake2b": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    rewrite(folder, "config.json", json.dumps(config | changes).encode())


def edit_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = load((folder / TENSORS).read_bytes())
    change(tensors)
    rewrite(folder, TENSORS, save(tensors))


@torch.no_grad()
@pytest.mark.parametrize(("bits", "limit"), [(32, 0.0), (16, 1e-3), (8, 2e-2)])
def test_weights_come_back_to_the_bits_they_were_given(
    tmp_path: Path, bits: int, limit: float
) -> None:
    config = replace(tiny(), elastic=Elastic(), memory_writes=("w0", "w1", "w2"))
    model = SceneModel(config).eval()
    back = load_model(save_weights(model, tmp_path / "w", "card", bits=bits, facts={"steps": 3}))
    assert back.config == config
    assert not back.training
    stored = dict(back.named_parameters())
    for name, parameter in model.named_parameters():
        assert stored[name].dtype == torch.float32
        error = (stored[name] - parameter).norm() / parameter.norm().clamp_min(1e-9)
        assert float(error) <= limit, name
    if bits == 32:
        assert back.fingerprint == model.fingerprint
        seen = episode()
        assert torch.equal(
            back(seen, CHUNK_CAUSAL)[1].targets.rgb, model(seen, CHUNK_CAUSAL)[1].targets.rgb
        )
    assert json.loads((tmp_path / "w" / "manifest.json").read_text())["facts"] == {"steps": 3}


def test_rows_of_int8_are_off_by_half_a_step_at_most() -> None:
    matrix = torch.randn(64, 128) * torch.logspace(-6, 2, 64)[:, None]
    values, scale = pack_rows(matrix)
    assert values.dtype == torch.int8
    assert scale.shape == (64, 1)
    back = unpack_rows(values, scale)
    # half a step, and what the scale itself lost in float16
    allowed = matrix.abs().amax(-1, keepdim=True) * (0.5 / 127 + 2**-10) + 6e-8 * 127
    assert ((back - matrix).abs() <= allowed).all()
    assert not unpack_rows(*pack_rows(torch.zeros(2, 4))).any()


def test_a_kernel_has_one_scale_for_all_that_an_output_reads() -> None:
    kernel = torch.randn(8, 4, 3, 3)
    values, scale = pack_rows(kernel)
    assert scale.shape == (8, 1, 1, 1)
    allowed = kernel.abs().amax((1, 2, 3), keepdim=True) * (0.5 / 127 + 2**-10)
    assert ((unpack_rows(values, scale) - kernel).abs() <= allowed).all()
    assert is_stored_well(values, scale)
    assert is_stored_well(values, scale.expand(8, 4, 3, 1))  # as files from before have them
    assert not is_stored_well(values, scale.flatten())
    assert not is_stored_well(values, scale.expand(8, 1, 1, 1)[:4])
    assert not is_stored_well(values, scale.float())
    assert not is_stored_well(values, None)
    assert not is_stored_well(kernel, scale)


def test_weights_are_cut_into_files_under_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files, "_FILE_LIMIT", 2**16 + 120_000)
    model = scene_model()
    where = save_weights(model, tmp_path / "cut", "card", bits=32)
    files = sorted(where.glob("*.safetensors"))
    assert len(files) > 3
    largest = max(p.numel() * 4 for p in model.parameters())
    assert max(f.stat().st_size for f in files) <= max(2**16 + 120_000, largest + 2**16)
    assert load_model(where).fingerprint == model.fingerprint


def test_saving_again_replaces_the_folder_as_a_whole(folder: Path) -> None:
    (folder / "left over").write_text("x")
    before = weights_hash(folder)
    save_weights(scene_model(seed=5), folder, "card")
    assert not (folder / "left over").exists()
    assert weights_hash(folder) != before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert folder.stat().st_mode & 0o777 == 0o755


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "never finished"),
    "manifest isn't json": (
        lambda f: (f / "manifest.json").write_bytes(b"\xff{"),
        "not a manifest",
    ),
    "manifest is a list": (lambda f: (f / "manifest.json").write_text("[]"), "not a manifest"),
    "files are a list": (lambda f: edit_manifest(f, lambda m: m.update(files=[])), "not a man"),
    "another format": (lambda f: edit_manifest(f, lambda m: m.update(format=2)), "format 2, not"),
    "no hash": (
        lambda f: edit_manifest(f, lambda m: m["files"][TENSORS].pop("blake2b")),
        "not a manifest",
    ),
    "negative size": (
        lambda f: edit_manifest(f, lambda m: m["files"][TENSORS].update(bytes=-1)),
        "not a manifest",
    ),
    "too large": (
        lambda f: edit_manifest(f, lambda m: m["files"][TENSORS].update(bytes=2**40)),
        "over the limit of 2 GiB",
    ),
    "a path outside": (
        lambda f: edit_manifest(
            f, lambda m: m["files"].update({"../w.safetensors": m["files"][TENSORS]})
        ),
        "doesn't list a usable",
    ),
    "truncated": (
        lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-9]),
        "missing or",
    ),
    "missing": (lambda f: (f / TENSORS).unlink(), "missing or not"),
    "one bit flipped": (
        lambda f: (f / TENSORS).write_bytes(
            (c := (f / TENSORS).read_bytes())[:5000] + bytes([c[5000] ^ 1]) + c[5001:]
        ),
        "its hash differs",
    ),
    "manifest lies about a hash": (
        lambda f: edit_manifest(f, lambda m: m["files"][TENSORS].update(blake2b="0" * 32)),
        "its hash differs",
    ),
    "not safetensors": (lambda f: rewrite(f, TENSORS, b"\x80\x04pickled" * 20), "not safetensors"),
    "empty tensors file": (lambda f: rewrite(f, TENSORS, b""), "not safetensors"),
    "config is not json": (lambda f: rewrite(f, "config.json", b"{"), "config.json"),
    "config is a list": (lambda f: rewrite(f, "config.json", b"[1]"), "config.json"),
    "unknown config key": (lambda f: edit_config(f, colour=1), "no field 'colour'"),
    "unknown letter": (lambda f: edit_config(f, stack="WTX"), "no layer for 'X'"),
    "config of another width": (lambda f: edit_config(f, dim=128), "has shape"),
    "config of enormous width": (lambda f: edit_config(f, dim=2**24), "has shape"),
    "config of a wrong type": (lambda f: edit_config(f, dim="wide"), "config.json"),
    "config of negative width": (lambda f: edit_config(f, dim=-64), "config.json"),
    "a longer stack": (lambda f: edit_config(f, stack="WTF" * 3), "the weights lack"),
    "a shorter stack": (lambda f: edit_config(f, stack="WTF"), "which no layer has"),
    "a parameter gone": (
        lambda f: edit_tensors(f, lambda t: t.pop("head.norm.weight")),
        "the weights lack 'head.norm.weight'",
    ),
    "a parameter more": (
        lambda f: edit_tensors(f, lambda t: t.update(extra=torch.zeros(1))),
        "'extra', which no layer has",
    ),
    "NaN": (
        lambda f: edit_tensors(f, lambda t: t["head.norm.weight"].fill_(torch.nan)),
        "values that are not finite",
    ),
    "a scale gone": (
        lambda f: edit_tensors(f, lambda t: t.pop("embed.ray.weight::scale")),
        "with a wrong scale",
    ),
    "a scale of another shape": (
        lambda f: edit_tensors(
            f, lambda t: t.update({"embed.ray.weight::scale": torch.ones(1).half()})
        ),
        "with a wrong scale",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_refused_in_one_sentence(folder: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_name_that_is_not_there_lists_what_there_is() -> None:
    with pytest.raises(WeightsError, match="no weights called 'nonesuch'"):
        load_model("nonesuch")


def test_an_url_needs_the_hash_of_its_manifest() -> None:
    with pytest.raises(WeightsError, match="needs #hash"):
        load_model("https://example.org/weights")


def test_remote_weights_are_checked_against_their_hash_and_kept(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fetched = []

    def download(url: str, limit: int) -> bytes:
        fetched.append(url)
        content = (saved / url.rsplit("/", 1)[1]).read_bytes()
        assert len(content) <= limit
        return content

    monkeypatch.setattr(weight_files, "_download", download)
    url = f"https://example.org/tiny#{weights_hash(saved)}"
    assert load_model(url).fingerprint == load_model(saved).fingerprint
    count = len(fetched)
    load_model(url)
    assert len(fetched) == count, "fetched twice"
    with pytest.raises(WeightsError, match="its hash isn't"):
        load_model("https://example.org/tiny#" + "0" * 32)
