"""A small language model turned into a classifier: padding, a new head, frozen layers, accuracy."""

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset, random_split

torch.manual_seed(123)
GOOD = ["see you at the station at six", "thanks for the cake, it was lovely", "the train is late again, sorry"]
BAD = ["you won a prize, call now", "free entry, send the word win now", "claim your free prize today"]
messages = [(f"{text} {i % 7}", label) for i in range(24) for label, group in enumerate((GOOD, BAD))
            for text in (group[i % 3],)]  # fmt: skip
characters = sorted({c for text, _ in messages for c in text})
PAD = len(characters)


class Messages(Dataset):
    def __init__(self, rows, max_length=None):
        self.rows = [([characters.index(c) for c in text], label) for text, label in rows]
        self.max_length = max_length or max(len(ids) for ids, _ in self.rows)
        self.rows = [(ids[: self.max_length] + [PAD] * (self.max_length - len(ids)), label) for ids, label in self.rows]

    def __getitem__(self, index):
        ids, label = self.rows[index]
        return torch.tensor(ids, dtype=torch.long), torch.tensor(label, dtype=torch.long)

    def __len__(self):
        return len(self.rows)


train_set, validation_set = random_split(Messages(messages), [0.75, 0.25])
length = train_set.dataset.max_length
print(len(train_set), len(validation_set), length, train_set.indices[:6])
train = DataLoader(dataset=train_set, batch_size=8, shuffle=True, num_workers=0, drop_last=True)
validation = DataLoader(dataset=validation_set, batch_size=8, num_workers=0, drop_last=False)
*_, (input_batch, target_batch) = train
print("Input batch dimensions:", input_batch.shape, "Label batch dimensions", target_batch.shape, target_batch)


class Model(nn.Module):
    def __init__(self, vocabulary, width, layers):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.trf_blocks = nn.Sequential(*[
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(layers)
        ])  # fmt: skip
        self.final_norm = nn.LayerNorm(width)
        self.out_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids):
        x = self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1], device=ids.device))
        reach = torch.tril(torch.ones(ids.shape[1], ids.shape[1]))
        x = (reach / reach.sum(dim=-1, keepdim=True)) @ x
        for block in self.trf_blocks:
            x = x + block(x)
        return self.out_head(self.final_norm(x))


model = Model(PAD + 1, 16, 2)
for param in model.parameters():
    param.requires_grad = False
torch.manual_seed(123)
model.out_head = torch.nn.Linear(in_features=16, out_features=2)
for part in (model.trf_blocks[-1], model.final_norm):
    for param in part.parameters():
        param.requires_grad = True
print(model)
print([name for name, p in model.named_parameters() if p.requires_grad])
with torch.no_grad():
    outputs = model(input_batch[:1])
print("Outputs:\n", outputs[:, -3:], "\nLast:", outputs[:, -1, :], torch.softmax(outputs[:, -1, :], dim=-1))
print("Class label:", torch.argmax(outputs[:, -1, :]).item())


def accuracy(loader):
    model.eval()
    correct, examples = 0, 0
    for x, y in loader:
        with torch.no_grad():
            predicted = torch.argmax(model(x)[:, -1, :], dim=-1)
        examples += predicted.shape[0]
        correct += (predicted == y).sum().item()
    return correct / examples


def loss_of(x, y):
    return torch.nn.functional.cross_entropy(model(x)[:, -1, :], y)


device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model.to(device)
torch.manual_seed(123)
print(f"Training accuracy: {accuracy(train) * 100:.2f}%")
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
frozen = model.tok_emb.weight.clone()
for epoch in range(6):
    model.train()
    seen, last = 0, 0.0
    for x, y in train:
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        seen, last = seen + x.shape[0], loss.item()
    with torch.no_grad():
        val_loss = sum(loss_of(x, y).item() for x, y in validation) / len(validation)
    print(f"Ep {epoch + 1}: seen {seen}, last {last:.3f}, Val loss {val_loss:.3f}, {accuracy(validation):.3f}")
print(torch.equal(frozen, model.tok_emb.weight), model.tok_emb.weight.grad, model.out_head.weight.grad.shape)


def classify(text):
    model.eval()
    ids = [characters.index(c) for c in text][: min(length, model.pos_emb.weight.shape[0])]
    ids += [PAD] * (length - len(ids))
    with torch.no_grad():
        logits = model(torch.tensor(ids, device=device).unsqueeze(0))[:, -1, :]
    return ("good", "bad")[torch.argmax(logits, dim=-1).item()], logits


for text in ("free prize now", "see you at the station"):
    print(*classify(text))
