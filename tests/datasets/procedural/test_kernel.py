"""The CUDA kernel does what the torch functions define."""

import ctypes
import shutil
import subprocess

import pytest
import torch

from everview.datasets.procedural import draw_cameras, draw_scenes, kernel, render_views
from everview.datasets.procedural.frames import view_table
from everview.datasets.procedural.materials import COLUMN, KIND
from everview.datasets.procedural.scenes import WORLDS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("samples", [1, 4])
def test_kernel_equals_eager_but_on_edges(world, samples):
    scenes = draw_scenes(world, range(12), dynamic=True)
    cameras, time_s = draw_cameras(scenes, 2, 56, 40)
    eager = render_views(scenes, cameras, time_s, samples)
    views = render_views(scenes.to("cuda"), cameras, time_s, samples, backend="kernel")
    gap = (views.depth.cpu() - eager.depth).abs() / eager.depth.clamp(min=0.1)
    off = (views.images.cpu().int() - eager.images.int()).abs().amax(-1)
    assert (gap < 1e-4).float().mean() > 0.998
    assert (off <= 3).float().mean() > 0.99


_AS_CPP = """
#include <math.h>
#include <stddef.h>
#define __device__
#define __global__
#define __noinline__
struct Index { int x, y, z; };
static Index blockIdx, threadIdx;
"""
_EVERY_THREAD = """
extern "C" void every_thread(const float* a, const float* b, const long long* c, const float* d,
                             unsigned char* e, float* f, int w, int h, int side, int views) {
  for (blockIdx.y = 0; blockIdx.y < views; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < ((w + 15) / 16) * ((h + 15) / 16); ++blockIdx.x)
      for (threadIdx.x = 0; threadIdx.x < 256; ++threadIdx.x)
        render_pixels(a, b, c, d, e, f, w, h, side);
}
"""


@pytest.fixture(scope="module")
def every_thread(tmp_path_factory):
    """The kernel's source compiled as C++, its threads run one after the other."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "kernel.cpp").write_text(_AS_CPP + kernel.source() + _EVERY_THREAD)
    library = folder / "kernel.so"
    command = [compiler, "-O1", "-w", "-shared", "-fPIC", "-o", library, folder / "kernel.cpp"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library)).every_thread


@pytest.mark.parametrize("world", WORLDS)
def test_the_source_run_on_the_cpu_equals_the_torch_functions(every_thread, world):
    scenes = draw_scenes(world, range(8), dynamic=True)
    assert world != "tabletop" or any(scenes.has_relief)
    cameras, time_s = draw_cameras(scenes, 1, 40, 24)
    eager = render_views(scenes, cameras, time_s, 4)
    table = view_table(scenes, cameras, time_s).to(torch.float32)
    images = torch.zeros(8, 24, 40, 3, dtype=torch.uint8)
    depth = torch.zeros(8, 24, 40)
    values = kernel.arguments(table, images, depth, 2)
    pointers = [ctypes.c_void_p(v.data_ptr()) if torch.is_tensor(v) else v for v in values]
    every_thread(*pointers, 8)
    gap = (depth - eager.depth[:, 0]).abs() / eager.depth[:, 0].clamp(min=0.1)
    off = (images.int() - eager.images[:, 0].int()).abs().amax(-1)
    assert (gap < 1e-4).float().mean() > 0.998
    assert (off <= 3).float().mean() > 0.99


def test_every_kind_and_column_has_its_number_in_the_source():
    source = kernel.source()
    for name, code in KIND.items():
        assert f"#define KIND_{name.upper()} {code}\n" in source
        assert f"case KIND_{name.upper()}:" in source or name == "flat"
    for name, position in COLUMN.items():
        assert f"#define COLUMN_{name.upper()} {position}\n" in source


def test_without_a_gpu_the_kernel_is_not_chosen():
    assert not kernel.is_available(torch.device("cpu"))
