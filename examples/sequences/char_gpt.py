"""A character GPT: a causal Transformer learns to write like this project's own documents.

    python examples/sequences/char_gpt.py [--steps N]

The text is README.md, ARCHITECTURE.md and CONTRIBUTING.md. The figure is the loss in nats a character on text that was
not trained on (guessing by frequency alone gives about 3.2). Then pack, export, serve, and write remotely.
"""

from pathlib import Path

import numpy as np

import headrace as torch
import headrace.nn as nn
import headrace.optim as optim

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = 64  # characters that the model sees
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


def text():
    """The documents as numbers; what is not ASCII is left out."""
    documents = "\n".join((ROOT / name).read_text() for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"))
    return encode(documents)


def encode(characters):
    return np.array([CHARACTERS.index(c) for c in characters if c in CHARACTERS], np.int64)


class GPT(nn.Module):
    def __init__(self, width=64, layers=2, heads=4):
        super().__init__()
        self.token = nn.Embedding(len(CHARACTERS), width)
        self.place = nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, len(CHARACTERS))
        self.register_buffer("future", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, characters):
        """Scores [batch, 64, characters] of the character after each place."""
        x = self.token(characters) + self.place.weight
        return self.head(self.blocks(x, mask=self.future))


def build(seed=0):
    torch.manual_seed(seed)
    return GPT()


def windows(numbers, rng, count):
    """Pieces of text [count, 64], and the same one character later."""
    starts = rng.integers(0, len(numbers) - CONTEXT, count)
    places = starts[:, None] + np.arange(CONTEXT)
    return numbers[places], numbers[places + 1]


def train(model, steps=1000, losses=None):
    """Answers the loss on the last tenth of the text; appends each step's own to `losses`."""
    numbers = text()
    known = numbers[: len(numbers) * 9 // 10]
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps + 1)
    loss_of = nn.CrossEntropyLoss()
    rng = np.random.default_rng(1)
    model.train()
    for _ in range(steps):
        x, y = (torch.from_numpy(a) for a in windows(known, rng, 16))
        optimizer.zero_grad()
        loss = loss_of(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if losses is not None:
            losses.append(loss.item())
    return held_out(model)


def held_out(model):
    numbers = text()
    x, y = windows(numbers[len(numbers) * 9 // 10 :], np.random.default_rng(2), 64)
    model.eval()
    with torch.no_grad():
        return nn.CrossEntropyLoss()(model(torch.from_numpy(x)).flatten(0, 1), torch.from_numpy(y).flatten()).item()


def write(scores_of, start, count, seed=0):
    """Continue `start` by characters drawn from what `scores_of` says."""
    numbers, rng = list(encode(start)), np.random.default_rng(seed)
    for _ in range(count):
        seen = numbers[-CONTEXT:]
        window = np.zeros((1, CONTEXT), np.int64)  # what lies behind the text is not seen: the model is causal
        window[0, : len(seen)] = seen
        scores = scores_of(window)[0, len(seen) - 1] / 0.7
        chances = np.exp(scores - scores.max())
        numbers.append(int(rng.choice(len(chances), p=chances / chances.sum())))
    return "".join(CHARACTERS[n] for n in numbers)


def main():
    from lifecycle import options, ship

    chosen = options(__doc__, steps=1000)
    model = build()
    print(f"trained   {train(model, chosen.steps):.3f} nats a character on text that was not trained on")
    example, _ = windows(text(), np.random.default_rng(3), 2)

    def ask(call):
        print("written   " + repr(write(lambda x: next(iter(call(characters=x).values())), "The model ", 80)))

    ship("gpt", model, (example,), chosen.keep, ask)


if __name__ == "__main__":
    main()
