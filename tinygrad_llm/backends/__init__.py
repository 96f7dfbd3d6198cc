"""What scripts ask of a machine, as `torch.backends`: which device there is, and how a GPU is to compute."""

from tinygrad_llm.backends import cuda as cuda
from tinygrad_llm.backends import cudnn as cudnn
from tinygrad_llm.backends import mps as mps
