"""Every op has samples, and every sample an op: an op without samples would be an op without tests."""

from tests.ops.samples import SAMPLES
from tinygrad_llm.autograd import ops as ops  # registers the ops
from tinygrad_llm.autograd.registry import OPS


def test_every_op_has_samples():
    assert set(SAMPLES) == set(OPS)
