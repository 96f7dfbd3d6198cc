"""A GPT built by hand: norm, GELU, blocks, generation, losses, training, sampling, saving, foreign weights."""

import math
from itertools import pairwise

import torch
import torch.nn as nn

torch.set_printoptions(sci_mode=False)
CONFIG = {
    "vocab_size": 61, "context_length": 16, "emb_dim": 24, "n_heads": 4, "n_layers": 2, "drop_rate": 0.0,
    "qkv_bias": False,
}  # fmt: skip
text = "every morning the baker opens the door, and every evening the baker closes the door. " * 12
characters = sorted(set(text))
ids = torch.tensor([characters.index(c) for c in text])


class LayerNorm(nn.Module):
    def __init__(self, emb_dim):
        super().__init__()
        self.eps = 1e-5
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        var = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(var + self.eps) + self.shift


class GELU(nn.Module):
    def forward(self, x):
        inner = torch.sqrt(torch.tensor(2.0 / torch.pi)) * (x + 0.044715 * torch.pow(x, 3))
        return 0.5 * x * (1 + torch.tanh(inner))


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        width = cfg["emb_dim"]
        self.heads, self.head_dim = cfg["n_heads"], width // cfg["n_heads"]
        self.W_query = nn.Linear(width, width, bias=cfg["qkv_bias"])
        self.W_key = nn.Linear(width, width, bias=cfg["qkv_bias"])
        self.W_value = nn.Linear(width, width, bias=cfg["qkv_bias"])
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(cfg["drop_rate"])
        length = cfg["context_length"]
        self.register_buffer("mask", torch.triu(torch.ones(length, length), diagonal=1))

    def forward(self, x):
        b, n, width = x.shape
        keys, queries, values = (
            w(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
            for w in (self.W_key, self.W_query, self.W_value)
        )
        scores = queries @ keys.transpose(2, 3)
        scores.masked_fill_(self.mask.bool()[:n, :n], -torch.inf)
        weights = self.dropout(torch.softmax(scores / keys.shape[-1] ** 0.5, dim=-1))
        return self.out_proj((weights @ values).transpose(1, 2).contiguous().view(b, n, width))


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        width = cfg["emb_dim"]
        self.att = Attention(cfg)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), GELU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x):
        x = self.drop_shortcut(self.att(self.norm1(x))) + x
        return self.drop_shortcut(self.ff(self.norm2(x))) + x


class GPT(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*[Block(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = LayerNorm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx):
        _, n = in_idx.shape
        x = self.tok_emb(in_idx) + self.pos_emb(torch.arange(n, device=in_idx.device))
        return self.out_head(self.final_norm(self.trf_blocks(self.drop_emb(x))))


torch.manual_seed(123)
sample = torch.randn(2, 5)
layer = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
out = layer(sample)
print(out, out.mean(dim=-1, keepdim=True), out.var(dim=-1, keepdim=True))
normed = LayerNorm(6)(out)
print("Mean:\n", normed.mean(dim=-1, keepdim=True), "\nVariance:\n", normed.var(dim=-1, unbiased=False, keepdim=True))
print(GELU()(torch.linspace(-3, 3, 7)), nn.ReLU()(torch.linspace(-3, 3, 7)))


class Deep(nn.Module):
    def __init__(self, sizes, shortcut):
        super().__init__()
        self.shortcut = shortcut
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(a, b), GELU()) for a, b in pairwise(sizes)])

    def forward(self, x):
        for layer in self.layers:
            y = layer(x)
            x = x + y if self.shortcut and x.shape == y.shape else y
        return x


for shortcut in (False, True):
    torch.manual_seed(123)
    deep = Deep([3, 3, 3, 3, 3, 1], shortcut)
    loss = nn.MSELoss()(deep(torch.tensor([[1.0, 0.0, -1.0]])), torch.tensor([[0.0]]))
    loss.backward()
    for name, param in deep.named_parameters():
        if "weight" in name:
            print(f"{name} has gradient mean of {param.grad.abs().mean().item():.6f}")

torch.manual_seed(123)
model = GPT(CONFIG)
print(model)
total = sum(p.numel() for p in model.parameters())
print(f"Total number of parameters: {total:,}", f"{total * 4 / (1024 * 1024):.2f} MB")
print(model.tok_emb.weight.shape, model.out_head.weight.shape, model(ids[:8].view(2, 4)))


