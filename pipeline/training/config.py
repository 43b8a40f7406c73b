"""The configuration of a training run: frozen, nested, complete, and free of torch.

A recipe (`everview.workflows.recipes`) is a function that returns a TrainConfig; the command line
changes single values of it. Everything that changes over a run is data here, as a function of the
run's progress in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from everview.models.config import ModelConfig
from everview.pipeline.tracking.config import Tracking
from everview.pipeline.training.learning_rate import Budget, Ramp, RateSchedule, constant

Schedule = Literal["set", "chunked_set", "chunk_causal", "shifted"]
ViewChoice = Literal["random", "window", "coverage"]
SceneFeature = Literal["boolean_cuts", "height_fields", "textures", "lights"]
OPERATIONAL = (
    "device", "compile", "capture", "parallel", "tracking",
    "commit_every_s", "keep", "report_every",
)  # fmt: skip
"""Settings of a TrainConfig that may change while a run goes on, without making it another run."""


@dataclass(frozen=True)
class OptimiserConfig:
    """Rates and decays of the two optimisers."""

    hidden: Literal["muon", "adamw"] = "muon"
    """optimiser of the hidden matrices"""
    muon_rate: float = 0.02
    """Muon's rate; each matrix multiplies it by sqrt(max(1, rows / columns))"""
    muon_momentum: float = 0.95
    """Nesterov momentum of the averaged gradient"""
    muon_steps: int = 5
    """Newton-Schulz iterations"""
    adamw_rate: float = 8e-4
    """AdamW's rate"""
    beta1: float = 0.9
    """decay of AdamW's averaged gradient"""
    beta2: float = 0.95
    """decay of AdamW's averaged squared gradient"""
    epsilon: float = 1e-8
    """added to AdamW's denominator"""
    weight_decay: float = 0.02
    """decoupled decay of the hidden matrices, per unit of rate"""
    clip: float = 1.0
    """largest global gradient norm; larger ones are scaled down to it"""
    skip_above: float = 20.0
    """a step is skipped when its gradient norm exceeds the running mean by this factor"""
    average_decay: float | None = None
    """decay a step of a running mean of the weights, which is measured and published in their
    place (`averaging`); None: the weights themselves are"""

    def __post_init__(self) -> None:
        rates = (self.muon_rate, self.adamw_rate, self.clip)
        if min(rates) <= 0 or not 0 <= self.muon_momentum < 1:
            raise ValueError(f"rates and clip {rates} must be > 0 and the momentum in [0, 1)")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"average_decay {self.average_decay} must lie between 0 and 1")


@dataclass(frozen=True)
class LossConfig:
    """The weights over a run."""

    picture: Ramp = constant(1.0)
    """mean squared error of the final picture"""
    direct: Ramp = constant(0.5)
    """mean squared error of the picture before anything is copied from the frame bank"""
    depth: Ramp = constant(0.1)
    """absolute log-depth error at targets, over pixels whose depth is known"""
    input_depth: Ramp = constant(0.05)
    """the same at inputs"""
    confidence: Ramp = constant(0.002)
    """negative log-likelihood of the colour error under the predicted scale"""
    charbonnier: Ramp = Ramp(0.0, 0.1, 0.5, 0.6)
    """sqrt(error^2 + eps^2) of the final picture: sharper edges than the mean square"""
    perceptual: Ramp = constant(0.0)
    """LPIPS-alex of the final picture; needs the lpips package and AlexNet's weights"""

    def at(self, progress: float) -> dict[str, float]:
        """The positive weights by name at `progress` in [0, 1]; other terms aren't computed."""
        weights = {ramp.name: getattr(self, ramp.name).value(progress) for ramp in fields(self)}
        return {name: weight for name, weight in weights.items() if weight > 0}


