"""The scene model: observe frames, query views; in training, run whole episodes.

A stack of residual layers over the tokens of views (`config.stack`). Input tokens write the layers'
states and read them; query tokens only read. Beside the fast weights the state holds a frame bank,
from which queries get depth evidence (models.sweep) and copy texture (models.heads.Refinement).

Shapes: B scenes, V views, T tokens of a view, C channels, H rows, W columns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from everview.datasets.cameras import Cameras
from everview.models.bank_features import BankFeatures, Made
from everview.models.config import BankConfig, ModelConfig
from everview.models.context import Context
from everview.models.cross_view import CrossView, Visit, looking, visit
from everview.models.decoding import Pixels
from everview.models.elastic import Elastic
from everview.models.episode import Episode
from everview.models.evidence import Evidence
from everview.models.fine_sweep import FineSweep
from everview.models.fingerprint import Fingerprint
from everview.models.frame_bank import FrameBank, grown_bank
from everview.models.gauge import Gauge, fit_gauge
from everview.models.heads import Refinement, TokenHead
from everview.models.initialisation import initialise
from everview.models.layers import Plan, TokenGrid, build_stack
from everview.models.layers.blocks import Run, block_length, recomputed, run_block, run_stack
from everview.models.layers.fast_weight import FastWeightMemory
from everview.models.queries import HEADS, EpisodeOutputs, Outputs, Query, View
from everview.models.rays import TokenEmbedding
from everview.models.reading import PackedStack, in_arithmetic
from everview.models.schedule import CHUNK_CAUSAL, Schedule
from everview.models.state import Clock, SceneState, StateError, in_products
from everview.models.steps import StepPolicy
from everview.models.sweep import PlaneSweep, Sources
from everview.models.token_views import TokenViews
from everview.models.views import check_sizes
from everview.models.warped_blocks import WarpedBlocks
from everview.models.window_frames import taken, with_nearest


class SceneModel(nn.Module):
    """See the module's docstring. `config` is complete; `fingerprint` names the slow weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = TokenEmbedding(config.dim, config.patch, config.time_periods, config.foot_code)
        self.layers: Any = nn.ModuleList(build_stack(config))  # type: ignore[arg-type]
        bank, depths = config.bank, config.bank or BankConfig()
        width = config.dim, config.patch
        self.head = TokenHead(*width, (depths.near, depths.far, depths.hypotheses))
        self.sweep = None if bank is None else PlaneSweep(bank, *width)
        self.refine = None if bank is None else Refinement(bank)
        self.cross_view = CrossView(config, depths) if config.cross_view else None
        self.fine = FineSweep(bank, config.dim) if bank and bank.fine_offsets else None
        self.warped = WarpedBlocks(bank, *width) if bank and bank.warped else None
        self._seen = TokenViews(config)
        self._fingerprint, self._bank_features = Fingerprint(), BankFeatures()
        self._packed, self._packed_looks = PackedStack(), PackedStack()
        self._run: Run = run_block
        self._visit: Visit = visit
        initialise(self, self.layers, self.head, self.refine)

    # --- identity ------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.head.pixels.weight.device

    @property
    def fingerprint(self) -> str:
        """Hash of the slow weights and the configuration; recomputed when a weight changed.

        Changes of weights made in inference mode, which have no version, and a replaced `.data`,
        which leaves it as it was, are not noticed.
        """
        return self._fingerprint.of(self, self.config.identity)

    def committing(self, step: StepPolicy, elastic: Elastic | None) -> SceneModel:
        """This model with other policies of a commit; the slow weights are shared, not copied.

        Its states are its own: what an elastic pull carries is part of them, and a step is part of
        the equation that wrote them. So `fingerprint` differs, unless nothing does.
        """
        config = replace(self.config, step=step, elastic=elastic)
        if config == self.config:
            return self
        shared = {id(t): t for t in (*self.parameters(), *self.buffers())}
        other = copy.deepcopy(self, shared)
        other.config = config
        for layer in other.layers:
            if isinstance(layer, FastWeightMemory):
                layer.elastic = elastic
        return other

    def compile_blocks(self, **options: Any) -> None:
        """torch.compile the parts with fixed shapes: layers in blocks, embedding, sweep, heads.

        A block's graph is shared by all blocks; there is one for every schedule, number of chunks
        and combination of inputs and queries, more than torch's default of 8.
        """
        from torch._dynamo import config  # seconds to import, and only training compiles

        config.recompile_limit = max(config.recompile_limit, 64)
        self._run = torch.compile(run_block, **options)
        self._visit = torch.compile(visit, **options)
        evidence, pixels = (self.sweep, self.warped), (self.head, self.fine, self.refine)
        for module in (self.embed, *evidence, self.cross_view, *pixels):
            if module is not None:
                module.compile(**options)

    def recompute_blocks(self) -> None:
        """Keep no activations inside blocks of layers: the backward pass computes them again."""
        self._run, self._visit = recomputed(self._run), recomputed(self._visit)

    # --- streaming -----------------------------------------------------------------------------

    def init_state(self, batch: int) -> SceneState:
        """The state of `batch` scenes before their first chunk."""
        return replace(self._blank_state(batch, None), fingerprint=self.fingerprint)

    def observe(
        self,
        images_BV3HW: Tensor,
        cameras_BV: Cameras,
        time_s_BV: Tensor | None,
        state: SceneState,
        *,
        gauge: Gauge | None = None,
        depth_BVHW: Tensor | None = None,
        scale: str = "up_to_scale",
        gate_B: Tensor | None = None,
        replayed_BR: Tensor | None = None,
        schedule: Schedule = CHUNK_CAUSAL,
        write: Callable[..., tuple[Any, ...]] | None = None,
    ) -> SceneState:
        """Absorb one chunk through every layer; the state given is left as it was.

        images in [0, 1], of the cameras' size, which may differ from chunk to chunk; cameras in the
        capture's world; time in seconds.
        gauge: with the first chunk only; left out, it is fitted to that chunk (depth and scale as
        for `fit_gauge`).
        gate_B: factor on the step per scene, 0 to discard the chunk. replayed_BR: places in the
        state's bank of frames that are written once more, in front of the chunk and as part of its
        one update; the bank takes only what is new. write: a captured form of `write`.
        Raises StateError for a state of other weights, GaugeError when no gauge can be fitted.
        """
        self._check(state)
        check_sizes(images_BV3HW, cameras_BV, len(state.clock.chunks))
        if not schedule.is_causal:
            raise ValueError(f"the schedule {schedule.name!r} isn't causal and can't be streamed")
        if state.gauge is None:
            gauge = gauge or fit_gauge(cameras_BV, scale, depth_BVHW)
            state = replace(state, gauge=gauge.to(self.device))
        elif gauge is not None:
            raise ValueError("the gauge is fixed by the first chunk and can't be given again")
        assert state.gauge is not None
        images = images_BV3HW.to(self.device)
        cameras = state.gauge.cameras_to_model(cameras_BV.to(self.device))
        clock = state.clock.started(time_s_BV)
        time_s = clock.since_origin(time_s_BV, images.shape[1])
        steps = self.config.step.steps(state.clock.chunks)[:, None]
        steps = steps if gate_B is None else steps * gate_B.to(steps)[:, None]
        chunk = (images, cameras, time_s)
        if replayed_BR is not None:
            if state.bank is None:
                raise ValueError("this state keeps no frames: there is nothing to replay")
            chunk = state.bank.select(replayed_BR).before(*chunk)
        layers, cells = taken((write or self.write)(*chunk, state.layers, steps, schedule))
        capacity = 0 if self.config.bank is None else self.config.bank.capacity
        bank = grown_bank(state.bank, images, cameras, time_s, gate_B, capacity, cells)
        return replace(state, layers=layers, clock=clock.ticked(gate_B), bank=bank)

    def write(
        self,
        images: Tensor,
        cameras: Cameras,
        time_s: Tensor,
        layers: tuple[Any, ...],
        steps_BU: Tensor,
        schedule: Schedule,
    ) -> tuple[Any, ...]:
        """The part of `observe` without decisions: the layers' states after one chunk. cameras in
        the gauge, time_s since the origin, steps [B, 1]."""
        images, cameras = self._seen.of(images, cameras)
        x = in_arithmetic(self.embed(cameras, images, time_s))
        last = max((i for i, state in enumerate(layers) if state != ()), default=None)
        if last is None:
            return layers
        plan = Plan.of(schedule, (images.shape[1],))
        rest = (steps_BU, self._grid(cameras))
        before = tuple(self.layers)[:last], x, None, layers[:last]
        x, _, written = self._through(*before, plan, *rest)
        # what follows the last memory has nothing to write
        ends = (self.layers[last],), x, None, layers[last : last + 1]
        _, _, final = self._through(*ends, plan.writes_only(), *rest)
        return (*written, *final, *layers[last + 1 :])

    # --- queries -------------------------------------------------------------------------------

    def freeze(self, state: SceneState, products: torch.dtype | None = None) -> View:
        """An immutable copy for reading, with the bank's features. products: type of the queries'
        matrix products, into which slow and fast weights are put here (None: their own)."""
        self._check(state)
        if state.gauge is None:
            raise StateError("nothing was observed yet: there is nothing to look at")
        features: Made = ()
        if self.sweep is not None and state.bank is not None:
            first = next(self.sweep.parameters())
            is_mixed = torch.is_autocast_enabled(first.device.type)
            made_by = (state.fingerprint, first.dtype, first.device, is_mixed, products)
            make = partial(self._features_of, products=products)
            features = self._bank_features.of(state.bank, make, made_by)
        layers = state.layers if products is None else in_products(state.layers, products)
        stack = self._packed.of(self.layers, state.fingerprint, products)
        looks = self._packed_looks.of(self.cross_view, state.fingerprint, products)
        return View(layers, state.gauge, state.clock, state.bank, features, stack, looks, products)

    def query(
        self,
        query: Query,
        view: View,
        heads: Collection[str] = ("rgb", "depth", "confidence"),
        *,
        bank: bool = True,
    ) -> Outputs:
        """Answer a query from a frozen state. bank=False: from the fast weights alone."""
        unknown = set(heads) - set(HEADS)
        if unknown:
            raise ValueError(f"no head {sorted(unknown)[0]!r}; known: {', '.join(HEADS)}")
        if query.cameras is None:
            raise ValueError("a query without a camera asks where it was: SceneLocator answers")
        cameras = view.gauge.cameras_to_model(query.cameras.to(self.device))
        time_s = view.clock.since_origin(query.time_s, cameras.shape[1])
        images = None if query.images is None else query.images.to(self.device)
        outs = Outputs()
        if set(heads) & {"rgb", "depth", "confidence"}:
            outs = self._answer(cameras, images, time_s, view, bank)
        if "memory_rgb" in heads:
            pure = outs
            if outs.rgb is None or (bank and view.bank is not None):
                pure = self._answer(cameras, images, time_s, view, False)
            outs = replace(outs, memory_rgb=pure.rgb)
        return outs.shown(heads, view.gauge)

    def render(
        self, cameras_BV: Cameras, state: SceneState, time_s_BV: Tensor | None = None
    ) -> Outputs:
        """Freeze and query: novel views of `state`."""
        return self.query(Query(cameras_BV, time_s=time_s_BV), self.freeze(state))

    def _answer(
        self, cameras: Cameras, images: Tensor | None, time_s: Tensor, view: View, bank: bool
    ) -> Outputs:
        """One pass of query tokens through the stack. bank: use the frame bank."""
        frames = view.bank if bank and self.sweep is not None else None
        seen = self._seen.cameras(cameras)
        images = None if images is None else self._seen.of(images, cameras)[0]
        with view.arithmetic():
            x = self.embed(seen, images, time_s)
            x, sources = self._evidence.added(x, seen, time_s, frames, view.features, None)
            x, grid = in_arithmetic(x), self._grid(seen)
            looks = looking(view.cross_view, self._visit, seen, sources, view.features, None)
            layers = with_nearest(view.layers, self.config.window_used, seen, time_s, frames)
            _, x, _ = self._through(view.stack, None, x, layers, None, None, grid, looks)
            return self._decode(x, seen, cameras, frames, sources, view.features, None)

    # --- episodes ------------------------------------------------------------------------------

    def forward(
        self, episode: Episode, schedule: Schedule, context: Context | None = None
    ) -> tuple[SceneState, EpisodeOutputs]:
        """Execute `schedule` over a whole episode, layer by layer: training's form of
        observe-and-query. Gradients reach the slow weights, the learned initial fast weights too.

        context: the ranks that share the episode. Each is given all of it and returns the outputs
        of its `episode.own_part`; the state is everybody's.
        """
        context = context or Context()
        own, gauge = episode.own_part(context, schedule), episode.gauge
        batch = episode.inputs.cameras.shape[0]
        state = self._blank_state(batch, gauge)
        whole = Plan.of(schedule, episode.chunk_views)
        plan = replace(whole, chunk_views=context.own_chunks(whole.chunk_views), context=context)
        # a stream's clock starts with its first timed chunk; without order, with the earliest view
        arrivals = whole.chunk_views if schedule.is_causal else (whole.num_views,)
        clock, time_s = state.clock.over_chunks(episode.inputs.time_s, arrivals)
        own_s = context.cut(time_s, whole.chunk_views)
        cameras = gauge.cameras_to_model(own.inputs.cameras)
        asked = gauge.cameras_to_model(own.targets.cameras)
        asked_s = clock.since_origin(own.targets.time_s, asked.shape[1])
        assert episode.inputs.images is not None
        assert own.inputs.images is not None
        images, seen = self._seen.of(own.inputs.images, cameras)
        queried = self._seen.cameras(asked)
        x: Tensor | None = self.embed(seen, images, own_s)
        frames: FrameBank | None = None
        features: Made = ()
        if self.sweep is not None:
            every = gauge.cameras_to_model(episode.inputs.cameras)
            frames = FrameBank(episode.inputs.images, every, time_s)
            features = self._features_of(frames)
        q = self.embed(queried, None, asked_s)
        q, sources = self._evidence.added(q, queried, asked_s, frames, features, own.bank_mask)
        counts = torch.arange(plan.num_updates, device=x.device).expand(batch, -1)
        rest = plan, self.config.step.steps(counts), self._grid(seen)
        looks = looking(self.cross_view, self._visit, queried, sources, features, own.bank_mask)
        window, allowed = self.config.window_used, own.bank_mask
        blank = with_nearest(state.layers, window, queried, asked_s, frames, allowed)
        x, q, left = self._through(self.layers, x, q, blank, *rest, looks)
        layers, cells = taken(left)
        frames = None if frames is None else replace(frames, cells=cells)
        clock = replace(clock, chunks=clock.chunks + plan.num_updates)
        final = replace(state, layers=layers, clock=clock, bank=frames)
        inputs = self._decode(x, seen, cameras, None, None, (), None)
        outs = self._decode(q, queried, asked, frames, sources, features, own.bank_mask)
        return final, EpisodeOutputs(outs, inputs)

    # --- shared parts --------------------------------------------------------------------------

    def _blank_state(self, batch: int, gauge: Gauge | None) -> SceneState:
        """A first state without a fingerprint: in training the weights change every step."""
        layers = tuple(layer.init_state(batch) for layer in self.layers)
        origin = torch.full((batch,), torch.nan, dtype=torch.float64, device=self.device)
        chunks = torch.zeros(batch, dtype=torch.int64, device=self.device)
        return SceneState(layers, gauge, Clock(origin, chunks), None, "")

    def _features_of(self, frames: FrameBank, products: torch.dtype | None = None) -> Made:
        """Matching features of every frame, what each layer across views is shown of it, and
        features of the fine sweep, of the reduced frame and of the whole one where they differ."""
        assert self.sweep is not None
        pictures = frames.pictures()
        seen, cameras = self._seen.of(pictures, frames.cameras)
        maps = self.sweep.features(seen)
        looks = self.cross_view
        shown = () if looks is None else looks(seen, cameras, maps)
        sizes = () if self.fine is None else (seen,) if seen is pictures else (seen, pictures)
        fine = (self.fine.features(size, maps) for size in sizes)
        return maps, *(shown if products is None else in_products(shown, products)), *fine

    @property
    def _evidence(self) -> Evidence:
        return Evidence(self.config, self.sweep, self.warped, self.head.log_depths)

    def _decode(
        self,
        tokens: Tensor,
        seen: Cameras,
        cameras: Cameras,
        frames: FrameBank | None,
        sources: Sources | None,
        features: Made,
        mask_BV: Tensor | None,
    ) -> Outputs:
        pixels = Pixels(self.head, self.fine, self.refine)
        levels = features[1 + self.config.cross_view :]
        return pixels.of(tokens, seen, cameras, frames, sources, levels, mask_BV)

    def _through(self, layers: Any, *rest: Any) -> tuple[Any, Any, tuple[Any, ...]]:
        """Layer.run through a stack: inputs, queries and the layers' states."""
        return run_stack(self._run, layers, block_length(self.config.stack), *rest)

    def _grid(self, cameras: Cameras) -> TokenGrid:
        config, grid = self.config, self.config.token_grid(cameras.height, cameras.width)
        return TokenGrid.of(*grid, config.attention_head_dim, self.device, config.window_used)

    def _check(self, state: SceneState) -> None:
        if state.fingerprint != self.fingerprint:
            raise StateError("this state is of other weights: replay the capture with these")
