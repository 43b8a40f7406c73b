"""Textured meshes to views: scanned objects rendered once, with exact depth, into shards.

Rays are met by Embree through trimesh (both imported when used); texture is looked up bilinearly
at 2x2 samples a pixel, and depth at the pixel's centre. The background is white, depth 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.errors import DataError
from everview.datasets.guards import image_file, load_npz, regular_file

RADIUS = 0.9
_MAX_MESH_BYTES = 512 * 2**20
_MAX_ARRAY_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class TexturedMesh:
    """vertices float64 [N, 3]; uv float64 [N, 2] in [0, 1], v up; faces int64 [F, 3]; texture uint8
    [h, w, 3] sRGB. `normalised` meshes are centred at the origin with radius RADIUS."""

    name: str
    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    texture: np.ndarray

    def normalised(self, radius: float = RADIUS) -> TexturedMesh:
        """The mesh moved to the middle of its bounding box and scaled to `radius`."""
        middle = (self.vertices.min(0) + self.vertices.max(0)) / 2.0
        moved = self.vertices - middle
        scale = radius / np.linalg.norm(moved, axis=-1).max()
        return TexturedMesh(self.name, moved * scale, self.uv, self.faces, self.texture)


@dataclass(frozen=True, eq=False)
class MeshLight:
    """ambient and strength: shares of the texture's colour (linear); direction: towards the light,
    world axes. `unlit` shows the texture as it is."""

    name: str
    ambient: float
    strength: float
    direction: np.ndarray

    @staticmethod
    def unlit() -> MeshLight:
        """The scan's own colours."""
        return MeshLight("unlit", 1.0, 0.0, np.array([0.0, 0.0, 1.0]))

    @staticmethod
    def random(generator: np.random.Generator) -> MeshLight:
        """A sun somewhere above, on a weaker ambient."""
        direction = generator.normal(size=3)
        direction[2] = abs(direction[2]) + 0.3
        ambient = generator.uniform(0.35, 0.65)
        strength = generator.uniform(0.5, 1.0)
        return MeshLight("sun", ambient, strength, direction / np.linalg.norm(direction))


def load_ycb(geometry: Path, texture: Path) -> TexturedMesh:
    """A YCB object: .npz with v float32 [V, 3], uv uint16 [V, 2], f uint16 [F, 3], and a .jpg."""
    arrays = load_npz(geometry, _MAX_ARRAY_BYTES)
    missing = {"v", "uv", "f"} - arrays.keys()
    if missing:
        raise DataError(f"{geometry} holds no {', '.join(sorted(missing))}; it is no YCB mesh")
    v, uv, f = arrays["v"], arrays["uv"], arrays["f"]
    with image_file(texture, 64_000_000) as image:
        picture = np.asarray(image.convert("RGB"))
    mesh = TexturedMesh(
        geometry.stem,
        v.astype(np.float64),
        uv.astype(np.float64) / 65535.0,
        f.astype(np.int64),
        picture,
    )
    _check(mesh, geometry)
    return mesh


def load_mesh(path: Path) -> TexturedMesh:
    """A GLB, OBJ or PLY file through trimesh, its parts joined; colours of vertices or one material
    become a small texture where there is no picture."""
    import trimesh

    if path.suffix.lower() not in (".glb", ".obj", ".ply"):
        raise DataError(f"{path} is not a .glb, .obj or .ply mesh")
    regular_file(path, _MAX_MESH_BYTES)
    try:
        mesh: Any = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers meet
        raise DataError(f"{path} can't be read as a mesh ({error})") from None
    vertices = np.asarray(mesh.vertices, np.float64)
    visual = mesh.visual
    picture = getattr(getattr(visual, "material", None), "baseColorTexture", None)
    picture = picture or getattr(getattr(visual, "material", None), "image", None)
    uv = getattr(visual, "uv", None)
    if picture is None or uv is None:
        picture, uv = _colours_as_texture(visual, len(vertices))
    loaded = TexturedMesh(
        path.stem,
        vertices,
        np.asarray(uv, np.float64),
        np.asarray(mesh.faces, np.int64),
        np.asarray(picture.convert("RGB") if hasattr(picture, "convert") else picture),
    )
    _check(loaded, path)
    return loaded


