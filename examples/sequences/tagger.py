"""A tagger: a bidirectional LSTM says what each word of a sentence is, where some words can be two things.

    python examples/sequences/tagger.py [--steps N]

The sentences are made from a small grammar. "Can", "saw", "duck" and others are nouns in some places and verbs in others:
only their neighbours tell. Train on 2,000 sentences, test on 400; then pack, export, serve, and tag a sentence remotely.
"""

import numpy as np

import headrace as torch
import headrace.nn as nn
import headrace.optim as optim
from headrace.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

TAGS = ["determiner", "adjective", "noun", "verb", "preposition"]
WORDS = {
    "determiner": ["the", "a", "every", "no"],
    "adjective": ["old", "green", "quiet", "light", "round"],
    "noun": ["cook", "river", "saw", "duck", "can", "mill", "light", "hand", "round"],
    "verb": ["sees", "saw", "can", "duck", "hand", "light", "finds", "cook"],
    "preposition": ["near", "with", "round", "under"],
}
VOCABULARY = ["<pad>", *sorted({word for words in WORDS.values() for word in words})]
NOTHING = -100  # the label of padding: CrossEntropyLoss leaves it out


def sentence(rng):
    """The tags of one sentence: someone does something to something, perhaps somewhere."""

    def thing():
        return ["determiner", *["adjective"] * rng.integers(0, 3), "noun"]

    return thing() + ["verb"] + thing() + (["preposition"] + thing() if rng.random() < 0.5 else [])


def sentences(count, seed):
    """Words and tags [count, longest], padded, and the lengths [count]."""
    rng = np.random.default_rng(seed)
    rows = [sentence(rng) for _ in range(count)]
    lengths = np.array([len(row) for row in rows])
    words = np.zeros((count, lengths.max()), np.int64)
    tags = np.full((count, lengths.max()), NOTHING, np.int64)
    for i, row in enumerate(rows):
        tags[i, : len(row)] = [TAGS.index(tag) for tag in row]
        words[i, : len(row)] = [VOCABULARY.index(rng.choice(WORDS[tag])) for tag in row]
    return words, tags, lengths


class Tagger(nn.Module):
    def __init__(self, cell="LSTM"):
        super().__init__()
        self.embed = nn.Embedding(len(VOCABULARY), 16, padding_idx=0)
        self.read = getattr(nn, cell)(16, 24, batch_first=True, bidirectional=True)
        self.judge = nn.Linear(48, len(TAGS))

    def forward(self, words, lengths=None):
        """Scores [batch, length, tags]. With lengths, what lies behind a sentence's end is not read."""
        x = self.embed(words)
        if lengths is None:
            x, _ = self.read(x)
        else:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            x, _ = pad_packed_sequence(self.read(packed)[0], batch_first=True, total_length=words.shape[1])
        return self.judge(x)


def build(cell="LSTM", seed=0):
    torch.manual_seed(seed)
    return Tagger(cell)


def train(model, steps=150):
    """Train on random batches; answers the share of words tagged right in sentences that were not trained on."""
    words, tags, lengths = sentences(2000, seed=1)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of = nn.CrossEntropyLoss(ignore_index=NOTHING)
    rng = np.random.default_rng(2)
    model.train()
    for _ in range(steps):
        rows = rng.choice(len(words), 64, replace=False)
        longest = lengths[rows].max()
        optimizer.zero_grad()
        scores = model(torch.from_numpy(words[rows, :longest]), torch.from_numpy(lengths[rows]))
        loss = loss_of(scores.transpose(1, 2), torch.from_numpy(tags[rows, :longest]))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return accuracy(model)


def accuracy(model):
    words, tags, lengths = sentences(400, seed=3)
    model.eval()
    with torch.no_grad():
        guesses = model(torch.from_numpy(words), torch.from_numpy(lengths)).numpy().argmax(-1)
    return float((guesses == tags)[tags != NOTHING].mean())


def by_word():
    """The accuracy of giving each word the tag it has most often."""
    words, tags, _ = sentences(2000, seed=1)
    counts = np.zeros((len(VOCABULARY), len(TAGS)))
    np.add.at(counts, (words[tags != NOTHING], tags[tags != NOTHING]), 1)
    words, tags, _ = sentences(400, seed=3)
    return float((counts.argmax(1)[words] == tags)[tags != NOTHING].mean())


def main():
    from lifecycle import options, ship

    chosen = options(__doc__, steps=150)
    model = build()
    right = train(model, chosen.steps)
    print(
        f"trained   {right:.2%} of the words of 400 new sentences are tagged right ({by_word():.2%} by the word alone)"
    )
    text = "no duck can saw the old saw with a light light"
    words = np.array([[VOCABULARY.index(word) for word in text.split()]])

    def tag(call):
        scores = call(words=words)
        guesses = next(iter(scores.values()))[0].argmax(-1)
        print("tagged    " + " ".join(f"{w}/{TAGS[g]}" for w, g in zip(text.split(), guesses)))

    # Without lengths a request is one sentence (or several of one length), of any length.
    ship("tagger", model, (words,), chosen.keep, tag, dynamic={"words": {1: "length"}})


if __name__ == "__main__":
    main()
