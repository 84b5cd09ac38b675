"""The last words of an error: what the caller most likely meant. Pure text; nothing here decides whether it is an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SHOWN = 12  # names that a list in an error shows


def nearest(name: str, known: Iterable[str]) -> str:
    """For a name that does not exist: the nearest one that does, or the first few."""
    import difflib  # loads do without

    names = list(known)
    if near := difflib.get_close_matches(name, names, n=1) or [one for one in names if one.lower() == name.lower()]:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
    return f"known are {shown}" if names else "there are none"


def shape_hint(given: Sequence[int], wanted: Sequence[object]) -> str:
    """How an array of shape `given` could become one of shape `wanted` (anything but an int is a free dimension).

    "; ..." for a missing batch dimension, or an image in the other order of axes; "" where neither helps.
    """
    given, wanted = tuple(given), tuple(wanted)
    batched = len(given) + 1 == len(wanted) and wanted[:1] != (0,)
    whole = (1, *given) if batched else given
    if len(whole) != len(wanted):
        return ""
    add = f"add the batch dimension, shape {list(whole)} (NumPy: x[None])"
    if batched and _fits(whole, wanted):
        return f"; {add}"
    rank = len(whole)
    if rank < 3:
        return ""
    orders = {
        "channels come first here": (0, rank - 1, *range(1, rank - 1)),
        "channels come last here": (0, *range(2, rank), 1),
    }
    for words, order in orders.items():
        if _fits([whole[axis] for axis in order], wanted):
            start = "x[None]" if batched else "x"
            return f"; {words}: transpose it (NumPy: {start}.transpose{order})"
    return ""


def _fits(given: Sequence[int], wanted: Sequence[object]) -> bool:
    return all(not isinstance(want, int) or want == size for size, want in zip(given, wanted))
