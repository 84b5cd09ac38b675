"""Networks in torch for the tests and benchmarks of the door from PyTorch. Imports torch: only where it is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10), nn.Softmax(-1))


class Residual(nn.Module):
    """Two 3x3 convolutions around a short cut, as in ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        same = before == after and stride == 1
        self.short = nn.Identity() if same else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.short(x))


class ResNet(nn.Module):
    """ResNet-18 (He et al. 2016, table 1) with `width` channels in the first stage; 64 is the original."""

    def __init__(self, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages: list[nn.Module] = []
        before = width
        for stage in range(4):
            after = width << stage
            stages += [Residual(before, after, 1 if stage == 0 else 2), Residual(after, after, 1)]
            before = after
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(before, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(image))))
        return self.fc(self.stages(x).mean((2, 3)))


def resnet(width: int = 64, classes: int = 1000) -> nn.Module:
    """With statistics of its own in every BatchNorm, so that they matter."""
    net = ResNet(width, classes)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.2, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.0)
    return net


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        layer = nn.LSTM if kind == "lstm" else nn.GRU
        self.rnn = layer(8, 16, num_layers=2 if kind == "lstm" else 1, bidirectional=kind == "lstm", batch_first=True)

    def forward(self, sequence: torch.Tensor) -> Any:
        return self.rnn(sequence)[0]


class Cached(nn.Module):
    """One decoder block with a cache of keys and values: GPT's step, batch and past length free."""

    def __init__(self, width: int = 32, heads: int = 4, vocabulary: int = 50, length: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.up, self.down, self.head = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.Linear(width, vocabulary, bias=False)  # fmt: skip

    def forward(self, ids: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        batch, new = ids.shape
        past = keys.shape[2]
        x = self.tokens(ids) + self.places(torch.arange(past, past + new))
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, new, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        seen = torch.arange(past + new)[None] <= torch.arange(past, past + new)[:, None]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, new, -1))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return {"logits": self.head(self.norm3(x)), "next_keys": k, "next_values": v}


class Branch(nn.Module):
    """torch.cond: data decide which of two layers runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: torch.relu(self.a(x)), lambda x: torch.tanh(self.b(x)), (x,))
