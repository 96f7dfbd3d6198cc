"""Corpora by name: where they are, what they are, under which licence, and how to know that a copy is right."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tinygrad_llm.data.download import RemoteFile, fetch_file
from tinygrad_llm.data.readers import Record, read_records


@dataclass(frozen=True)
class Known:
    """A corpus: what it is, its licence, its file for each split, what stands between its documents, how rows are read.

    rows: reads a table of examples; None for a text.
    """

    about: str
    licence: str
    files: Mapping[str, RemoteFile]
    mark: str | None = None
    rows: Callable[[Path], list[Record]] | None = None


def fetch(name: str) -> dict[str, Path]:
    """The files of a corpus, by split, in the cache; downloaded when they are not there, and checked each time.

    Raises: ValueError for an unknown name, or as `download.fetch_file`; ConnectionError without a network.
    """
    if name not in CORPORA:
        raise ValueError(f"{name}: there is no corpus of this name; choose one of {', '.join(CORPORA)}")
    return {split: fetch_file(file) for split, file in CORPORA[name].files.items()}


def _github(repository: str, revision: str, path: str) -> tuple[str, ...]:
    """A file of a GitHub repository, and where jsDelivr mirrors it."""
    return (
        f"https://raw.githubusercontent.com/{repository}/{revision}/{path}",
        f"https://cdn.jsdelivr.net/gh/{repository}@{revision}/{path}",
    )


def _hugging_face(data_set: str, revision: str, path: str) -> tuple[str, ...]:
    """A file of a data set on Hugging Face, and of its mirror."""
    hosts = ("huggingface.co", "hf-mirror.com")
    return tuple(f"https://{host}/datasets/{data_set}/resolve/{revision}/{path}" for host in hosts)


BOOK = "rasbt/LLMs-from-scratch"
STORIES = ("roneneldan/TinyStories", "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64")
WIKITEXT = RemoteFile(
    "wikitext-2-raw-v1.zip",
    4_721_645,
    "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
    (*_hugging_face("ggml-org/ci", "main", "wikitext-2-raw-v1.zip"), "https://wikitext.smerity.com/wikitext-2-raw-v1.zip"),
)
SPAM = RemoteFile(
    "sms+spam+collection.zip",
    203_415,
    urls=("https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
          "https://f001.backblazeb2.com/file/LLMs-from-scratch/sms%2Bspam%2Bcollection.zip"),
)  # fmt: skip

CORPORA: dict[str, Known] = {
    "the-verdict": Known(
        about="Edith Wharton, The Verdict (1908), a short story",
        licence="public domain",
        files={"train": RemoteFile(
            "the-verdict.txt", 20_479, "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
            _github(BOOK, "main", "ch02/01_main-chapter-code/the-verdict.txt"),
        )},
    ),
    "tiny-shakespeare": Known(
        about="40,000 lines of Shakespeare's plays, as in Karpathy's char-rnn",
        licence="public domain",
        files={"train": RemoteFile(
            "tinyshakespeare.txt", 1_115_394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            _github("karpathy/char-rnn", "master", "data/tinyshakespeare/input.txt"),
        )},
    ),
    "tiny-stories": Known(
        about="2.7 million short stories by GPT-4 (Eldan and Li 2023)",
        licence="CDLA-Sharing 1.0",
        files={
            "train": RemoteFile("TinyStoriesV2-GPT4-train.txt", 2_227_753_162,
                                urls=_hugging_face(*STORIES, "TinyStoriesV2-GPT4-train.txt")),
            "validation": RemoteFile("TinyStoriesV2-GPT4-valid.txt", 22_502_601,
                                     urls=_hugging_face(*STORIES, "TinyStoriesV2-GPT4-valid.txt")),
        },
        mark="<|endoftext|>",
    ),
    "wikitext-2": Known(
        about="good articles of Wikipedia, 2 million words (Merity et al. 2016)",
        licence="CC BY-SA 3.0",
        files={
            split: RemoteFile(f"wiki.{short}.raw", size, archive=WIKITEXT, member=f"wikitext-2-raw/wiki.{short}.raw")
            for split, short, size in
            (("train", "train", 10_918_892), ("validation", "valid", 1_121_681), ("test", "test", 1_290_590))
        },
    ),
    "sms-spam": Known(
        about="5,574 text messages, ham or spam (Almeida and Gomez Hidalgo 2011)",
        licence="CC BY 4.0",
        files={"train": RemoteFile(
            "SMSSpamCollection", 477_907, "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
            archive=SPAM, member="SMSSpamCollection",
        )},
        rows=partial(read_records, format="tsv", columns=("label", "text")),
    ),
    "alpaca": Known(
        about="Stanford Alpaca: 52,002 instructions with answers by text-davinci-003",
        licence="CC BY-NC 4.0",
        files={"train": RemoteFile(
            "alpaca_data.json", 22_773_992,
            urls=_github("tatsu-lab/stanford_alpaca", "761dc5bfbdeeffa89b8bff5d038781a4055f796a", "alpaca_data.json"),
        )},
        rows=read_records,
    ),
    "instruction-data": Known(
        about="1,100 instructions with answers, of Raschka's book on language models",
        licence="Apache 2.0",
        files={"train": RemoteFile(
            "instruction-data.json", 203_524, "7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944",
            _github(BOOK, "main", "ch07/01_main-chapter-code/instruction-data.json"),
        )},
        rows=read_records,
    ),
}  # fmt: skip
