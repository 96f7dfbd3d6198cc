"""One side of verdict.py: a GPT and its training as a book lists them, with nothing but PyTorch's names.

`python verdict_listing.py` runs it with PyTorch, `python -m tinygrad_llm.compat verdict_listing.py` with this package;
not a line differs. Standard input: one line of JSON, {ids, split, config, batch, epochs, lr, weight_decay, every,
judged, seed, threads, prompt, words}, with ids of which the first `split` are to learn from. Standard output: one line
of JSON for each evaluation, and at the end one with the ids that the model writes after the prompt.

Source: Raschka 2024, "Build a Large Language Model (From Scratch)", chapters 4 and 5, for the model and the recipe.
"""

import json
import sys
import time
from itertools import islice

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Windows(Dataset):
    """Windows of T ids one behind the other, and the same one step ahead."""

    def __init__(self, ids: list[int], length: int) -> None:
        self.rows = [torch.tensor(ids[i : i + length + 1]) for i in range(0, len(ids) - length, length)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.rows[i][:-1], self.rows[i][1:]


class Attention(nn.Module):
    """Causal attention of several heads, dropout on its weights."""

    mask: torch.Tensor

    def __init__(self, config: dict) -> None:
        super().__init__()
        C, T, bias = config["emb_dim"], config["context_length"], config["qkv_bias"]
        self.heads = config["n_heads"]
        self.query, self.key, self.value = (nn.Linear(C, C, bias=bias) for _ in range(3))
        self.out = nn.Linear(C, C)
        self.drop = nn.Dropout(config["drop_rate"])
        self.register_buffer("mask", torch.triu(torch.ones(T, T), diagonal=1).bool())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = (f(x).view(B, T, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = (q @ k.transpose(2, 3)).masked_fill(self.mask[:T, :T], -torch.inf)  # (B, H, T, T)
        weights = self.drop(torch.softmax(scores / k.shape[-1] ** 0.5, dim=-1))
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """Attention and feed-forward, each behind a layer norm and beside a shortcut."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        C = config["emb_dim"]
        self.attention = Attention(config)
        self.feed = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(approximate="tanh"), nn.Linear(4 * C, C))
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.drop = nn.Dropout(config["drop_rate"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.feed(self.norm2(x)))


class GPT(nn.Module):
    """ids (B, T) -> logits (B, T, V), with the layers' own initial weights."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        C, V = config["emb_dim"], config["vocab_size"]
        self.tokens, self.places = nn.Embedding(V, C), nn.Embedding(config["context_length"], C)
        self.drop = nn.Dropout(config["drop_rate"])
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config["n_layers"])])
        self.norm = nn.LayerNorm(C)
        self.head = nn.Linear(C, V, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (B, T) -> logits (B, T, V)."""
        x = self.drop(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))
        return self.head(self.norm(self.blocks(x)))


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean next-token loss of a batch."""
    return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


def judge(model: nn.Module, loader: DataLoader, batches: int) -> float:
    """The mean of the losses of the loader's first batches, without dropout."""
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, x, y).item() for x, y in islice(loader, min(batches, len(loader)))]
    model.train()
    return sum(losses) / len(losses)


def write(model: nn.Module, ids: list[int], words: int, context: int) -> list[int]:
    """The ids, and as many more, each the likeliest after those before."""
    model.eval()
    with torch.no_grad():
        for _ in range(words):
            ids = [*ids, int(model(torch.tensor([ids[-context:]]))[0, -1].argmax())]
    return ids


def main(order: dict) -> None:
    """Train as ordered; print each evaluation, then what the model writes."""
    torch.set_num_threads(order["threads"])
    config, ids, split = order["config"], order["ids"], order["split"]
    torch.manual_seed(order["seed"])
    parts = [Windows(part, config["context_length"]) for part in (ids[:split], ids[split:])]
    train = DataLoader(parts[0], batch_size=order["batch"], shuffle=True, drop_last=True)
    validation = DataLoader(parts[1], batch_size=order["batch"])
    torch.manual_seed(order["seed"])
    model = GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=order["lr"], weight_decay=order["weight_decay"])
    step, seconds = 0, 0.0
    for _ in range(order["epochs"]):
        for x, y in train:
            start = time.perf_counter()
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()
            step, seconds = step + 1, seconds + time.perf_counter() - start
            if (step - 1) % order["every"] == 0:
                losses = {"train": judge(model, train, order["judged"]),
                          "validation": judge(model, validation, order["judged"])}  # fmt: skip
                print(json.dumps({"step": step, **losses, "seconds": seconds}), flush=True)
    print(json.dumps({"written": write(model, order["prompt"], order["words"], config["context_length"])}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()))
