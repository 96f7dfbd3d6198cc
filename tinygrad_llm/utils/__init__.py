"""What surrounds the training of a model: `utils.data` feeds it."""

from tinygrad_llm.utils import data as data
