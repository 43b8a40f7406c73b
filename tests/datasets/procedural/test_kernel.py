"""The CUDA kernel does what the torch functions define."""

import pytest
import torch
from everview.datasets.procedural import draw_cameras, draw_scenes, kernel, render_views
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


def test_every_kind_and_column_has_its_number_in_the_source():
    source = kernel.source()
    for name, code in KIND.items():
        assert f"#define KIND_{name.upper()} {code}\n" in source
        assert f"case KIND_{name.upper()}:" in source or name == "flat"
    for name, position in COLUMN.items():
        assert f"#define COLUMN_{name.upper()} {position}\n" in source


def test_without_a_gpu_the_kernel_is_not_chosen():
    assert not kernel.is_available(torch.device("cpu"))
