"""Where rays meet bodies: interval arithmetic on convex sets, without a branch.

A ray is p + t d in a body's own frame, with t the z-depth in the camera (the camera-frame direction
is (x, y, 1)), so the nearest t is the depth map itself. All functions are elementwise over
broadcast shapes, usually [M views, R rays, N bodies], so a compiler fuses them into one reduction.
Vectors are triples of tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

Vector = tuple[Tensor, ...]  # three: x, y, z

_TINY = 1e-10


def dot(a: Vector, b: Vector) -> Tensor:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _nonzero(value: Tensor, least: float) -> Tensor:
    """`value` kept away from zero, with its sign (zero counts as positive)."""
    return torch.where(value.abs() < least, torch.where(value < 0, -least, least), value)


def _slab_interval(p: Vector, d: Vector) -> tuple[Tensor, Tensor]:
    """Where p + t d is inside [-1, 1]^3: near and far t, empty when near > far."""
    near = far = None
    for pk, dk in zip(p, d, strict=True):
        inverse = 1.0 / _nonzero(dk, 1e-9)
        a, b = (-1.0 - pk) * inverse, (1.0 - pk) * inverse
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        near = low if near is None else torch.maximum(near, low)
        far = high if far is None else torch.minimum(far, high)
    return near, far


def convex_interval(
    o: Vector, d: Vector, q: Vector, taper: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Where o + t d is inside the unit box and q . p^2 <= (a + b z)^2: near and far t.

    The ray's origin is first moved to its point closest to the middle: a rod seen from 400 of its
    radii away would otherwise lose all digits of the discriminant in float32.
    """
    shift = -dot(o, d) / dot(d, d).clamp(min=1e-20)
    p = (o[0] + shift * d[0], o[1] + shift * d[1], o[2] + shift * d[2])
    near, far = _slab_interval(p, d)

    a, b = taper
    width, slope = a + b * p[2], b * d[2]
    square = (q[0] * d[0], q[1] * d[1], q[2] * d[2])
    A = dot(square, d) - slope * slope
    B = dot(square, p) - width * slope
    C = q[0] * p[0] * p[0] + q[1] * p[1] * p[1] + q[2] * p[2] * p[2] - width * width
    A = _nonzero(A, _TINY)
    D = B * B - A * C
    root = torch.sqrt(D.clamp(min=0.0))
    # the stable pair of roots: no difference of nearly equal numbers
    s = _nonzero(-(B + torch.where(B < 0, -root, root)), 1e-20)
    first, second = s / A, C / s
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    # A < 0: a ray steeper than the cone is inside beyond one root, on the side that opens up
    opens = slope > 0
    low_steep = torch.where(opens, high, torch.full_like(high, -1e6))
    high_steep = torch.where(opens, torch.full_like(low, 1e6), low)
    is_steep = A < 0
    low, high = torch.where(is_steep, low_steep, low), torch.where(is_steep, high_steep, high)
    misses = (D < 0) & ~is_steep
    near = torch.maximum(near, low)
    far = torch.where(misses, near - 1.0, torch.minimum(far, high))
    return shift + near, shift + far


def entry(
    o: Vector,
    d: Vector,
    body: tuple[Vector, tuple[Tensor, Tensor]],
    cutter: tuple[Vector, Vector, Vector],
    t_min: float | Tensor,
) -> Tensor:
    """The first t > t_min at which a ray enters  body minus cutter; +inf where it doesn't.

    body: quadric, taper. cutter: centre, inverse half size, quadric, in the body's frame.
    A ray that starts inside the solid part of a body doesn't see it.
    """
    near, far = convex_interval(o, d, *body)
    centre, inverse, quadric = cutter
    oc = tuple((ok - ck) * ik for ok, ck, ik in zip(o, centre, inverse, strict=True))
    dc = tuple(dk * ik for dk, ik in zip(d, inverse, strict=True))
    one = torch.ones_like(inverse[0])
    cut_near, cut_far = convex_interval(oc, dc, quadric, (one, torch.zeros_like(one)))
    start = near.clamp(min=t_min) if isinstance(t_min, float) else torch.maximum(near, t_min)
    is_cut = (cut_near < cut_far) & (cut_near <= start) & (cut_far > near)
    t = torch.where(is_cut, cut_far, near)
    hits = (near < far) & (t < far) & (t > t_min)
    return torch.where(hits, t, torch.full_like(t, torch.inf))


def box_exit(o: Vector, d: Vector) -> tuple[Tensor, Tensor]:
    """Where a ray from inside leaves [-1, 1]^3: t, and the wall 2 axis + (0 low, 1 high), int64."""
    best, wall = None, None
    for axis, (ok, dk) in enumerate(zip(o, d, strict=True)):
        side = torch.where(dk < 0, -1.0, 1.0)
        t = (side - ok) / _nonzero(dk, 1e-9)
        face = 2 * axis + (side > 0).to(torch.int64)
        if best is None:
            best, wall = t, face
        else:
            closer = t < best
            best, wall = torch.minimum(best, t), torch.where(closer, face, wall)
    return best, wall
