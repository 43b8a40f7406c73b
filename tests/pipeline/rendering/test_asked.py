"""Pictures on their way from a device to the host."""

import numpy as np
import pytest
import torch

from everview.pipeline.rendering.asked import on_their_way


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_what_arrives_is_what_was_asked_for_whatever_the_device_does_next():
    drawn = [torch.rand(4, 256, 256, device="cuda"), torch.rand(4, 3, device="cuda")]
    expected = [tensor.cpu().numpy() for tensor in drawn]
    arrays = on_their_way(drawn)
    for tensor in drawn:
        tensor.zero_()
    for found, known in zip(arrays(), expected, strict=True):
        assert np.array_equal(found, known)
    assert arrays()[0] is not arrays()[0]  # a copy of its own for whoever looks
