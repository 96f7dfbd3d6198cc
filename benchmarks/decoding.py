"""One side of generate.py, in a process of its own: it writes tokens when it is told to, and is idle while others do.

Standard input: first one line of JSON, the order {peer, threads, config, device, dtype}, then a line {batch, prompt,
tokens} for each turn. Standard output: one line of JSON for each: what was built, then the seconds of the turn, without
its prompt's.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Write = Callable[[np.ndarray, int], Any]


def ours(order: dict) -> tuple[int, Write]:
    """The number of weights, and greedy continuation of ids (B, T) by n tokens: with the cache, or without."""
    lib: Any = import_module("tinygrad_llm")
    models: Any = import_module("tinygrad_llm.models")
    lib.set_num_threads(order["threads"])
    model = models.GPTModel(order["config"]).eval().to(order["device"], getattr(lib, order["dtype"]))
    cache = order["peer"] != "without"

    def write(ids: np.ndarray, n: int) -> Any:
        return models.generate(model, lib.from_numpy(ids).to(order["device"]), n, cache=cache).cpu().numpy()

    return model.num_parameters(), write


def transformers(order: dict) -> tuple[int, Write]:
    """The same of Hugging Face's GPT-2 and its `generate`, with its cache.

    Its attention may take any of PyTorch's ways but cuDNN's, which plans anew for each length that keys have, so for
    each token.
    """
    torch: Any = import_module("torch")
    library: Any = import_module("transformers")
    torch.set_num_threads(order["threads"])
    torch.backends.cuda.enable_cudnn_sdp(False)
    c = order["config"]
    config = library.GPT2Config(
        vocab_size=c["vocab_size"], n_positions=c["context_length"], n_embd=c["emb_dim"], n_layer=c["n_layers"],
        n_head=c["n_heads"], bos_token_id=None, eos_token_id=None, tie_word_embeddings=c["tie_weights"],
    )  # fmt: skip
    model = library.GPT2LMHeadModel(config).eval().to(order["device"], getattr(torch, order["dtype"]))

    def write(ids: np.ndarray, n: int) -> Any:
        given = torch.from_numpy(ids).to(order["device"])
        with torch.inference_mode():
            return model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=n, do_sample=False, pad_token_id=0
            ).cpu().numpy()

    return sum(p.numel() for p in model.parameters()), write


def read_bandwidth(bytes_at_once: int, threads: int) -> float:
    """Bytes a second that all threads together read from memory: the fastest of a few rounds of dot products."""
    lib: Any = import_module("tinygrad_llm")
    kernels: Any = import_module("tinygrad_llm.kernels.threads")
    tiling: Any = import_module("tinygrad_llm.kernels.tiling")
    lib.set_num_threads(threads)
    kernels.blas_on_one_thread()
    x = np.ones(bytes_at_once // 4, np.float32)
    parts = [x[part] for part in tiling.tiles(len(x), 1 << 20)]
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        kernels.for_each(lambda part: np.dot(part, part), parts, each=1)
        best = max(best, x.nbytes / (time.perf_counter() - start))
    return best


def copy_bandwidth(bytes_at_once: int) -> float:
    """Bytes a second that a GPU reads and writes in a copy: the fastest of a few rounds."""
    lib: Any = import_module("tinygrad_llm")
    x = lib.zeros(bytes_at_once // 4, device="cuda")
    best = 0.0
    for _ in range(5):
        lib.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            x.clone()
        lib.cuda.synchronize()
        best = max(best, 20 * 2 * bytes_at_once / (time.perf_counter() - start))
    return best


def launches(write: Write, ids: np.ndarray) -> int:
    """The launches of our kernels that a token takes where none was recorded: of the second, without the prompt's."""
    launch: Any = import_module("tinygrad_llm.kernels.cuda.launch")
    counts = []
    for n in (1, 2):
        with launch.counted() as found:
            write(ids, n)
        counts.append(sum(found.values()))
    return counts[1] - counts[0]


def main(order: dict, reply: Callable[[dict], None]) -> None:
    """Builds what is ordered, then writes as many tokens as each line asks for."""
    if order["peer"] == "bandwidth":
        reply({"weights": 0})
        for _ in sys.stdin:
            on_gpu = order["device"] == "cuda"
            speed = copy_bandwidth(order["bytes"]) if on_gpu else read_bandwidth(order["bytes"], order["threads"])
            reply({"bytes_a_second": speed})
        return
    weights, write = (transformers if order["peer"] == "transformers" else ours)(order)
    reply({"weights": weights})
    for line in sys.stdin:
        turn = json.loads(line)
        shape = (turn["batch"], turn["prompt"])
        ids = np.random.default_rng(0).integers(0, order["config"]["vocab_size"], shape)
        write(ids, 1)  # what is made at the first call is not measured
        times = []
        for n in (1, 1 + turn["tokens"]):  # the first token comes with the prompt
            start = time.perf_counter()
            written = write(ids, n)
            times.append(time.perf_counter() - start)
            if written.shape != (turn["batch"], turn["prompt"] + n):
                raise RuntimeError(f"{order['peer']}: {n} tokens were to be written, but the result is {written.shape}")
        answer: dict[str, float] = {"seconds": times[1] - times[0], "prompt_seconds": times[0]}
        if order["peer"] == "ours" and order["device"] == "cuda":
            answer["launches"] = launches(write, ids)
        reply(answer)


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()), lambda record: print(json.dumps(record), flush=True))
