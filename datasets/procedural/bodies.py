"""Bodies: every primitive is one formula, so that a ray meets all of them without a branch.

In its own frame a body is the box [-1, 1]^3 cut by one quadric,

    qx x^2 + qy y^2 + qz z^2 <= (a + b z)^2,

minus a convex cutter of the same kind (a boolean cut). q = 0 leaves the box, (1, 1, 1) makes an
ellipsoid, (1, 1, 0) a cylinder, with b != 0 a frustum or cone; q = 0.55 rounds the corners of a
box; a thin half size makes a plate or a rod. This file draws and places them, vectorised over
scenes (numpy).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from everview.datasets.procedural.draws import Draws, rotation_about_z

BOX, ELLIPSOID, CYLINDER, FRUSTUM, ROUNDED, BARREL = range(6)
_QUADRICS = np.array(
    [[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0], [0.55, 0.55, 0.55], [1, 1, 0.35]], np.float64
)
# A cutter is a box, an ellipsoid or a cylinder along one of the axes.
CUT_BOX, CUT_ELLIPSOID, CUT_ALONG_Z, CUT_ALONG_X, CUT_ALONG_Y = range(5)
_CUT_QUADRICS = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]], np.float64)

# Where an absent body or cutter is put: no ray gets there.
AWAY = 1.0e4


@dataclass
class Bodies:
    """N bodies of B scenes under construction: float64 arrays, filled by `put` and `cut`.

    centre, half_size [B, N, 3] metres; rotation [B, N, 3, 3] local to world; quadric [B, N, 3];
    taper [B, N, 2] = a, b; cut_* [B, N, 3] in the body's own frame; track [B, N] motion, 0 = still.
    """

    centre: np.ndarray
    half_size: np.ndarray
    rotation: np.ndarray
    quadric: np.ndarray
    taper: np.ndarray
    cut_centre: np.ndarray
    cut_half: np.ndarray
    cut_quadric: np.ndarray
    track: np.ndarray

    @staticmethod
    def empty(batch: int, count: int) -> Bodies:
        """No body present, no cutter."""
        lead = (batch, count)
        away = np.zeros((*lead, 3))
        away[..., 2] = -AWAY
        return Bodies(
            centre=away,
            half_size=np.full((*lead, 3), 1e-3),
            rotation=np.broadcast_to(np.eye(3), (*lead, 3, 3)).copy(),
            quadric=np.ones((*lead, 3)),
            taper=np.broadcast_to([1.0, 0.0], (*lead, 2)).copy(),
            cut_centre=np.full((*lead, 3), AWAY),
            cut_half=np.ones((*lead, 3)),
            cut_quadric=np.zeros((*lead, 3)),
            track=np.zeros(lead, np.int64),
        )

    def put(
        self,
        slots: slice,
        centre: np.ndarray,
        half_size: np.ndarray,
        *,
        form: np.ndarray | int = BOX,
        rotation: np.ndarray | None = None,
        top: np.ndarray | float = 0.6,
        present: np.ndarray | bool = True,
    ) -> None:
        """Fill `slots` (n of them): centre, half_size [B, n, 3]; the rest broadcasts to [B, n].

        top: radius of a frustum's upper face, as a share of its lower one.
        """
        shape = self.centre[:, slots].shape[:2]
        on = np.broadcast_to(present, shape)[..., None]
        form = np.broadcast_to(form, shape)
        top = np.where(form == FRUSTUM, np.broadcast_to(top, shape), 1.0)
        taper = np.stack([(1.0 + top) / 2.0, (top - 1.0) / 2.0], -1)
        rotation = np.eye(3) if rotation is None else rotation
        self.centre[:, slots] = np.where(on, centre, self.centre[:, slots])
        self.half_size[:, slots] = np.where(on, half_size, self.half_size[:, slots])
        self.quadric[:, slots] = np.where(on, _QUADRICS[form], self.quadric[:, slots])
        self.taper[:, slots] = np.where(on, taper, self.taper[:, slots])
        turned = np.broadcast_to(rotation, (*shape, 3, 3))
        self.rotation[:, slots] = np.where(on[..., None], turned, self.rotation[:, slots])

    def cut(
        self,
        slots: slice,
        centre: np.ndarray,
        half_size: np.ndarray,
        *,
        form: np.ndarray | int = CUT_BOX,
        present: np.ndarray | bool = True,
    ) -> None:
        """Take a cutter (in the frame of each body's unit box) out of `slots`."""
        shape = self.centre[:, slots].shape[:2]
        on = np.broadcast_to(present, shape)[..., None]
        quadric = _CUT_QUADRICS[np.broadcast_to(form, shape)]
        self.cut_centre[:, slots] = np.where(on, centre, self.cut_centre[:, slots])
        self.cut_half[:, slots] = np.where(on, half_size, self.cut_half[:, slots])
        self.cut_quadric[:, slots] = np.where(on, quadric, self.cut_quadric[:, slots])

    def reach(self) -> np.ndarray:
        """Half extents along the world's axes [B, N, 3] (exact for box and ellipsoid)."""
        spread = np.abs(self.rotation) * self.half_size[..., None, :]
        along_box = spread.sum(-1)
        along_ellipsoid = np.sqrt((spread**2).sum(-1))
        along_cylinder = np.sqrt((spread[..., :2] ** 2).sum(-1)) + spread[..., 2]
        is_round = self.quadric[..., 0] >= 1.0
        is_ball = is_round & (self.quadric[..., 2] >= 1.0)
        reach = np.where(is_round[..., None], along_cylinder, along_box)
        return np.where(is_ball[..., None], along_ellipsoid, reach)

    def is_present(self) -> np.ndarray:
        """[B, N] booleans."""
        return self.centre[..., 2] > -0.5 * AWAY


def random_forms(draws: Draws, count: int, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forms [B, n] and half sizes [B, n, 3] with |half size| about `size` [B, n].

    One in five is thin: a rod or a plate; the rest has aspect ratios up to about two.
    """
    form = draws.choice([0.30, 0.18, 0.22, 0.12, 0.10, 0.08], count)
    aspect = draws.log_uniform(count, 3, low=0.45, high=1.25)
    # cylinders and their kin are mostly round
    is_round = (form != BOX) & (form != ROUNDED) & draws.chance(0.75, count)
    aspect[..., 1] = np.where(is_round, aspect[..., 0], aspect[..., 1])
    thin = draws.choice([0.80, 0.12, 0.08], count)
    slim = draws.uniform(count, low=0.04, high=0.10)
    rod, plate = (thin == 1)[..., None], (thin == 2)[..., None]
    long = draws.uniform(count, low=0.9, high=1.7)
    aspect = np.where(rod, np.stack([slim, slim, long], -1), aspect)
    aspect = np.where(plate, np.stack([aspect[..., 0], aspect[..., 1], slim], -1), aspect)
    form = np.where(thin == 2, np.where(form == CYLINDER, CYLINDER, BOX), form)
    return form, aspect * size[..., None]


def random_cuts(draws: Draws, bodies: Bodies, slots: slice, probability: float) -> None:
    """Boolean cuts: a bowl, a drilled hole, a notch or a slice, taken out of some of `slots`."""
    count = bodies.centre[:, slots].shape[1]
    on = draws.chance(probability, count) & (bodies.half_size[:, slots].min(-1) > 0.015)
    kind = draws.integers(count, high=4)
    width = draws.uniform(count, low=0.45, high=0.88)
    axis = draws.integers(count, high=3)
    corner = np.sign(draws.uniform(count, 3, low=-1.0, high=1.0))
    depth = draws.uniform(count, low=0.2, high=1.6)
    lift = np.zeros((*kind.shape, 3))
    # bowl: hollow from above; hole: right through; notch: a corner; slice: a round bite from above
    lift[..., 2] = np.select([kind == 0, kind == 3], [2.0 - depth, depth * 0.5 + 0.4], 0.0)
    centre = np.where((kind == 2)[..., None], corner * 0.95, lift)
    through = np.where(np.arange(3) == axis[..., None], 3.0, 0.6 * width[..., None])
    wide = np.broadcast_to(width[..., None], through.shape)
    bowl = np.stack([width, width, np.ones_like(width)], -1)
    half = np.select(
        [(kind == 0)[..., None], (kind == 1)[..., None], (kind == 2)[..., None]],
        [bowl, through, wide],
        0.75 * wide,
    )
    drill = np.array([CUT_ALONG_X, CUT_ALONG_Y, CUT_ALONG_Z])[axis]
    is_boxy = bodies.quadric[:, slots, 0] == 0.0
    bowl_form = np.where(is_boxy, CUT_BOX, CUT_ALONG_Z)
    form = np.select([kind == 0, kind == 1, kind == 2], [bowl_form, drill, CUT_BOX], CUT_ELLIPSOID)
    bodies.cut(slots, centre, half, form=form, present=on)


def random_turns(draws: Draws, count: int, free: float) -> np.ndarray:
    """Rotations [B, n, 3, 3]: about the vertical, or with probability `free` any."""
    yaw = rotation_about_z(draws.uniform(count, high=2.0 * np.pi))
    anyhow = draws.chance(free, count)[..., None, None]
    return np.where(anyhow, draws.rotations(count), yaw)
