"""Texts and windows over them: what a language model is trained on."""

from tinygrad_llm.data import messages, preferences, tasks
from tinygrad_llm.data.classification import Labelled, LabelledBatch, classification_batch, partition
from tinygrad_llm.data.cleaning import Finding, Step, clean, read_report, replay, summary
from tinygrad_llm.data.corpora import Corpus, Floor, load, read
from tinygrad_llm.data.dataset import GPTDatasetV1, create_dataloader_v1
from tinygrad_llm.data.deduplicate import ExactDuplicates, NearDuplicates
from tinygrad_llm.data.example_batches import ExampleBatches, JudgedExamples
from tinygrad_llm.data.filters import Length, Perplexity, nats_by
from tinygrad_llm.data.instructions import (
    CHATML,
    FORM_FILE,
    FORMS,
    PHI3_CHAT,
    STYLES,
    ChatTemplate,
    Example,
    Form,
    InstructionBatch,
    Prompt,
    alpaca,
    ask,
    ask_entry,
    closing,
    encode_entries,
    instruction_batch,
    phi3,
    read_form,
    render_entry,
    save_form,
)
from tinygrad_llm.data.known import fetch
from tinygrad_llm.data.manifest import Manifest, Shards, is_prepared, verify
from tinygrad_llm.data.mixing import MixedBatches, Mixture
from tinygrad_llm.data.packing import PackedBatch, PackedRows, PackingReport, documents_of
from tinygrad_llm.data.patterns import PersonalData
from tinygrad_llm.data.permutation import Permutation
from tinygrad_llm.data.preferences import Pair, encode_pairs
from tinygrad_llm.data.preparation import Progress, Settings, prepare
from tinygrad_llm.data.readers import read_records
from tinygrad_llm.data.robust import gradient_similarity, gradient_sketches, mask_tokens
from tinygrad_llm.data.shards import Row
from tinygrad_llm.data.stream import Prefetch, RandomWindows, ShuffledWindows, Stream
from tinygrad_llm.data.windows import Windows, ids_array, split

__all__ = [
    "Corpus", "Floor", "fetch", "load", "read",
    "Windows", "ids_array", "split", "GPTDatasetV1", "create_dataloader_v1",
    "Manifest", "Progress", "Row", "Settings", "Shards", "is_prepared", "prepare", "verify",
    "Permutation", "Prefetch", "RandomWindows", "ShuffledWindows", "Stream",
    "MixedBatches", "Mixture",
    "PackedBatch", "PackedRows", "PackingReport", "documents_of",
    "Finding", "Step", "clean", "read_report", "replay", "summary",
    "ExactDuplicates", "Length", "NearDuplicates", "Perplexity", "PersonalData", "nats_by",
    "messages", "tasks", "gradient_similarity", "gradient_sketches", "mask_tokens",
    "read_records", "partition",
    "Labelled", "LabelledBatch", "classification_batch",
    "CHATML", "FORM_FILE", "FORMS", "PHI3_CHAT", "STYLES", "ChatTemplate", "Example", "Form", "InstructionBatch",
    "Prompt", "alpaca", "ask", "ask_entry", "closing", "encode_entries", "instruction_batch", "phi3", "read_form",
    "render_entry", "save_form", "ExampleBatches", "JudgedExamples",
    "preferences", "Pair", "encode_pairs",
]  # fmt: skip
