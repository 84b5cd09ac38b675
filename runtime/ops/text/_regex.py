"""Regular expressions in linear time: an automaton that is in all its states at once, so no text makes it slow.

`re` parses; what needs going back (references, looking around, atomic groups) is refused, as RE2 refuses it. As there,
\\w, \\d, \\s and \\b know ASCII only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

PATTERN_LIMIT = 4096  # characters
STATE_LIMIT = 20_000  # states after repeats are written out

Test = Callable[[str], bool]
_WORD = re.compile(r"\w", re.ASCII)
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


class Regex:
    """States in a list. A state is ("char", test, next), ("split", [next, ...]), ("at", kind, next) or ("end",)."""

    def __init__(self, pattern: str) -> None:
        self.states: list[tuple[Any, ...]] = [("end",)]
        parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
        self.flags = parsed.state.flags
        self.start = self._sequence(parsed, 0)

    def _add(self, *state: Any) -> int:
        if len(self.states) >= STATE_LIMIT:
            raise ValueError(f"the pattern needs more than {STATE_LIMIT} states")
        self.states.append(state)
        return len(self.states) - 1

    def _sequence(self, items: Any, then: int) -> int:
        for operation, argument in reversed(list(items)):
            then = self._item(str(operation), argument, then)
        return then

    def _item(self, operation: str, argument: Any, then: int) -> int:
        match operation:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN" | "CATEGORY":
                return self._add("char", self._test(operation, argument), then)
            case "BRANCH":
                return self._add("split", [self._sequence(branch, then) for branch in argument[1]])
            case "SUBPATTERN":
                if argument[1] or argument[2]:
                    raise ValueError("flags inside a pattern are not supported")
                return self._sequence(argument[3], then)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = argument
                return self._repeat(least, most, inner, then)
            case "AT":
                return self._add("at", str(argument), then)
        raise ValueError(f"{operation.lower()} is not supported: it cannot be matched in linear time")

    def _repeat(self, least: int, most: Any, inner: Any, then: int) -> int:
        if str(most) == "MAXREPEAT":
            loop = self._add("split", [])
            self.states[loop][1].extend([self._sequence(inner, loop), then])
            then = loop
        else:
            after = then
            for _ in range(int(most) - least):
                then = self._add("split", [self._sequence(inner, then), after])
        for _ in range(least):
            then = self._sequence(inner, then)
        return then

    def _test(self, operation: str, argument: Any) -> Test:
        fold = bool(self.flags & re.IGNORECASE)
        match operation:
            case "ANY":
                return (lambda char: True) if self.flags & re.DOTALL else (lambda char: char != "\n")
            case "LITERAL":
                wanted = {chr(argument), chr(argument).lower(), chr(argument).upper()} if fold else {chr(argument)}
                return lambda char: char in wanted
            case "NOT_LITERAL":
                inner = self._test("LITERAL", argument)
                return lambda char: not inner(char)
            case "CATEGORY":
                category = re.compile(_CATEGORIES[str(argument)], re.ASCII)
                return lambda char: category.match(char) is not None
            case "RANGE":
                low, high = argument
                spellings = (lambda c: (c, c.lower(), c.upper())) if fold else (lambda c: (c,))
                return lambda char: any(low <= ord(c) <= high for c in spellings(char) if len(c) == 1)
        return self._set(argument)

    def _set(self, items: Sequence[Any]) -> Test:
        negated = bool(items) and str(items[0][0]) == "NEGATE"
        tests = [self._test(str(operation), argument) for operation, argument in items[negated:]]
        return lambda char: any(test(char) for test in tests) != negated

    def fullmatch(self, text: str) -> bool:
        """Whether the whole text matches: time proportional to its length times the number of states."""
        current = self._closure({self.start}, text, 0)
        for place, char in enumerate(text):
            after = {self.states[i][2] for i in current if self.states[i][0] == "char" and self.states[i][1](char)}
            if not after:
                return False
            current = self._closure(after, text, place + 1)
        return 0 in current

    def search(self, text: str, start: int = 0) -> tuple[int, int] | None:
        """Where the leftmost match from `start` on begins and ends, the longest of those that begin there.

        Each state remembers the earliest beginning among the ways into it, so one walk over the text is enough.
        """
        found: tuple[int, int] | None = None
        current: dict[int, int] = {}
        for place in range(start, len(text) + 1):
            if found is None:
                for state in self._closure({self.start}, text, place):
                    current.setdefault(state, place)  # later than every beginning that is there
            if 0 in current and (found is None or current[0] <= found[0]):
                found = (current[0], place)
            if place == len(text) or (found and not current):
                break
            after: dict[int, int] = {}
            for state, begin in sorted(current.items(), key=lambda item: item[1]):
                kind, *rest = self.states[state]
                if kind == "char" and (found is None or begin <= found[0]) and rest[0](text[place]):
                    after.setdefault(rest[1], begin)
            current = {}
            for state, begin in after.items():  # earliest beginnings first
                for reached in self._closure({state}, text, place + 1):
                    current.setdefault(reached, begin)
        return found

    def _closure(self, states: set[int], text: str, place: int) -> set[int]:
        """All states that are reached without reading."""
        todo, seen = list(states), set(states)
        while todo:
            state = self.states[todo.pop()]
            if state[0] == "split":
                reached = state[1]
            elif state[0] == "at" and _holds(state[1], text, place, bool(self.flags & re.MULTILINE)):
                reached = [state[2]]
            else:
                continue
            todo += [i for i in reached if i not in seen]
            seen.update(reached)
        return seen


def _holds(kind: str, text: str, place: int, lines: bool) -> bool:
    """Whether an anchor holds at a place."""
    match kind:
        case "AT_BEGINNING" | "AT_BEGINNING_STRING":
            return place == 0 or (lines and kind == "AT_BEGINNING" and text[place - 1] == "\n")
        case "AT_END" | "AT_END_STRING":
            return place == len(text) or (lines and kind == "AT_END" and text[place] == "\n")
    word = [0 <= i < len(text) and _WORD.match(text[i]) is not None for i in (place - 1, place)]
    return (word[0] != word[1]) == (kind == "AT_BOUNDARY")


@lru_cache(maxsize=256)
def compile_regex(pattern: str) -> Regex:
    """The automaton of a pattern. ValueError for what is no pattern, too large, or not possible in linear time."""
    if len(pattern) > PATTERN_LIMIT:
        raise ValueError(f"it has {len(pattern)} characters; allowed are {PATTERN_LIMIT}")
    try:
        return Regex(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
