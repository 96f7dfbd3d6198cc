"""The GPT of `tinygrad_llm.models` in plain PyTorch, as one writes it there: the peer that benchmarks compare with.

Same shapes, same biases, same tied or untied head; fused attention, nothing tuned by hand.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as run_again_in_backward


class Attention(nn.Module):
    """Causal self-attention with one projection for queries, keys and values."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        C = config["emb_dim"]
        self.heads, self.dropout = config["n_heads"], config["drop_rate"]
        self.qkv = nn.Linear(C, 3 * C, bias=config["qkv_bias"])
        self.out_proj = nn.Linear(C, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """Attention and feed-forward, each behind a layer norm and a shortcut."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        C = config["emb_dim"]
        self.norm1, self.att = nn.LayerNorm(C), Attention(config)
        self.norm2 = nn.LayerNorm(C)
        self.ff = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(approximate="tanh"), nn.Linear(4 * C, C))
        self.drop = nn.Dropout(config["drop_rate"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.att(self.norm1(x)))
        return x + self.drop(self.ff(self.norm2(x)))


class GPT(nn.Module):
    """ids (B, T) -> logits (B, T, V), with GPT-2's initial weights. `config` has the keys of GPTConfig."""

    def __init__(self, config: dict, checkpoint: bool = False) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        C, V = config["emb_dim"], config["vocab_size"]
        self.tok_emb = nn.Embedding(V, C)
        self.pos_emb = nn.Embedding(config["context_length"], C)
        self.drop = nn.Dropout(config["drop_rate"])
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config["n_layers"])])
        self.norm = nn.LayerNorm(C)
        self.head = nn.Linear(C, V, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if config["tie_weights"]:
            self.head.weight = self.tok_emb.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (B, T) -> logits (B, T, V)."""
        x = self.drop(self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1], device=ids.device)))
        for block in self.blocks:
            x = run_again_in_backward(block, x, use_reentrant=False) if self.checkpoint else block(x)
        return self.head(self.norm(x))

    def loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean next-token loss: ids and targets (B, T) -> ()."""
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())
