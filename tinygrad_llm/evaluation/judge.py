"""Scores from a judge: a model behind an address says how good each response is, and all it was asked and said is kept.

The address speaks the chat protocol of OpenAI, as many servers do, or of Ollama.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinygrad_llm.training.metrics import MetricsFile, read_metrics

HIGHEST = 100
LARGEST_ANSWER = 2**20  # bytes
BEGINNING = b'{"judge": '  # of each record in a file
PATHS = {"openai": "/v1/chat/completions", "ollama": "/api/chat"}
BUSY = (408, 425, 429, 500, 502, 503, 504)  # HTTP's numbers for: try again
PROMPT = """\
You grade answers. Below are an instruction, an answer to it that is known to be right, and an answer by a model.
Say how well the model's answer does what the instruction asks, as one whole number from 0 (useless) to 100 (as good as
the right one). Differences of wording alone do not count.

Instruction:
{instruction}

Right answer:
{expected}

Model's answer:
{response}

Reply with the number and nothing else."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: following one would ask something else, and hand the key to whoever is there."""

    def redirect_request(self, *args: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirects)


class NoAnswer(RuntimeError):
    """The judge does not answer, or not in the form of its protocol."""


@dataclass(frozen=True)
class Judge:
    """A model called `name` behind an address, such as http://localhost:11434.

    api: "openai" or "ollama". timeout: seconds for one answer. retries: how often a question is asked again, at most.
    wait: seconds before the first time that is, twice as many before each next one. key: what the server knows us by.

    Raises: ValueError for an address that is no http(s) one, an unknown api, or a number out of range.
    """

    address: str
    name: str
    api: str = "openai"
    timeout: float = 120.0
    retries: int = 3
    wait: float = 1.0
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.api not in PATHS:
            raise ValueError(f"--api {self.api}: unknown; choose one of {', '.join(PATHS)}")
        try:
            parts = urllib.parse.urlsplit(self.address)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number
            known = False
        if not known:
            raise ValueError(f"--address {self.address}: expected one such as http://localhost:11434")
        if not (self.timeout > 0 and self.retries >= 0 and self.wait >= 0):
            raise ValueError(
                f"--timeout {self.timeout:g} must be positive, --retries {self.retries} and the wait {self.wait:g} not "
                f"negative"
            )

    @property
    def url(self) -> str:
        """The whole address: of one that ends in /v1 or has no path, the protocol's path is added."""
        base, path = self.address.rstrip("/"), PATHS[self.api]
        given = urllib.parse.urlsplit(base).path
        return base + path.removeprefix(given) if path.startswith(given) else base

    def ask(self, prompt: str, seed: int = 0) -> str:
        """The answer to a prompt, as the judge wrote it, at temperature 0.

        Raises: NoAnswer, after all retries where it makes sense to try again.
        """
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                return self._content(self._post(self._question(prompt, seed)))
            except urllib.error.HTTPError as error:
                said = " ".join(error.read(300).decode("utf-8", "replace").split())
                problem = f"HTTP {error.code} {error.reason}: {said}"
                if error.code not in BUSY:
                    break
            except (OSError, http.client.HTTPException) as error:  # refused, reset, too slow, cut off
                problem = str(getattr(error, "reason", "") or error or type(error).__name__)
        raise NoAnswer(f"the judge {self.name} at {self.url} does not answer: {problem}")

    def _question(self, prompt: str, seed: int) -> dict[str, Any]:
        asked = {"model": self.name, "messages": [{"role": "user", "content": prompt}], "stream": False}
        options = {"temperature": 0, "seed": seed}
        return {**asked, **({"options": options} if self.api == "ollama" else options)}

    def _post(self, question: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(question).encode(), headers)
        with OPENER.open(request, timeout=self.timeout) as response:
            return response.read(LARGEST_ANSWER + 1)

    def _content(self, body: bytes) -> str:
        try:
            answer: Any = json.loads(body) if len(body) <= LARGEST_ANSWER else None
            message = answer["message"] if self.api == "ollama" else answer["choices"][0]["message"]
            if not isinstance(message["content"], str):
                raise TypeError
            return message["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            shown = " ".join(body[:200].decode("utf-8", "replace").split())
            raise NoAnswer(f"{self.url} does not speak the protocol of {self.api}; it said {shown!r}") from None


@dataclass(frozen=True)
class Judged:
    """What a judge was asked about one response, all that it said, and the score in that; None where there was none."""

    judge: str
    prompt: str
    answers: list[str]
    score: int | None


def prompt_for(instruction: str, expected: str, response: str, template: str = PROMPT) -> str:
    """The template with {instruction}, {expected} and {response} filled in; what these say is not looked at again.

    Raises: ValueError for a template without {response}.
    """
    if "{response}" not in template:
        raise ValueError("the judge's prompt must contain {response}")
    values = {"instruction": instruction, "expected": expected, "response": response}
    return re.sub(r"\{(instruction|expected|response)\}", lambda name: values[name[1]], template)


def parse_score(answer: str) -> int | None:
    """The score, if the answer is a whole number from 0 to HIGHEST and nothing else but space and one full stop."""
    found = re.fullmatch(r"\s*([0-9]{1,3})\.?\s*", answer)
    return int(found[1]) if found and int(found[1]) <= HIGHEST else None


def judged(judge: Judge, prompt: str) -> Judged:
    """Ask, and ask again with another seed while the answer is no score. Raises: NoAnswer."""
    answers: list[str] = []
    for seed in range(judge.retries + 1):
        answers.append(judge.ask(prompt, seed))
        if (score := parse_score(answers[-1])) is not None:
            return Judged(judge.name, prompt, answers, score)
    return Judged(judge.name, prompt, answers, None)


def judge_all(
    judge: Judge,
    prompts: Sequence[str],
    path: str | os.PathLike[str],
    on_score: Callable[[int, Judged], None] = lambda place, found: None,
) -> list[Judged]:
    """Have each prompt judged; every record is added to the JSON lines at `path` as soon as it is there.

    What the file already has from this judge, with a score, is not asked again, so that the same call goes on after one
    that failed. on_score is told the place of each that was asked.

    Raises: ValueError for a file of something else, which stays as it is; NoAnswer, what was scored being kept.
    """
    known = {record.prompt: record for record in read_judged(path) if record.judge == judge.name}
    found = []
    with MetricsFile(path, append=True) as file:
        for place, prompt in enumerate(prompts):
            record = known.get(prompt)
            if record is None or record.score is None:
                try:
                    record = known[prompt] = judged(judge, prompt)
                except NoAnswer as error:
                    raise NoAnswer(f"{error}; {place} of {len(prompts)} are in {path}, to go on from") from None
                file.write(asdict(record))
                on_score(place, record)
            found.append(record)
    return found


def read_judged(path: str | os.PathLike[str]) -> list[Judged]:
    """The records of a file that `judge_all` wrote; none where there is no file.

    Raises: ValueError naming the record that is none.
    """
    if not Path(path).exists():
        return []
    with Path(path).open("rb") as file:
        if not BEGINNING.startswith(start := file.read(len(BEGINNING))) and start:
            raise ValueError(f"{path}: holds something else than a judge's scores; name another file")
    found = []
    for number, values in enumerate(read_metrics(path), 1):
        if not _is_record(values):
            raise ValueError(f"{path}: record {number} is no judge's score; name another file")
        found.append(Judged(**values))
    return found


def _is_record(values: Mapping[str, Any]) -> bool:
    if set(values) != {"judge", "prompt", "answers", "score"}:
        return False
    answers, score = values["answers"], values["score"]
    return (
        isinstance(values["judge"], str)
        and isinstance(values["prompt"], str)
        and isinstance(answers, list)
        and all(isinstance(answer, str) for answer in answers)
        and (score is None or (type(score) is int and 0 <= score <= HIGHEST))
    )
