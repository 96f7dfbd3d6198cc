"""GPT: a decoder-only transformer language model, with GPT-2's architecture."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import arange
from tinygrad_llm.autograd.side_by_side import sum_side_by_side
from tinygrad_llm.dtypes import bool_, dtype, float32
from tinygrad_llm.kernels.tiling import tiles
from tinygrad_llm.nn import (
    GELU,
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    Linear,
    Module,
    ModuleDict,
    MultiHeadAttention,
    Sequential,
    SiLU,
    TransformerBlock,
    init,
)
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn.int8 import Int8Embedding, Int8Linear
from tinygrad_llm.nn.lora_layers import EmbeddingWithLoRA, LinearWithLoRA, LoRALayer
from tinygrad_llm.utils.checkpoint import checkpoint as run_again_in_backward

PARTS = 2  # of a batch that are computed side by side: with more, each product is too small to run at full speed
PART_TOKENS = 384  # of a part, at least
PART_PARAMETERS = 2**24  # of a model whose gradients each part makes for itself, at most


@dataclass(frozen=True)
class GPTConfig:
    """The numbers that make a GPT; the defaults are GPT-2 small.

    vocab_size: different tokens. context_length: the most positions the model can see. emb_dim: width C of a position's
    vector. n_heads: attention heads, each C / n_heads wide. n_layers: transformer blocks. drop_rate: probability of
    dropout in training. qkv_bias: whether queries, keys and values have a bias (OpenAI's weights do). tie_weights:
    whether the output layer shares the token embedding's weights.

    Raises: ValueError naming the key and its value.
    """

    vocab_size: int = 50257
    context_length: int = 1024
    emb_dim: int = 768
    n_heads: int = 12
    n_layers: int = 12
    drop_rate: float = 0.1
    qkv_bias: bool = False
    tie_weights: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"GPTConfig: {name} must be a whole number of at least 1, not {value!r}")
        if self.emb_dim % self.n_heads:
            raise ValueError(f"GPTConfig: emb_dim {self.emb_dim} must be divisible by n_heads {self.n_heads}")
        rate = self.drop_rate
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise ValueError(f"GPTConfig: drop_rate must be a number in 0 <= drop_rate < 1, not {rate!r}")
        for name in ("qkv_bias", "tie_weights"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"GPTConfig: {name} must be true or false, not {getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """From a dictionary with these keys; what it leaves out takes the default, another key is a ValueError.

        n_heads may be left out only with GPT-2 small's emb_dim: at another width its 12 heads would be a guess.
        """
        known = [field.name for field in fields(cls)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(f"GPTConfig: unknown key(s) {', '.join(map(repr, unknown))}; known are {', '.join(known)}")
        if "n_heads" not in values and values.get("emb_dim", cls.emb_dim) != cls.emb_dim:
            raise ValueError(f"GPTConfig: n_heads must be given with emb_dim {values['emb_dim']!r}, which it divides")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The keys and values as a dictionary."""
        return asdict(self)


class GPTModel(Module):
    """Logits of the next token at every position: ids (B, T) integers -> (B, T, V), T up to context_length.

    logits = out_head(final_norm(blocks(drop(tok_emb[ids] + pos_emb[0..T-1])))). `out_head` has no bias; with
    `tie_weights` its weight is `tok_emb.weight`, one array under two names.

    Weights start as GPT-2's: N(0, s^2), and N(0, s^2 / (2 n_layers)) for the two layers of each block that write into
    the shortcut, so that its size does not grow with depth; biases 0. s = 0.02 at GPT-2's width of 768, and
    0.02 sqrt(768 / C) at others: a product over C channels then has the same size at every width. (With 0.02 a narrow
    model's attention starts near uniform, and it spends its first hundreds of steps on getting away from there.) The
    loss of an untrained model is near ln V. A model put together from `nn` layers alone starts as those layers do.

    documents: the number of the document that each id belongs to, for rows into which several were packed. No position
    then sees another document's, and positions count from 0 in each, so that the loss and its gradients are those of
    the documents one by one. positions: which row of `pos_emb` each id takes, instead of that count. Both (B, T).

    attention_weights: return the logits and, for study, what each position looked at: a list of one tensor (B, H, T, T)
    a block, see `MultiHeadAttention.weights`.

    checkpoint: keep only each block's input for backward and compute the rest of the block again there. The gradients
    are the same to the last bit, the memory is less, and a step takes about a third longer. It is no part of the
    configuration, since it changes no result, and may be set on the model at any time.

    Raises: ValueError for ids of another rank or longer than the context, documents or positions of another shape, or
    documents that are no whole numbers; IndexError for an id outside 0..V - 1 or a position outside the context.
    Source: Radford et al., Language models are unsupervised multitask learners (2019), section 2.3; Press and Wolf,
    Using the output embedding to improve language models (2017), for the tied head.
    """

    def __init__(self, cfg: GPTConfig | Mapping[str, Any], *, checkpoint: bool = False) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.config = cfg = cfg if isinstance(cfg, GPTConfig) else GPTConfig.from_dict(cfg)
        with init.skip_random():  # reset_parameters draws all there is to draw
            self.tok_emb = Embedding(cfg.vocab_size, cfg.emb_dim)
            self.pos_emb = Embedding(cfg.context_length, cfg.emb_dim)
            self.drop_emb = Dropout(cfg.drop_rate)
            self.trf_blocks = Sequential(
                *(
                    TransformerBlock(cfg.emb_dim, cfg.n_heads, cfg.context_length, cfg.drop_rate, cfg.qkv_bias)
                    for _ in range(cfg.n_layers)
                )
            )
            self.final_norm = LayerNorm(cfg.emb_dim)
            self.out_head = Linear(cfg.emb_dim, cfg.vocab_size, bias=False)
        if cfg.tie_weights:
            self.out_head.weight = self.tok_emb.weight
        self.reset_parameters()

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        dtype: dtype | None = float32,
        drop_rate: float | None = None,
        n_heads: int | None = None,
    ) -> GPTModel:
        """The model with weights from a name, folder or file: see `models.from_pretrained`."""
        from .pretrained import from_pretrained  # which knows the formats, and this module

        return from_pretrained(source, dtype=dtype, drop_rate=drop_rate, n_heads=n_heads)

    def save_pretrained(self, folder: str | os.PathLike[str], *, layout: str = "own") -> None:
        """Write the model into a folder: see `models.save_pretrained`."""
        from .checkpoint import save_pretrained

        save_pretrained(self, folder, layout=layout)

    def replace_head(self, classes: int, bias: bool = True) -> GPTModel:
        """A new `out_head`, with an output for each of the classes; the token embedding stays. Returns self."""
        if classes < 2:
            raise ValueError(f"GPTModel: a head for {classes} classes has nothing to tell apart; give at least 2")
        self.out_head = Linear(self.config.emb_dim, classes, bias=bias).to(self.tok_emb.weight)
        return self

    def classify(self, ids: Tensor, last: Tensor) -> Tensor:
        """The head's outputs at the last real token of each row: ids (B, T), last (B,) -> (B, classes).

        Only there has a causal model read the whole text; what stands behind is padding, which it never sees.
        """
        return self.out_head(self.features(ids)[arange(len(ids), device=ids.device), last])

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        std = 0.02 * math.sqrt(768 / self.config.emb_dim)
        into_shortcut = {id(layer) for b in self.trf_blocks for layer in (b.att.out_proj, b.ff.layers[-1])}
        for module in self.modules():
            if isinstance(module, Embedding):
                init.normal_(module.weight, std=std)
            elif isinstance(module, Linear):
                if module.weight is not self.tok_emb.weight:
                    scale = math.sqrt(2 * self.config.n_layers) if id(module) in into_shortcut else 1.0
                    init.normal_(module.weight, std=std / scale)
                if module.bias is not None:
                    init.zeros_(module.bias)
            elif isinstance(module, LayerNorm):
                module.reset_parameters()

    def forward(
        self,
        ids: Tensor,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        *,
        attention_weights: bool = False,
    ) -> Any:
        if not attention_weights:
            return self.out_head(self.features(ids, documents, positions))
        weights: list[Tensor] = []
        hooks = [
            block.att.register_forward_pre_hook(lambda att, given: weights.append(att.weights(*given)))
            for block in self.trf_blocks
        ]
        try:
            return self.out_head(self.features(ids, documents, positions)), weights
        finally:
            for hook in hooks:
                hook.remove()

    def after(self, ids: Tensor, positions: Tensor, last: Any, past: Sequence[Any]) -> Tensor:
        """Logits after new ids (B, T) at positions (B, T), their keys and values added to `past` -> (B, V).

        last: the index (rows, columns) of the last new id of each row. past: what each block remembers, see `KVCache`.
        """
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions))  # (B, T, C)
        for block, remembered in zip(self.trf_blocks, past, strict=True):
            x = block(x, None, remembered)
        return self.out_head(self.final_norm(x[last]))

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        ignore_index: int = -100,
        *,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The mean of -ln p(targets[b, t] | ids[b, :t+1]): ids and targets (B, T) -> (), nats a token.

        cross_entropy(self(ids).flatten(0, 1), targets.flatten()), but the (B, T, V) logits, the largest array of a
        step, never stand in memory; places whose target is ignore_index count for nothing. Where `out_head` is no
        longer a plain Linear, or a hook watches it, it is called as it is.
        """
        given = [x for x in (ids, targets, documents, positions) if x is not None]
        parts = self._parts(ids) if all(x.shape == ids.shape for x in given) else [slice(None)]
        if len(parts) == 1:
            return self._loss(ids, targets, documents, positions, ignore_index, "mean")

        def term(part: slice) -> Tensor:
            docs, places = (None if x is None else x[part] for x in (documents, positions))
            return self._loss(ids[part], targets[part], docs, places, ignore_index, "sum")

        total = sum_side_by_side([partial(term, part) for part in parts], self._trained())
        return total / int((targets.array != ignore_index).sum())

    def _loss(
        self, ids: Tensor, targets: Tensor, documents: Tensor | None, positions: Tensor | None, ignore_index: int,
        reduction: str,
    ) -> Tensor:  # fmt: skip
        """The loss of some sequences, as a mean or a sum over their tokens."""
        x = self.features(ids, documents, positions).flatten(0, 1)
        head, targets = self.out_head, targets.flatten()
        if head.is_plainly(Linear) and head.bias is None:
            return F.linear_cross_entropy(x, head.weight, targets, ignore_index=ignore_index, reduction=reduction)
        return F.cross_entropy(head(x), targets, ignore_index=ignore_index, reduction=reduction)

    def _parts(self, ids: Tensor) -> Sequence[slice]:
        """The sequences of a batch in parts for threads of their own, or all in one."""
        sequences = len(ids.array)
        simple = (
            ids.ndim == 2
            and ids.is_cpu
            and self._computes_only()
            and not any(p.node.hooks for p in self._trained())  # type: ignore[union-attr]
        )
        number = parts_of_batch(sequences, ids.array.shape[1], self.num_parameters()) if simple else 1
        return tiles(sequences, -(-sequences // number))

    def _computes_only(self) -> bool:
        """Whether no layer draws random numbers, or may do what this module knows nothing of."""
        return all(map(_keeps_to_itself, self.modules()))

    def _trained(self) -> list[Tensor]:
        return [p for p in self.parameters() if p.requires_grad]

    def features(self, ids: Tensor, documents: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """What `out_head` reads: ids (B, T) -> (B, T, C)."""
        context = self.config.context_length
        if ids.ndim != 2:
            raise ValueError(f"GPTModel: ids must be (B, T), not of shape {tuple(ids.shape)}; a row alone is ids[None]")
        if not 1 <= ids.shape[1] <= context:
            raise ValueError(
                f"GPTModel: {ids.shape[1]} positions do not fit the context of 1 to {context}; "
                f"pass the last ones with ids[:, -{context}:]"
            )
        for name, given in (("documents", documents), ("positions", positions)):
            if given is not None and given.shape != ids.shape:
                raise ValueError(f"GPTModel: {name} {tuple(given.shape)} must have the shape of ids {tuple(ids.shape)}")
        if documents is not None and (documents.is_floating_point() or documents.dtype is bool_):
            raise ValueError(f"GPTModel: documents are whole numbers, not {documents.dtype}; pass documents.long()")
        if positions is None and documents is not None:
            same = documents.unsqueeze(2) == documents.unsqueeze(1)  # (B, T, T)
            positions = same.tril().sum(-1) - 1
        elif positions is None:
            positions = arange(ids.shape[1], device=ids.device)
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions))  # (B, T, C)
        if self.checkpoint:
            draws = not self._computes_only()  # else parts of a batch may run side by side, and there is one stream
            for block in self.trf_blocks:
                x = run_again_in_backward(block, x, documents, use_reentrant=False, preserve_rng_state=draws)
        elif self._has_plain_blocks():
            return self._between_norms(x, documents)
        elif documents is None:
            x = self.trf_blocks(x)
        else:
            for block in self.trf_blocks:
                x = block(x, documents)
        return self.final_norm(x)

    def _has_plain_blocks(self) -> bool:
        """Whether there are blocks, and nobody watches where one ends and the next begins."""
        blocks = self.trf_blocks
        return blocks.is_plainly(Sequential) and {block.is_plainly(TransformerBlock) for block in blocks} == {True}

    def _between_norms(self, x: Tensor, documents: Tensor | None) -> Tensor:
        """final_norm(blocks(x)), each block handing on its result and the norm of it that follows, which are one op."""
        blocks = list(self.trf_blocks)
        y = blocks[0].norm1(x)
        for block, norm in zip(blocks, [*(block.norm1 for block in blocks[1:]), self.final_norm], strict=True):
            x, y = block.between_norms(x, y, documents, norm)
        return y

    def num_parameters(self) -> int:
        """How many numbers training changes; tied weights count once."""
        return sum(parameter.numel() for parameter in self.parameters())


def parts_of_batch(sequences: int, tokens: int, parameters: int) -> int:
    """In how many parts a batch of sequences of so many tokens is computed, where nothing stands against it."""
    if parameters > PART_PARAMETERS:
        return 1
    return max(1, min(PARTS, sequences, sequences * tokens // PART_TOKENS))


KNOWN = (
    GPTModel, TransformerBlock, MultiHeadAttention, FeedForward, Sequential, Linear, LayerNorm, GELU, Embedding,
    SiLU, Int8Linear, Int8Embedding, LinearWithLoRA, EmbeddingWithLoRA, LoRALayer, ModuleDict,
)  # fmt: skip


def _keeps_to_itself(module: Module) -> bool:
    """Whether a module's forward reads and writes nothing but its arguments and its parameters, and draws nothing."""
    if isinstance(module, Dropout):
        return module.is_plainly(Dropout) and not (module.training and module.p)
    if isinstance(module, MultiHeadAttention) and module.training and module.dropout:
        return False
    return type(module) in KNOWN and module.is_plainly(type(module))