def _colours_as_texture(visual: object, count: int) -> tuple[np.ndarray, np.ndarray]:
    """One texel per vertex, for meshes that carry colours instead of a picture."""
    colours = getattr(visual, "to_color", lambda: visual)()
    values = np.asarray(getattr(colours, "vertex_colors", np.full((count, 4), 180)), np.uint8)
    if values.shape[0] != count:
        values = np.full((count, 4), 180, np.uint8)
    side = int(np.ceil(np.sqrt(count)))
    texture = np.zeros((side * side, 3), np.uint8)
    texture[:count] = values[:, :3]
    column, row = np.arange(count) % side, np.arange(count) // side
    uv = np.stack([(column + 0.5) / side, 1.0 - (row + 0.5) / side], -1)
    return texture.reshape(side, side, 3), uv


def _check(mesh: TexturedMesh, path: Path) -> None:
    if mesh.vertices.ndim != 2 or len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise DataError(f"{path} holds no usable triangles")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise DataError(f"{path} has faces that name vertices which don't exist")
    if mesh.uv.shape != (len(mesh.vertices), 2):
        raise DataError(f"{path} has {len(mesh.uv)} texture coordinates, not one per vertex")


def sphere_cameras(
    generator: np.random.Generator, count: int, width: int, height: int, fov_deg: float = 50.0
) -> list[Camera]:
    """Cameras on a sphere about the origin, 2.2 to 3.1 away, looking at the middle, z up.

    fov_deg: across the shorter side of the picture.
    """
    from everview.datasets.procedural.trajectories import look_at

    z = generator.uniform(-0.5, 0.95, count)
    azimuth = generator.uniform(0.0, 2.0 * np.pi, count)
    flat = np.sqrt(1.0 - z * z)
    eye = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), z], -1)
    eye = eye * generator.uniform(2.2, 3.1, (count, 1))
    poses = look_at(eye, np.zeros_like(eye))
    focal = 0.5 * min(width, height) / np.tan(np.radians(fov_deg) / 2.0)
    return [Camera(width, height, focal, focal, width / 2, height / 2, pose) for pose in poses]


