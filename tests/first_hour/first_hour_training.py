"""A training loop."""

import numpy as np
from book import Chapter

import headrace as torch
from headrace import nn, optim

CHAPTER = Chapter("Training")


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 2)]


@CHAPTER.mistake("Adding to a weight in place")
def _():
    weight = torch.ones(3, requires_grad=True)
    weight += 1


@CHAPTER.mistake("backward twice")
def _():
    loss = (torch.ones(3, requires_grad=True) ** 2).sum()
    loss.backward()
    loss.backward()


@CHAPTER.mistake("A loss that is no number")
def _():
    loss = nn.Linear(4, 2)(torch.ones(3, 4)) ** 2
    loss.backward()


@CHAPTER.mistake("A loss that does not depend on a parameter")
def _():
    loss = torch.ones(3).sum()
    loss.backward()


@CHAPTER.mistake("A value that the gradient needs, changed in place")
def _():
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    y += 1
    y.sum().backward()


@CHAPTER.mistake("An optimizer without parameters")
def _():
    optim.SGD(Layers().parameters(), lr=0.1)


@CHAPTER.mistake("Labels as floats")
def _():
    scores, labels = torch.ones(3, 5), torch.tensor([0.0, 1.0, 2.0])
    nn.CrossEntropyLoss()(scores, labels)


@CHAPTER.mistake("Labels that count from 1")
def _():
    scores, labels = torch.ones(3, 5), torch.tensor([1, 3, 5])
    nn.CrossEntropyLoss()(scores, labels)


@CHAPTER.mistake("A layer of another width")
def _():
    nn.Linear(4, 2)(torch.ones(3, 5))


@CHAPTER.mistake("Data in double precision")
def _():
    data = torch.from_numpy(np.ones((3, 4)))
    nn.Linear(4, 2)(data)


@CHAPTER.mistake("An array instead of a tensor")
def _():
    nn.Linear(4, 2)(np.ones((3, 4), np.float32))


@CHAPTER.mistake("The numbers of a tensor that has a history")
def _():
    nn.Linear(4, 2)(torch.ones(3, 4)).numpy()


@CHAPTER.mistake("Weights of another model")
def _():
    nn.Linear(4, 2).load_state_dict({"weigth": torch.ones(2, 4)})
