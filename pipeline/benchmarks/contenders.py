"""The two models of `everview bench model` on the same inputs, asked for the same things.

Shapes: B scenes, V views, H rows, W columns.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.kernels.backend import reading_products
from everview.kernels.published import PublishedWeights
from everview.models.config import base33m
from everview.models.gauge import Gauge
from everview.models.rays import pluecker
from everview.models.scene_model import Query, SceneModel, View
from everview.models.state import SceneState
from everview.pipeline.benchmarks.published_model import PublishedModel

VIEWS, SIZE, PATCH = 8, 128, 8
TOKENS_PER_VIEW = (SIZE // PATCH) ** 2
_RADIUS, _FOCAL = 2.0, 140.0 / 128


@dataclass(frozen=True)
class Scene:
    """Inputs [1, 8] and one target [1, 1] on a circle, looking at its centre; random pictures."""

    images: Tensor
    cameras: Cameras
    target: Cameras

    @staticmethod
    def random() -> Scene:
        """The same scene every time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(1, VIEWS, 3, SIZE, SIZE, generator=generator)
        return Scene(images, circle(torch.arange(VIEWS) / VIEWS), circle(torch.tensor([0.07])))


@dataclass(frozen=True)
class Ours:
    """everview's scene model with a state that has seen the scene."""

    model: SceneModel
    scene: Scene
    start: SceneState
    state: SceneState
    view: View

    @staticmethod
    def of(scene: Scene, model: SceneModel | None = None) -> Ours:
        """model: the 33M configuration with random weights unless given."""
        if model is None:
            torch.manual_seed(0)
            model = SceneModel(base33m()).eval().requires_grad_(False)
        start = model.init_state(1)
        state = model.observe(scene.images, scene.cameras, None, start, gauge=as_is())
        products = (
            reading_products(model.device)
            if model.head.pixels.weight.dtype == torch.float32
            else None
        )
        return Ours(model, scene, start, state, model.freeze(state, products))

    def reading(self, products: torch.dtype | None) -> Ours:
        """The same with other products in rendering; None: the weights' own."""
        return replace(self, view=self.model.freeze(self.state, products))

    def exact(self) -> Ours:
        """The same in float64."""
        return Ours.of(self.scene, copy.deepcopy(self.model).double())

    def observe(self) -> SceneState:
        """Absorb all inputs as one chunk."""
        scene = self.scene
        return self.model.observe(scene.images, scene.cameras, None, self.start, gauge=as_is())

    def render(self) -> Tensor:
        """The target from the fast weights alone."""
        return self._picture(bank=False)

    def render_with_bank(self) -> Tensor:
        """The target with texture copied from the bank."""
        return self._picture(bank=True)

    def freeze(self) -> View:
        """What a session does once after each chunk."""
        return self.model.freeze(self.state, self.view.products)

    def memory(self) -> Tensor:
        """Every written weight."""
        states = [layer for layer in self.state.layers if layer != ()]
        return torch.cat([state.weights.flatten() for state in states])

    def _picture(self, bank: bool) -> Tensor:
        picture = self.model.query(Query(self.scene.target), self.view, ("rgb",), bank=bank).rgb
        assert picture is not None
        return picture


@dataclass(frozen=True)
class Published:
    """The published model with weights that have seen the scene."""

    model: PublishedModel
    scene: Scene
    weights: list[PublishedWeights]

    @staticmethod
    def of(scene: Scene, model: PublishedModel | None = None) -> Published:
        """model: of the size of everview's 33M configuration unless given."""
        if model is None:
            torch.manual_seed(0)
            config = base33m()
            blocks = config.stack.count("T")
            model = PublishedModel(blocks, config.dim).eval().requires_grad_(False)
        return Published(model, scene, _reconstruct(model, scene))

    def exact(self) -> Published:
        """The same in float64."""
        return Published.of(self.scene, copy.deepcopy(self.model).double())

    def observe(self) -> list[PublishedWeights]:
        """Write and read all inputs as one chunk."""
        return _reconstruct(self.model, self.scene)

    def render(self) -> Tensor:
        """The target."""
        rays = pluecker(self.scene.target).to(self.model.embed.weight.dtype)
        return self.model.render(rays, self.weights)

    def render_bfloat16(self) -> Tensor:
        """The target with bfloat16 products; its fast weights are cast in every layer."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.render()

    def memory(self) -> Tensor:
        """Every written weight."""
        return torch.cat([w.flatten() for block in self.weights for w in block])


def _reconstruct(model: PublishedModel, scene: Scene) -> list[PublishedWeights]:
    kind = model.embed.weight.dtype
    return model.reconstruct(pluecker(scene.cameras).to(kind), scene.images.to(kind))


def as_is() -> Gauge:
    """The gauge that changes nothing."""
    rotation = torch.eye(3, dtype=torch.float64)[None]
    return Gauge(rotation, torch.zeros_like(rotation[0, :1]), torch.ones_like(rotation[0, 0, :1]),
                 "given")  # fmt: skip


def circle(turns_V: Tensor, size: int = SIZE) -> Cameras:
    """Cameras [1, V] of size x size pixels at these parts of a full turn, level, looking at the
    origin."""
    angle = turns_V * 2 * math.pi
    forward = torch.stack([-angle.sin(), torch.zeros_like(angle), angle.cos()], -1)
    down = torch.tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = torch.linalg.cross(down, forward)
    pose = torch.eye(4).repeat(len(angle), 1, 1)
    pose[:, :3] = torch.stack([right, down, forward, -_RADIUS * forward], -1)
    focal = _FOCAL * size
    lens = torch.tensor([focal, focal, size / 2, size / 2]).repeat(len(angle), 1)
    return Cameras(size, size, lens[None], pose[None])
