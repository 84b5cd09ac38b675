"""The copy task: a Transformer, encoder and decoder, learns to write down what it has read.

    python examples/sequences/copy_task.py [--steps N]

Sequences of 8 symbols; the decoder sees what it has written so far and attends to the encoder's memory. The figure is the
share of sequences that are copied without an error, symbol by symbol. Then pack, export, serve, and copy remotely: the
served model is asked once for each symbol.
"""

import math

import numpy as np

import headrace as torch
import headrace.nn as nn
import headrace.optim as optim

SYMBOLS, LENGTH, START = 10, 8, 0  # symbols are 1 to 10; 0 starts the answer


def batch(rng, count):
    """Sequences [count, 8], and what the decoder is given: the start and all but the last symbol."""
    source = rng.integers(1, SYMBOLS + 1, (count, LENGTH))
    given = np.concatenate([np.full((count, 1), START), source[:, :-1]], 1)
    return source, given


class Copier(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.width = width
        self.embed = nn.Embedding(SYMBOLS + 1, width)
        self.place = nn.Parameter(torch.randn(LENGTH, width))
        self.body = nn.Transformer(width, 4, 1, 1, 64, dropout=0.0, batch_first=True)
        self.write = nn.Linear(width, SYMBOLS + 1)
        self.register_buffer("future", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, source, written):
        """Scores [batch, 8, symbols] of the next symbol after each place of `written`."""
        read = self.embed(source) * math.sqrt(self.width) + self.place
        told = self.embed(written) * math.sqrt(self.width) + self.place
        return self.write(self.body(read, told, tgt_mask=self.future))


def build(seed=0):
    torch.manual_seed(seed)
    return Copier()


def train(model, steps=700):
    """Answers the share of 200 new sequences that are copied without an error."""
    optimizer = optim.AdamW(model.parameters(), lr=4e-3)
    warm = optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)
    fall = optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - 20))
    schedule = optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], [20])
    loss_of = nn.CrossEntropyLoss()
    rng = np.random.default_rng(1)
    model.train()
    for _ in range(steps):
        source, given = (torch.from_numpy(a) for a in batch(rng, 64))
        optimizer.zero_grad()
        loss = loss_of(model(source, given).transpose(1, 2), source)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return accuracy(model)


def copy(scores_of, source):
    """Write symbol by symbol: `scores_of(source, written)` says what comes next after each place."""
    written = np.full(source.shape, START)
    for place in range(LENGTH):
        following = scores_of(source, written)[:, place].argmax(-1)
        if place + 1 == LENGTH:
            return np.concatenate([written[:, 1:], following[:, None]], 1)
        written[:, place + 1] = following
    return written


def accuracy(model):
    source, _ = batch(np.random.default_rng(2), 200)
    model.eval()
    with torch.no_grad():
        copied = copy(lambda s, w: model(torch.from_numpy(s), torch.from_numpy(w)).numpy(), source)
    return float((copied == source).all(1).mean())


def main():
    from lifecycle import options, ship

    chosen = options(__doc__, steps=700)
    model = build()
    print(f"trained   {train(model, chosen.steps):.1%} of 200 new sequences are copied without an error")
    source, given = batch(np.random.default_rng(4), 3)

    def ask(call):
        copied = copy(lambda s, w: next(iter(call(source=s, written=w).values())), source)
        for row, answer in zip(source, copied):
            print(f"copied    {row} as {answer}")

    ship("copier", model, (source, given), chosen.keep, ask)


if __name__ == "__main__":
    main()
