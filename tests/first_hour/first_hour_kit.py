"""The files of somebody who has just begun: two packed models, inputs, a training file, data."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

import headrace
from headrace import nn

TRAIN = """\
import numpy as np
import headrace as torch
from headrace import nn

net = nn.Linear(4, 2)

def make(size):
    return nn.Linear(4, size)

weights = net.state_dict()
"""
ARGUMENTS = """\
import argparse
from headrace import nn

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, required=True)
arguments = parser.parse_args()
net = nn.Linear(4, 2)
"""
READS_DATA = """\
import headrace as torch
from headrace import nn

net = nn.Linear(4, 2)
rows = open("data.csv").read().splitlines()
for row in rows:
    net.zero_grad()
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: headrace.Tensor) -> headrace.Tensor:
        return self.layers(x)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 5))

    def forward(self, image: headrace.Tensor) -> headrace.Tensor:
        return self.layers(image)


def make(folder: Path) -> None:
    shutil.copytree(_made(), folder, dirs_exist_ok=True)


@cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="first-hour-"))
    headrace.manual_seed(0)
    x = np.ones((2, 4), np.float32)
    headrace.pack(Net(), (x,), folder / "net.hr")
    headrace.pack(Images(), (np.ones((2, 3, 32, 32), np.float32),), folder / "images.hr")
    np.savez(folder / "in.npz", x=x)
    np.savez(folder / "wrong.npz", pixels=x)
    np.save(folder / "in.npy", x)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((64, 4)).astype(np.float32)
    np.savez(folder / "samples.npz", x=rows)
    outputs = headrace.runtime.load(folder / "net.hr").run({"x": rows})["output"]
    np.savez(folder / "test.npz", x=rows, labels=outputs.argmax(1))
    twins = nn.Linear(4, 2, bias=False)
    with headrace.no_grad():
        twins.weight[1] = twins.weight[0] + 1e-3 * headrace.from_numpy(
            rows[0]
        )  # two classes that are hard to tell apart
    headrace.pack(twins, (x,), folder / "twins.hr")
    outputs = headrace.runtime.load(folder / "twins.hr").run({"input": rows})["output"]
    np.savez(folder / "twins.npz", input=rows, labels=outputs.argmax(1))
    (folder / "train.py").write_text(TRAIN)
    (folder / "arguments.py").write_text(ARGUMENTS)
    (folder / "reads_data.py").write_text(READS_DATA)
    (folder / "model.pth").write_bytes(b"PK\3\4" + bytes(100))
    (folder / "forest.pkl").write_bytes(b"\x80\4.")
    (folder / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"\x08\1")
    headrace.save(nn.Linear(4, 2).state_dict(), folder / "weights.safetensors")
    return folder
