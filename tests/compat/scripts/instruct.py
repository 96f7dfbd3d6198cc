"""First steps with tensors, a perceptron, batches of instructions, warm-up, decay and clipping."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch.autograd import grad
from torch.utils.data import DataLoader, Dataset

# --- tensors and gradients ---

scalar, vector = torch.tensor(1), torch.tensor([1, 2, 3])
matrix = torch.tensor([[1, 2, 3], [4, 5, 6]])
print(scalar, vector.dtype, vector.to(torch.float32).dtype, torch.tensor([1.0, 2.0]).dtype)
print(matrix, matrix.shape, matrix.reshape(3, 2), matrix.view(3, 2))
print(matrix.T, matrix.matmul(matrix.T), matrix @ matrix.T)

y, x1 = torch.tensor([1.0]), torch.tensor([1.1])
w1, b = torch.tensor([2.2], requires_grad=True), torch.tensor([0.0], requires_grad=True)
loss = F.binary_cross_entropy(torch.sigmoid(x1 * w1 + b), y)
print(loss, grad(loss, w1, retain_graph=True), grad(loss, b, retain_graph=True))
loss.backward()
print(w1.grad, b.grad)


class NeuralNetwork(torch.nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(num_inputs, 30), torch.nn.ReLU(), torch.nn.Linear(30, 20), torch.nn.ReLU(),
            torch.nn.Linear(20, num_outputs),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


torch.manual_seed(123)
model = NeuralNetwork(50, 3)
print(model, sum(p.numel() for p in model.parameters() if p.requires_grad))
print(model.layers[0].weight, model.layers[0].weight.shape, model.layers[0].bias[:3])
X = torch.rand((1, 50))
print(model(X))
with torch.no_grad():
    print(model(X), torch.softmax(model(X), dim=1))


class Toy(Dataset):
    def __init__(self, X, y):
        self.features, self.labels = X, y

    def __getitem__(self, index):
        return self.features[index], self.labels[index]

    def __len__(self):
        return self.labels.shape[0]


X_train = torch.tensor([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
y_train = torch.tensor([0, 0, 0, 1, 1])
torch.manual_seed(123)
loader = DataLoader(dataset=Toy(X_train, y_train), batch_size=2, shuffle=True, num_workers=0, drop_last=True)
for idx, (x, y) in enumerate(loader):
    print(f"Batch {idx + 1}:", x, y)
torch.manual_seed(123)
model = NeuralNetwork(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for epoch in range(3):
    model.train()
    for batch_idx, (features, labels) in enumerate(loader):
        loss = F.cross_entropy(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"Epoch: {epoch + 1:03d}/003 | Batch {batch_idx:03d}/{len(loader):03d} | Train Loss: {loss:.2f}")
model.eval()
with torch.no_grad():
    outputs = model(X_train)
torch.set_printoptions(sci_mode=False)
print(outputs, torch.softmax(outputs, dim=1))
predictions = torch.argmax(outputs, dim=1)
print(predictions, predictions == y_train, torch.sum(predictions == y_train), (predictions == y_train).sum().item() / 5)
torch.save(model.state_dict(), "model.pth")
again = NeuralNetwork(2, 2)
print(again.load_state_dict(torch.load("model.pth", weights_only=True)))

# --- batches of instructions ---

entries = [{"instruction": "Say it backwards.", "input": word, "output": word[::-1]} for word in
           ("stone", "river", "cloud", "a", "lantern", "to", "bridge", "yes")]  # fmt: skip


def prompt(entry):
    return f"### Instruction:\n{entry['instruction']}" + (f"\n### Input:\n{entry['input']}" if entry["input"] else "")


characters = sorted({c for e in entries for c in prompt(e) + "\n### Response:\n" + e["output"]})
END = len(characters)


class Instructions(Dataset):
    def __init__(self, data):
        self.texts = [[characters.index(c) for c in prompt(e) + "\n### Response:\n" + e["output"]] for e in data]

    def __getitem__(self, index):
        return self.texts[index]

    def __len__(self):
        return len(self.texts)


def collate(batch, pad_token_id=END, ignore_index=-100, allowed_max_length=None, device="cpu"):
    longest = max(len(item) + 1 for item in batch)
    inputs_lst, targets_lst = [], []
    for item in batch:
        padded = item.copy() + [pad_token_id] * (longest - len(item))
        inputs, targets = torch.tensor(padded[:-1]), torch.tensor(padded[1:])
        indices = torch.nonzero(targets == pad_token_id).squeeze()
        if indices.numel() > 1:
            targets[indices[1:]] = ignore_index
        if allowed_max_length is not None:
            inputs, targets = inputs[:allowed_max_length], targets[:allowed_max_length]
        inputs_lst.append(inputs)
        targets_lst.append(targets)
    return torch.stack(inputs_lst).to(device), torch.stack(targets_lst).to(device)


torch.manual_seed(123)
loader = DataLoader(
    Instructions(entries), batch_size=3, collate_fn=partial(collate, device="cpu", allowed_max_length=64), shuffle=True,
    drop_last=True, num_workers=0,
)  # fmt: skip
for inputs, targets in loader:
    print(inputs.shape, targets.shape, (targets == -100).sum())
print(inputs[0], targets[0])
logits_1, targets_1 = torch.tensor([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]]), torch.tensor([0, 1, -100])
print(F.cross_entropy(logits_1, targets_1), F.cross_entropy(logits_1[:2], targets_1[:2]))


class Speaker(torch.nn.Module):
    def __init__(self, vocabulary, width):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.mix = torch.nn.Sequential(torch.nn.Linear(3 * width, 4 * width), torch.nn.SiLU())
        self.head = torch.nn.Linear(4 * width, vocabulary, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        before = F.pad(x, (0, 0, 2, 0))
        return self.head(self.mix(torch.cat((before[:, :-2], before[:, 1:-1], x), dim=-1)))


torch.manual_seed(123)
model = Speaker(END + 1, 12)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
print(optimizer)
peak_lr, initial_lr, min_lr, epochs, warmup = 0.01, 0.0001, 0.001, 8, 4
steps, step, rates = len(loader) * epochs, -1, []


def find_highest_gradient(model):
    highest = None
    for param in model.parameters():
        if param.grad is not None:
            top = param.grad.data.flatten().max()
            highest = top if highest is None or top > highest else highest
    return highest


for epoch in range(epochs):
    model.train()
    for inputs, targets in loader:
        optimizer.zero_grad()
        step += 1
        if step < warmup:
            lr = initial_lr + step * (peak_lr - initial_lr) / warmup
        else:
            progress = (step - warmup) / (steps - warmup)
            lr = min_lr + (peak_lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        for param_group in optimizer.param_groups:
            param_group["lr"] = lr
        rates.append(optimizer.param_groups[0]["lr"])
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        if step == 5:
            print(find_highest_gradient(model))
        if step > warmup:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)
        if step == 5:
            print(find_highest_gradient(model), norm)
        optimizer.step()
    print(f"Epoch {epoch + 1}: {loss.item():.4f}, lr {rates[-1]:.6f}")

model.eval()
ids = torch.tensor([characters.index(c) for c in prompt(entries[0]) + "\n### Response:\n"]).unsqueeze(0)
for _ in range(12):
    with torch.no_grad():
        following = torch.argmax(model(ids)[:, -1, :], dim=-1, keepdim=True)
    if following.item() == END:
        break
    ids = torch.cat((ids, following), dim=1)
text = "".join(characters[i] for i in ids.squeeze(0).tolist())
print(text[len(prompt(entries[0])) :].replace("### Response:", "").strip())
