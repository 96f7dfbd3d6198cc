"""Texts and windows over them: what a language model is trained on."""

from tinygrad_llm.data.cleaning import Finding, Step, clean, read_report, replay, summary
from tinygrad_llm.data.corpora import Corpus, Floor, load, read
from tinygrad_llm.data.deduplicate import ExactDuplicates, NearDuplicates
from tinygrad_llm.data.filters import Length, Perplexity, nats_by
from tinygrad_llm.data.mixing import Mixture
from tinygrad_llm.data.packing import PackedBatch, PackedRows, PackingReport, documents_of
from tinygrad_llm.data.patterns import PersonalData
from tinygrad_llm.data.windows import Windows, ids_array, split

__all__ = [
    "Corpus", "Floor", "load", "read",
    "Windows", "ids_array", "split",
    "Mixture",
    "PackedBatch", "PackedRows", "PackingReport", "documents_of",
    "Finding", "Step", "clean", "read_report", "replay", "summary",
    "ExactDuplicates", "Length", "NearDuplicates", "Perplexity", "PersonalData", "nats_by",
]  # fmt: skip
