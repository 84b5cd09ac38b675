"""From a Module to a file."""

import numpy as np
from book import Chapter, terminal

import headrace
import headrace as torch
from headrace import nn

CHAPTER = Chapter("Packing")
EXAMPLE = np.ones((2, 4), np.float32)


@CHAPTER.mistake("No word about which object to pack")
def _():
    return terminal("headrace pack train.py -o net.hr")


@CHAPTER.mistake("A name that the file does not define")
def _():
    return terminal("headrace pack train.py:nett -o net.hr")


@CHAPTER.mistake("A factory that needs arguments")
def _():
    return terminal("headrace pack train.py:make -o net.hr")


@CHAPTER.mistake("A state_dict instead of its Module")
def _():
    return terminal("headrace pack train.py:weights -o net.hr")


@CHAPTER.mistake("A Module without example inputs")
def _():
    return terminal("headrace pack train.py:net -o net.hr")


@CHAPTER.mistake("Training code that runs when the file is imported")
def _():
    return terminal("headrace pack reads_data.py:net -o net.hr")


@CHAPTER.mistake("A file that parses the command line when it is imported")
def _():
    return terminal("headrace pack arguments.py:net -o net.hr")


@CHAPTER.mistake("A Python `if` on the values of a tensor")
def _():
    class Clipped(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x * 2
            return x

    headrace.pack(Clipped(), EXAMPLE, "clipped.hr")


@CHAPTER.mistake("A number taken out of a tensor")
def _():
    class Scaled(nn.Module):
        def forward(self, x):
            return x / float(x.max())

    headrace.pack(Scaled(), EXAMPLE, "scaled.hr")


@CHAPTER.mistake("A shape that is written down instead of taken from the input")
def _():
    class Pairs(nn.Module):
        def forward(self, x):
            return x.reshape(2, 2, 2)

    headrace.pack(Pairs(), EXAMPLE, "pairs.hr")


@CHAPTER.mistake("Example inputs in double precision")
def _():
    headrace.pack(nn.Linear(4, 2), np.ones((2, 4)), "net.hr")


@CHAPTER.mistake("Dropout in training mode (no mistake here: a model is packed in evaluation mode)")
def _():
    net = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)).train()
    headrace.pack(net, EXAMPLE, "net.hr")
    loaded = headrace.runtime.load("net.hr")
    with torch.no_grad():
        same = np.allclose(loaded.run({"input": EXAMPLE})["output"], net.eval()(torch.from_numpy(EXAMPLE)).numpy())
    return f"the same as net.eval(): {same}"
