"""What a model is given."""

import numpy as np
from book import Chapter, terminal

import headrace as torch
from headrace import runtime

CHAPTER = Chapter("Running a model")


@CHAPTER.mistake("Double precision into a single precision model")
def _():
    model = runtime.load("net.hr")
    model.run({"x": np.ones((1, 4))})


@CHAPTER.mistake("The batch dimension is missing")
def _():
    model = runtime.load("net.hr")
    model.run({"x": np.ones(4, np.float32)})


@CHAPTER.mistake("An image with channels last")
def _():
    model = runtime.load("images.hr")
    model.run({"image": np.ones((1, 32, 32, 3), np.float32)})


@CHAPTER.mistake("One image, channels last, without a batch")
def _():
    model = runtime.load("images.hr")
    model.run({"image": np.ones((32, 32, 3), np.float32)})


@CHAPTER.mistake("An image of another size")
def _():
    model = runtime.load("images.hr")
    model.run({"image": np.ones((1, 3, 64, 64), np.float32)})


@CHAPTER.mistake("The wrong input name")
def _():
    model = runtime.load("net.hr")
    model.run({"X": np.ones((1, 4), np.float32)})


@CHAPTER.mistake("An array without its name")
def _():
    model = runtime.load("net.hr")
    model.run(np.ones((1, 4), np.float32))


@CHAPTER.mistake("A list whose rows differ in length")
def _():
    model = runtime.load("net.hr")
    model.run({"x": [[1, 2, 3, 4], [1, 2, 3]]})


@CHAPTER.mistake("A tensor instead of an array")
def _():
    model = runtime.load("net.hr")
    model.run({"x": torch.ones(1, 4)})


@CHAPTER.mistake("A .npy file, which has no names")
def _():
    return terminal("headrace run net.hr in.npy")


@CHAPTER.mistake("An .npz file with another name in it")
def _():
    return terminal("headrace run net.hr wrong.npz")


@CHAPTER.mistake("A device that does not exist")
def _():
    runtime.load("net.hr", device="gpu")
