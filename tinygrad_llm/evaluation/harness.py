"""Our models in EleutherAI's lm-evaluation-harness: MMLU, HellaSwag and the others by their own tool.

Needs `pip install -e '.[lm-eval]'`, and is imported by whoever has it:

    from tinygrad_llm.evaluation.harness import HarnessModel
    lm_eval.simple_evaluate(HarnessModel(model, tokenizer), tasks=["hellaswag"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_llm.models import GPTModel, Sampling, score_rows, stream_text
from tinygrad_llm.models.commandline import END
from tinygrad_llm.text import Tokenizer

from .choices import encode_pair, score_pairs

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise ImportError(f"lm_eval cannot be imported ({error}); pip install -e '.[lm-eval]' brings it") from None

MOST_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of one thing
USUAL_TOKENS = 256


class HarnessModel(LM):
    """A model as the harness wants it: log-likelihoods of continuations and of texts, and answers up to a stop string.

    batch_size: rows that are read at once; the numbers are those of one by one.
    """

    def __init__(self, model: GPTModel, tokenizer: Tokenizer, batch_size: int = 8) -> None:
        super().__init__()
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self._device = str(model.tok_emb.weight.device)

    @property
    def tokenizer_name(self) -> str:
        """What tells caches of requests apart."""
        return f"tinygrad_llm-{self.tokenizer.name}-{self.tokenizer.vocab_size}"

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """ln p of each continuation after its context, and whether greedy decoding would write it."""
        pairs = [encode_pair(self.tokenizer, *request.args) for request in requests]
        scored = score_pairs(self.model, pairs, self.batch_size)
        found = [(float(s.logp.sum()), bool(s.likeliest.all())) for s in scored]
        return self._remembered("loglikelihood", requests, found)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """ln p of each text, in windows that share no token but have all the context there is in the last one.

        Raises: ValueError for a tokenizer without end of text, which stands before the first token.
        """
        if END not in self.tokenizer.special_tokens:
            raise ValueError(f"loglikelihood_rolling: the tokenizer has no {END} to stand before a text")
        start = self.tokenizer.special_tokens[END]
        rows = [[start, *self.tokenizer.encode_ordinary(request.args[0])] for request in requests]
        told = [row for row in rows if len(row) > 1]  # an empty text is certain
        scored = iter(score_rows(self.model, told, overlap=0, batch=self.batch_size))
        found = [float(next(scored).logp.sum()) if len(row) > 1 else 0.0 for row in rows]
        return self._remembered("loglikelihood_rolling", requests, found)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What the model writes after each context, up to the first of the request's stop strings."""
        return self._remembered("generate_until", requests, [self._written(*request.args) for request in requests])

    def _written(self, context: str, options: Mapping[str, Any]) -> str:
        left = dict(options)
        until = left.pop("until", None) or []
        stop = [until] if isinstance(until, str) else list(until)
        most = [left.pop(name) for name in MOST_TOKENS if name in left]
        sample = left.pop("do_sample", False)
        temperature = left.pop("temperature", 1.0)
        sampling = Sampling(temperature if sample else 0.0, left.pop("top_k", None), left.pop("top_p", None))
        if left:
            raise ValueError(f"generate_until: {', '.join(left)} in the request is not known here")
        ends = [self.tokenizer.special_tokens[END]] if END in self.tokenizer.special_tokens else []
        ids = self.tokenizer.encode_ordinary(context) or ends
        number = int(most[0]) if most else USUAL_TOKENS
        slide = max(1, self.model.config.context_length // 2)
        pieces = stream_text(
            self.model, self.tokenizer, ids, number, stop=[s for s in stop if s], eos_id=ends, sampling=sampling,
            slide=slide,
        )  # fmt: skip
        return "".join(pieces)

    def _remembered(self, kind: str, requests: Sequence[Any], found: list[Any]) -> list[Any]:
        """The answers, after the harness's cache has been told of them."""
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
        return found


def evaluate(
    model: HarnessModel,
    tasks: Sequence[str],
    include_path: str | None = None,
    fewshot: int | None = None,
    limit: int | None = None,
) -> tuple[str, dict[str, Any]]:
    """The harness's own table of results, and the results; include_path: a folder with more tasks.

    Raises: ValueError for a task that the harness does not know.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    manager = TaskManager(include_path=include_path)
    known = set(manager.all_tasks)
    if not tasks or (unknown := [name for name in tasks if name not in known]):
        named = ", ".join(unknown) if tasks else "none"
        raise ValueError(f"--tasks {named}: not known to lm-eval; its command `lm-eval ls tasks` lists those that are")
    found = simple_evaluate(model, tasks=list(tasks), num_fewshot=fewshot, limit=limit, task_manager=manager)
    assert found is not None  # only other processes than the first get nothing
    return make_table(found), {"results": found["results"], "versions": found["versions"], "n-shot": found["n-shot"]}
