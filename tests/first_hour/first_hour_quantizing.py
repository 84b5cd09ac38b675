"""From floats to integers."""

from book import Chapter, terminal

CHAPTER = Chapter("Quantizing")


@CHAPTER.mistake("Calibration data without an input of the model")
def _():
    return terminal("headrace quantize net.hr -o int8.hr --calibration wrong.npz")


@CHAPTER.mistake("Static quantization without data")
def _():
    return terminal("headrace quantize net.hr -o int8.hr --method static")


@CHAPTER.mistake("A promise of accuracy without labels")
def _():
    return terminal("headrace quantize net.hr -o int8.hr --calibration samples.npz --max-drop 0.5")


@CHAPTER.mistake("A promise of accuracy that cannot be kept")
def _():
    command = "headrace quantize twins.hr -o int8.hr --calibration twins.npz --labels twins.npz --max-drop 0.5"
    return terminal(command)


@CHAPTER.mistake("Labels under another name")
def _():
    return terminal("headrace quantize net.hr -o int8.hr --calibration samples.npz --labels in.npz --max-drop 0.5")