@dataclass(frozen=True)
class World:
    """A share of the procedural scenes."""

    name: str
    """world of `everview.datasets.procedural`"""
    dynamic: bool = False
    """whether things move in it"""
    trajectory: Literal["random", "video"] = "random"
    """views scattered about the scene, or the frames of a smooth path"""
    share: float = 1.0
    """relative to the other worlds"""
    without: tuple[SceneFeature, ...] = ()
    """what is taken away from its scenes: bowls, holes, notches and bites; displaced surfaces; all
    texture; all light but an even one"""


@dataclass(frozen=True)
class EpisodeShape:
    """One of the few shapes of a training step; every shape is compiled once.

    `start` and `end` make a curriculum of them, over scenes, views, chunks and resolution.
    """

    scenes: int = 16
    """scenes B"""
    inputs: int = 8
    """views that are written, in order"""
    targets: int = 8
    """views that are asked for, none of them an input"""
    chunks: tuple[int, ...] = (1, 2, 4, 8)
    """numbers of chunks the inputs may be cut into, drawn at random; each divides `inputs`"""
    share: float = 1.0
    """relative to the other shapes"""
    start: float = 0.0
    """progress from which the shape is drawn"""
    end: float = 1.0
    """progress up to which it is drawn"""
    size: int | None = None
    """side of its views in pixels, which divides the pool's; None: as the pool holds them"""

    def __post_init__(self) -> None:
        if min(self.scenes, self.inputs, self.targets) < 1:
            raise ValueError(f"{self} has an empty side")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"an episode shape is drawn from progress {self.start} to {self.end}, which is no "
                "stretch of a run from 0 to 1"
            )
        for chunks in self.chunks:
            if chunks < 1 or self.inputs % chunks:
                raise ValueError(f"{self.inputs} inputs can't be cut into {chunks} equal chunks")


@dataclass(frozen=True)
class Augmentation:
    """What happens to a scene between the pool and the model; shares are of scenes."""

    flip_share: float = 0.5
    """mirrored left to right, cameras with the images"""
    yaw_share: float = 1.0
    """turned about the gauge's vertical by any angle"""
    tilt_deg: float = 5.0
    """standard deviation of the gauge's tilt"""
    scale_range: float = 2.0
    """the gauge's scale is multiplied by a log-uniform factor in [1 / range, range]"""
    offset: float = 0.1
    """standard deviation of the gauge's origin, in model units"""
    exposure_share: float = 0.3
    """scenes whose inputs differ in exposure and white balance"""
    exposure: float = 0.08
    """standard deviation of the log gain per input view; a third of it per colour"""
    pose_noise_share: float = 0.5
    """scenes whose input poses are noisy"""
    pose_noise: float = 0.002
    """standard deviation of the input positions, in units of the median depth"""
    pose_noise_deg: float = 0.15
    """standard deviation of the input rotations"""
    timeless_share: float = 0.5
    """static scenes whose frames carry no time"""
    sparse_share: float = 0.5
    """scenes whose views come from anywhere on the path; the others take a stretch of it"""
    depth_gauge_share: float = 0.5
    """scenes whose gauge may use depth; the others use cameras alone, as most captures must"""

    def __post_init__(self) -> None:
        if self.scale_range < 1:
            raise ValueError(f"scale_range {self.scale_range} must be at least 1")