class MeshRenderer:
    """One mesh in an Embree scene; `render` gives a picture and a depth map."""

    def __init__(self, mesh: TexturedMesh) -> None:
        import trimesh
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        self.mesh = mesh
        body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        self._caster = RayMeshIntersector(body)
        self._planes = _Planes(mesh.vertices[mesh.faces])
        self._normals = np.asarray(body.vertex_normals)
        self._texture = (mesh.texture.astype(np.float32) / 255.0) ** np.float32(2.2)

    def render(self, camera: Camera, light: MeshLight) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] on white, and float32 z-depth [H, W], 0 where nothing is."""
        image = np.full((camera.height, camera.width, 3), 255, np.uint8)
        depth = np.zeros((camera.height, camera.width), np.float32)
        window = self._window(camera)
        pixels = camera.pixel_centres()[window]
        flat = pixels.reshape(-1, 2)
        shifts = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
        total = sum(self._sample(camera, flat + shift, light)[0] for shift in shifts)
        picture = np.clip(total / 4.0, 0.0, 1.0) ** np.float32(1.0 / 2.2)
        image[window] = np.round(picture * 255.0).astype(np.uint8).reshape(*pixels.shape[:2], 3)
        depth[window] = self._sample(camera, flat, None)[1].reshape(pixels.shape[:2])
        return image, depth

    def _window(self, camera: Camera) -> tuple[slice, slice]:
        """Rows and columns that can see the mesh: all, if a vertex is behind the camera."""
        seen, depth = camera.project(self.mesh.vertices)
        if depth.min() <= 1e-6:
            return slice(0, camera.height), slice(0, camera.width)
        low = np.clip(np.floor(seen.min(0)).astype(int) - 1, 0, None)
        high = np.clip(np.ceil(seen.max(0)).astype(int) + 1, 0, None)
        return slice(low[1], high[1]), slice(low[0], high[0])

    def _sample(
        self, camera: Camera, pixels: np.ndarray, light: MeshLight | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Linear colour [P, 3] (without a light: none) and z-depth [P] at `pixels` [P, 2]."""
        through = camera.unproject(pixels, np.ones(len(pixels))) - camera.centre
        origins = np.broadcast_to(camera.centre, through.shape)
        colour = np.ones((len(pixels), 3), np.float32)
        depth = np.zeros(len(pixels))
        face = self._caster.intersects_first(origins, through)
        hit = face >= 0
        corners = self.mesh.faces[face[hit]]
        t, weights = self._planes.meet(face[hit], camera.centre, through[hit])
        # the direction has length 1 along z, so t is the z-depth
        depth[hit] = t
        if light is not None:
            uv = np.einsum("pk,pkc->pc", weights, self.mesh.uv[corners])
            shade = self._shade(corners, weights, light)
            colour[hit] = _bilinear(self._texture, uv) * shade[:, None]
        return colour, depth

    def _shade(self, corners: np.ndarray, weights: np.ndarray, light: MeshLight) -> np.ndarray:
        if light.strength == 0.0:
            return np.full(len(corners), light.ambient, np.float32)
        normal = np.einsum("pk,pkc->pc", weights, self._normals[corners])
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
        lambert = np.clip(normal @ light.direction, 0.0, 1.0)
        return (light.ambient + light.strength * lambert).astype(np.float32)


class _Planes:
    """The planes of triangles, ready to be met: Embree finds the triangle, this measures.

    normal [F, 3] and corner [F, 3] of each; along [F, 2, 3]: what a point's distance from the
    corner is multiplied with to give the weights of the second and the third vertex.
    """

    def __init__(self, triangles: np.ndarray) -> None:
        a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
        self.corner = a
        self.normal = np.cross(b - a, c - a)
        area = np.maximum(np.einsum("fc,fc->f", self.normal, self.normal), 1e-18)[:, None]
        second = np.cross(c - a, self.normal) / area
        third = np.cross(self.normal, b - a) / area
        self.along = np.stack([second, third], axis=1)

    def meet(
        self, face: np.ndarray, origin: np.ndarray, direction: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rays [P, 3] from `origin` [3] against the planes of faces [P].

        Returns t [P] and barycentric weights [P, 3], clipped to the triangle, in float64.
        """
        normal, offset = self.normal[face], self.corner[face] - origin
        facing = np.einsum("pc,pc->p", direction, normal)
        facing = np.where(np.abs(facing) < 1e-18, 1e-18, facing)
        t = np.einsum("pc,pc->p", offset, normal) / facing
        from_corner = t[:, None] * direction - offset
        weights = np.empty((len(face), 3))
        np.einsum("pkc,pc->pk", self.along[face], from_corner, out=weights[:, 1:])
        weights[:, 0] = 1.0 - weights[:, 1] - weights[:, 2]
        np.clip(weights, 0.0, 1.0, out=weights)
        return t, weights / weights.sum(-1, keepdims=True)


def _bilinear(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Linear colours [P, 3] of `texture` [h, w, 3] at uv [P, 2], v up; the texture repeats."""
    height, width = texture.shape[:2]
    x = uv[:, 0] * width - 0.5
    y = (1.0 - uv[:, 1]) * height - 0.5
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = (x - x0)[:, None].astype(np.float32), (y - y0)[:, None].astype(np.float32)
    x1, y1 = (x0 + 1) % width, (y0 + 1) % height
    x0, y0 = x0 % width, y0 % height
    low = texture[y0, x0] * (1 - fx) + texture[y0, x1] * fx
    high = texture[y1, x0] * (1 - fx) + texture[y1, x1] * fx
    return low * (1 - fy) + high * fy