def generate(model, idx, max_new_tokens, context_size, temperature=0.0, top_k=None, eos_id=None):
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, -context_size:])[:, -1, :]
        if top_k is not None:
            top_logits, _ = torch.topk(logits, top_k)
            logits = torch.where(logits < top_logits[:, -1], torch.tensor(float("-inf")).to(logits.device), logits)
        if temperature > 0.0:
            probs = torch.softmax(logits / temperature, dim=-1)
            idx_next = torch.multinomial(probs, num_samples=1)
        else:
            idx_next = torch.argmax(logits, dim=-1, keepdim=True)
        if idx_next == eos_id:
            break
        idx = torch.cat((idx, idx_next), dim=1)
    return idx


model.eval()
print(generate(model, ids[None, :6], 6, CONFIG["context_length"]))

inputs, targets = ids[:12].view(3, 4), ids[1:13].view(3, 4)
with torch.no_grad():
    logits = model(inputs)
probas = torch.softmax(logits, dim=-1)
print(probas.shape, torch.argmax(probas, dim=-1, keepdim=True))
print(probas[0, [0, 1, 2], targets[0, :3]], torch.log(probas[0, [0, 1, 2], targets[0, :3]]))
loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
print(loss, torch.exp(loss))


class Texts(torch.utils.data.Dataset):
    def __init__(self, ids, length):
        self.windows = [ids[i : i + length + 1] for i in range(0, len(ids) - length, length)]

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, i):
        return self.windows[i][:-1], self.windows[i][1:]


split = int(0.9 * len(ids))
torch.manual_seed(123)
train = torch.utils.data.DataLoader(Texts(ids[:split], 16), batch_size=4, shuffle=True, drop_last=True, num_workers=0)
validation = torch.utils.data.DataLoader(Texts(ids[split:], 16), batch_size=4, shuffle=False, num_workers=0)
print([x.shape for x, _ in train][-1], sum(x.numel() for x, _ in validation))


def loss_of_batch(x, y):
    return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


def loss_of_loader(loader):
    return sum(loss_of_batch(x, y).item() for x, y in loader) / len(loader) if len(loader) else math.nan


optimizer = torch.optim.AdamW(model.parameters(), lr=0.004, weight_decay=0.1)
for epoch in range(4):
    model.train()
    for x, y in train:
        optimizer.zero_grad()
        loss = loss_of_batch(x, y)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(f"Ep {epoch + 1}: Train loss {loss_of_loader(train):.3f}, Val loss {loss_of_loader(validation):.3f}")
print("".join(characters[i] for i in generate(model, ids[None, :6], 20, 16).squeeze(0).tolist()))

next_logits = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
torch.manual_seed(123)
sampled = torch.bincount(torch.tensor([torch.multinomial(torch.softmax(next_logits, 0), 1).item() for _ in range(500)]))
print(sampled, sampled.sum())
for temperature in (1, 0.1, 5):
    print(torch.softmax(next_logits / temperature, dim=0))
top_logits, top_pos = torch.topk(next_logits, 3)
print("Top logits:", top_logits, "Top positions:", top_pos)
print(torch.softmax(torch.where(next_logits < top_logits[-1], torch.tensor(float("-inf")), next_logits), dim=0))
torch.manual_seed(123)
print(generate(model, ids[None, :6], 15, 16, temperature=1.4, top_k=9))

torch.save({"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, "both.pth")
checkpoint = torch.load("both.pth", weights_only=True, map_location=torch.device("cpu"))
model = GPT(CONFIG)
print(model.load_state_dict(checkpoint["model_state_dict"]))
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1)
optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
x, y = next(iter(validation))
model.train()
for _ in range(3):
    optimizer.zero_grad()
    loss = loss_of_batch(x, y)
    loss.backward()
    optimizer.step()
    print(loss)


def assign(left, right):
    if left.shape != right.shape:
        raise ValueError(f"Shape mismatch. Left: {left.shape}, Right: {right.shape}")
    return torch.nn.Parameter(torch.tensor(right))


foreign = torch.linspace(-0.1, 0.1, 16 * 24).reshape(16, 24).numpy()
model.pos_emb.weight = assign(model.pos_emb.weight, foreign)
print(model.pos_emb.weight, model(ids[:4].view(1, 4))[0, -1, :5])
try:
    assign(model.out_head.weight, foreign)
except ValueError as error:
    print(error)