@dataclass(frozen=True)
class DataConfig:
    """What the scene pool holds and how episodes are drawn from it."""

    worlds: tuple[World, ...] = (
        World("orbit", share=0.20),
        World("orbit", dynamic=True, share=0.05),
        World("tabletop", share=0.20),
        World("tabletop", trajectory="video", share=0.08),
        World("tabletop", dynamic=True, share=0.07),
        World("room", share=0.20),
        World("room", trajectory="video", share=0.14),
        World("room", dynamic=True, trajectory="video", share=0.06),
    )
    """procedural worlds"""
    size: int = 128
    """side of the square views that the pool holds and held-out scenes have, in pixels"""
    samples_per_pixel: int = 4
    """rays through a pixel, a square number: textures stay sharp and don't shimmer"""
    views: int = 32
    """views held of every scene"""
    pool_scenes: int = 1024
    """procedural scenes on the device at a time"""
    refresh_scenes: int = 16
    """scenes replaced together, all of one world; with as many held out, one kernel serves both"""
    reuse: float = 12.0
    """mean number of episodes that see a scene before it is replaced"""
    shards: tuple[str, ...] = ()
    """sets of `everview prepare`, paths or URLs; without, all scenes are procedural"""
    shard_shares: tuple[float, ...] = ()
    """of the sets among the stored scenes; equal ones unless given"""
    shard_views: ViewChoice = "random"
    """which views of a stored scene are held: any, neighbours, or a spread over all of them"""
    stored_scenes: int = 512
    """scenes from shards on the device at a time"""
    stored_share: Ramp = Ramp(0.1, 0.3, 0.5, 0.7)
    """share of stored scenes in an episode"""
    shapes: tuple[EpisodeShape, ...] = (EpisodeShape(),)
    """shapes of the episodes"""
    schedules: tuple[tuple[Schedule, float], ...] = (("chunk_causal", 1.0),)
    """schedules and their shares"""
    augmentation: Augmentation = Augmentation()
    """changes made to scenes"""
    memory_share: Ramp = constant(0.3)
    """share of targets that are asked of the memory alone, without the frame bank"""

    def __post_init__(self) -> None:
        if self.pool_scenes % self.refresh_scenes:
            raise ValueError(
                f"pool_scenes {self.pool_scenes} is not a multiple of refresh_scenes "
                f"{self.refresh_scenes}"
            )
        if self.shard_shares and len(self.shard_shares) != len(self.shards):
            raise ValueError(f"{len(self.shard_shares)} shares for {len(self.shards)} shards")
        if self.shards and self.stored_scenes % (self.refresh_scenes * self.parts):
            raise ValueError(
                f"stored_scenes {self.stored_scenes} is not a multiple of refresh_scenes x parts, "
                f"{self.refresh_scenes * self.parts}"
            )
        for shape in self.shapes:
            if shape.inputs + shape.targets > self.views:
                raise ValueError(
                    f"{shape.inputs} inputs and {shape.targets} targets don't fit the "
                    f"{self.views} views of a scene"
                )
            if shape.size is not None and (shape.size < 1 or self.size % shape.size):
                raise ValueError(
                    f"views of {self.size} px can't be reduced to {shape.size} px: the size of an "
                    f"episode shape must divide the pool's"
                )
        for progress in sorted({0.0, *(shape.end for shape in self.shapes)} - {1.0}):
            if not self.shapes_at(progress):
                raise ValueError(f"no episode shape is drawn at progress {progress:g} of the run")

    def shapes_at(self, progress: float) -> list[EpisodeShape]:
        """The shapes that are drawn at `progress` in [0, 1]; those of the end also at 1."""
        inside = min(progress, math.nextafter(1.0, 0.0))
        return [shape for shape in self.shapes if shape.start <= inside < shape.end]

    def side(self, shape: EpisodeShape | EvaluationConfig) -> int:
        """Side of the square views of an episode of this shape, or of held-out ones, in pixels."""
        return shape.size or self.size

    @property
    def parts(self) -> int:
        """Equal parts of every batch and of the pool: what any number of workers can divide.

        Position b of a batch draws from part b % parts, so that a worker needs no other scenes.
        """
        blocks = self.pool_scenes // self.refresh_scenes
        return math.gcd(blocks, *(shape.scenes for shape in self.shapes))


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out procedural scenes, measured during training and at its end."""

    scenes: int = 16
    """scenes of each world"""
    inputs: int = 8
    """input views"""
    targets: int = 8
    """target views"""
    size: int | None = None
    """side of their square views, pixels; None: as the pool holds them"""
    chunks: tuple[int, ...] = (1, 4, 8)
    """chunk counts of the causal schedule, beside `set`"""
    causal: Literal["chunk_causal", "shifted"] = "chunk_causal"
    """that schedule, of streams too: what is trained with another is measured with it"""
    streams: tuple[int, ...] = ()
    """numbers of inputs, in chunks of one, of streams along the paths of the "video" worlds"""
    every_s: float = 240.0
    """seconds between evaluations; one always follows the last step"""


@dataclass(frozen=True)
class ParallelConfig:
    """How one step is cut for memory and for several ranks; no value of it changes what a step is.

    A run may go on with other values, and on another number of workers.
    """

    recompute: bool = False
    """compute activations again in the backward pass instead of keeping them: for memory"""
    micro_scenes: int | None = None
    """scenes of a rank that go through the model at once, at most; None: all of its share"""
    context: int = 1
    """ranks that divide each capture's frames among them; divides the number of workers"""
    zero: Literal[0, 1, 2, 3] | None = None
    """DeepSpeed's ZeRO stage; None: no DeepSpeed, every rank holds everything"""
    offload: bool = False
    """DeepSpeed keeps the optimiser's state in host memory; stages 1 to 3"""
    timeout_s: float = 120.0
    """longest wait for another rank before the run ends with an error that names it"""
    max_failures: int = 3
    """failures of workers after which a run on a cluster is given up"""

    def __post_init__(self) -> None:
        if self.context < 1 or (self.micro_scenes is not None and self.micro_scenes < 1):
            raise ValueError(f"{self} needs context and micro_scenes of at least 1")
        if self.offload and not self.zero:
            raise ValueError("offload needs --parallel.zero 1, 2 or 3: stage 0 divides nothing")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s {self.timeout_s} is not positive")

    def micro_batches(self, scenes: int) -> int:
        """Equal groups in which a rank's `scenes` go through the model."""
        limit = self.micro_scenes or scenes
        return next(n for n in range(1, scenes + 1) if scenes % n == 0 and scenes // n <= limit)


@dataclass(frozen=True)
class TrainConfig:
    """A complete training run."""

    name: str
    """the recipe's name, and the weights'"""
    budget: Budget
    """how long"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """what is trained"""
    data: DataConfig = DataConfig()
    """on what"""
    rate: RateSchedule = RateSchedule()
    """learning rate over the run"""
    optimiser: OptimiserConfig = OptimiserConfig()
    """optimisers"""
    loss: LossConfig = LossConfig()
    """loss"""
    evaluation: EvaluationConfig = EvaluationConfig()
    """held-out measurement"""
    parallel: ParallelConfig = ParallelConfig()
    """micro-batches and several ranks"""
    tracking: Tracking = Tracking()  # noqa: RUF009 (frozen)
    """where the curves go while the run goes on"""
    start_from: str | None = None
    """weights to start from: a name or a folder; what `model` has beyond them is drawn anew, as all
    is with None"""
    start_layers: tuple[int, ...] = ()
    """places of the layers of those weights that the stack begins with, the rest being left out
    (`models.shallower`); none: all of them"""
    seed: int = 0
    """seed of weights, scenes and episodes"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to train"""
    compile: bool = True
    """compile the model's blocks; only on a GPU"""
    capture: bool = True
    """replay the training step as a CUDA graph; only on a GPU"""
    commit_every_s: float = 60.0
    """seconds between checkpoints"""
    keep: int = 3
    """checkpoints kept"""
    report_every: int = 50
    """steps between two lines of the metrics, the only moments the host waits for the device"""

    def __post_init__(self) -> None:
        if self.start_layers and self.start_from is None:
            raise ValueError(f"start_layers {self.start_layers} of no weights: give start_from too")
        judged = self.data.side(self.evaluation)
        for side in (*map(self.data.side, self.data.shapes), judged):
            if side % self.model.patch:
                raise ValueError(
                    f"views of {side} px can't be cut into the model's patches of "
                    f"{self.model.patch} px"
                )
