"""The digits CNN: what `headrace pack examples/digits/model.py:trained` captures.

The data are the 1,797 handwritten digits (8x8 pixels, values 0 to 16) that scikit-learn ships.
"""

import numpy as np
from headrace.utils.data import DataLoader, TensorDataset

import headrace as torch
import headrace.nn as nn
import headrace.optim as optim


class DigitsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.3)
        self.classify = nn.Linear(64 * 2 * 2, 10)

    def forward(self, x):
        return self.classify(self.dropout(self.flatten(self.features(x))))


def digits(seed=0):
    """Train and test images (float32 [n, 1, 8, 8], 0 to 1) and labels (int64 [n]): 1,437 and 360 of them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return (images[train], labels[train]), (images[test], labels[test])


def train(epochs=20, seed=0, progress=None):
    """Train a DigitsNet; answers the model and its test accuracy (share of 1)."""
    torch.manual_seed(seed)
    (x, y), (x_test, y_test) = digits()
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=64, shuffle=True)
    model = DigitsNet()
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    loss_of = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        model.train()
        for group in optimizer.param_groups:  # from 3e-3 down to 0 along half a cosine
            group["lr"] = 3e-3 * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        if progress:
            progress(epoch + 1, epochs, total / len(x))
    model.eval()
    with torch.no_grad():
        right = (model(torch.from_numpy(x_test)).numpy().argmax(1) == y_test).mean()
    return model, float(right)


def trained():
    """A trained model with an example input, for `headrace pack`."""
    model, _ = train()
    (x, _), _ = digits()
    return model, x[:4]
