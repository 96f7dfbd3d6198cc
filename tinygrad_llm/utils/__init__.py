"""What surrounds the training of a model: `utils.data` feeds it, `utils.checkpoint` trades time for memory."""

from tinygrad_llm.utils import checkpoint as checkpoint
from tinygrad_llm.utils import data as data
