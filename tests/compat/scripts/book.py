"""The steps of a book on language models, small: tokens, windows, attention, LoRA, batches of unequal texts."""

import re

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(123)

text = "The old clock, she said, had never been wrong -- not once; and yet the clock was late. " * 6
words = [w for w in re.split(r'([,.:;?_!"()\']|--|\s)', text) if w.strip()]
vocabulary = {w: i for i, w in enumerate(sorted(set(words)) + ["<|endoftext|>", "<|unk|>"])}
ids = [vocabulary[w] for w in words]


class Windows(Dataset):
    def __init__(self, ids, length, stride):
        self.inputs, self.targets = [], []
        for i in range(0, len(ids) - length, stride):
            self.inputs.append(torch.tensor(ids[i : i + length]))
            self.targets.append(torch.tensor(ids[i + 1 : i + length + 1]))

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        return self.inputs[i], self.targets[i]


loader = DataLoader(Windows(ids, 4, 2), batch_size=3, shuffle=True, drop_last=True, num_workers=0)
inputs, targets = next(iter(loader))
print("Inputs:\n", inputs, "\nTargets:\n", targets, inputs.shape)

tokens, places = torch.nn.Embedding(len(vocabulary), 6), torch.nn.Embedding(4, 6)
print(tokens.weight[:2], tokens(torch.tensor([2])))
embedded = tokens(inputs) + places(torch.arange(4))
print(embedded.shape, embedded[0])

x = torch.tensor([[0.43, 0.15, 0.89], [0.55, 0.87, 0.66], [0.57, 0.85, 0.64], [0.22, 0.58, 0.33]])
scores = torch.empty(x.shape[0])
for i, row in enumerate(x):
    scores[i] = torch.dot(row, x[1])
print(scores, scores / scores.sum(), torch.softmax(scores, dim=0))
weights = torch.softmax(x @ x.T, dim=-1)
print(weights, weights.sum(dim=-1), weights @ x)

torch.manual_seed(123)
W_query = torch.nn.Parameter(torch.rand(3, 2), requires_grad=False)
W_key, W_value = (torch.nn.Parameter(torch.rand(3, 2), requires_grad=False) for _ in range(2))
queries, keys, values = x @ W_query, x @ W_key, x @ W_value
print(torch.softmax(queries @ keys.T / keys.shape[-1] ** 0.5, dim=-1) @ values)
mask = torch.triu(torch.ones(4, 4), diagonal=1)
masked = (queries @ keys.T).masked_fill(mask.bool(), -torch.inf)
print(masked, torch.softmax(masked / keys.shape[-1] ** 0.5, dim=1))


class MultiHeadAttention(nn.Module):
    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        self.d_out, self.num_heads, self.head_dim = d_out, num_heads, d_out // num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", torch.triu(torch.ones(context_length, context_length), diagonal=1))

    def forward(self, x):
        b, n, _ = x.shape
        k, q, v = (w(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
                   for w in (self.W_key, self.W_query, self.W_value))
        scores = q @ k.transpose(2, 3)
        scores.masked_fill_(self.mask.bool()[:n, :n], -torch.inf)
        weights = self.dropout(torch.softmax(scores / k.shape[-1] ** 0.5, dim=-1))
        context = (weights @ v).transpose(1, 2).contiguous().view(b, n, self.d_out)
        return self.out_proj(context)


torch.manual_seed(123)
batch = torch.stack((x, x), dim=0)
attention = MultiHeadAttention(3, 4, 4, 0.0, num_heads=2)
print(attention(batch), attention)

logits = torch.tensor([[0.1, -0.3, 2.0], [1.2, 0.0, -1.0]])
classes = torch.tensor([2, 0])
chosen = torch.softmax(logits, dim=-1)[[0, 1], classes]
print(torch.log(chosen), -torch.log(chosen).mean(), nn.functional.cross_entropy(logits, classes), torch.exp(chosen))


class LoRALayer(nn.Module):
    def __init__(self, in_dim, out_dim, rank, alpha):
        super().__init__()
        self.A = nn.Parameter(torch.empty(in_dim, rank))
        torch.nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.B = nn.Parameter(torch.zeros(rank, out_dim))
        self.alpha = alpha

    def forward(self, x):
        return self.alpha * (x @ self.A @ self.B)


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)

    def forward(self, x):
        return self.linear(x) + self.lora(x)


def add_lora(model, rank, alpha):
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            setattr(model, name, LinearWithLoRA(module, rank, alpha))
        else:
            add_lora(module, rank, alpha)


torch.manual_seed(123)
model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))
for p in model.parameters():
    p.requires_grad = False
add_lora(model, rank=2, alpha=4)
print(sum(p.numel() for p in model.parameters() if p.requires_grad), model)
points = torch.randn(64, 4)
labels = (points[:, 0] * points[:, 1] > 0).long()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)
for epoch in range(60):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(points), labels)
    loss.backward()
    optimizer.step()
    scheduler.step()
    if epoch % 20 == 0:
        print(f"Ep {epoch}: {loss:.3f}", loss)
with torch.no_grad():
    predicted = torch.argmax(model(points), dim=-1)
    print(f"{(predicted == labels).float().mean().item():.2f}")


def collate(batch, pad=50256, ignore=-100):
    longest = max(len(item) + 1 for item in batch)
    inputs, targets = [], []
    for item in batch:
        padded = item + [pad] * (longest - len(item))
        tensor = torch.tensor(padded[1:])
        where = torch.nonzero(tensor == pad).squeeze()
        if where.numel() > 1:
            tensor[where[1:]] = ignore
        inputs.append(torch.tensor(padded[:-1]))
        targets.append(tensor)
    return torch.stack(inputs), torch.stack(targets)


print(collate([[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]))
torch.save({"model": model.state_dict(), "epoch": 60}, "model.pth")
again = torch.load("model.pth", weights_only=True)
print(model.load_state_dict(again["model"]), again["epoch"], list(again["model"])[:2])
