"""Symbolic dimensions: polynomials over names, with floor division, modulo, minimum and maximum.

A `Dim` is an `int` or an `Expr`. An `Expr` is kept in canonical form (a sum of monomials with integer coefficients), so
two dimensions that are equal as polynomials compare equal. All names stand for integers from 0 to LIMIT (larger ones are
refused when a model runs). What cannot be proven is answered "unknown" (None), never guessed.

    n = symbol("n");  (n + 2) * 2 - 4 == 2 * n;  str((n + 1) // 2) == "(n + 1)//2";  parse("2*n") == n * 2
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping

# No dimension is larger: exporters write 10**9 for "to the end".
LIMIT = 10**9
Operation = tuple[str, "Dim", "Dim"]  # ("//" or "%" or "min" or "max", left, right)
Atom = str | Operation  # a symbol, or an operation that no polynomial expresses
Monomial = tuple[tuple[Atom, int], ...]  # ((atom, power), ...), sorted by text


class Expr:
    """A canonical polynomial that is not a plain integer. Immutable and hashable."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(
            sorted(((m, c) for m, c in terms.items() if c), key=_order)
        )
        self._hash = hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __add__(self, other: Dim) -> Dim:
        total = dict(self.terms)
        for monomial, coefficient in _terms(other):
            total[monomial] = total.get(monomial, 0) + coefficient
        return _normal(total)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _normal({m: -c for m, c in self.terms})

    def __sub__(self, other: Dim) -> Dim:
        return self + -other

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            return self if other == 1 else _normal({monomial: other * c for monomial, c in self.terms})
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                powers = dict(left)
                for atom, power in right:
                    powers[atom] = powers.get(atom, 0) + power
                monomial = tuple(sorted(powers.items(), key=lambda item: _atom_text(item[0])))
                total[monomial] = total.get(monomial, 0) + a * b
        return _normal(total)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return modulo(self, other)

    def __repr__(self) -> str:
        parts: list[str] = []
        for monomial, coefficient in self.terms:
            factors = [_atom_text(atom) + (f"**{power}" if power > 1 else "") for atom, power in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            text = "*".join(factors)
            if parts:
                parts.append((" - " if coefficient < 0 else " + ") + text)
            else:
                parts.append(("-" if coefficient < 0 else "") + text)
        return "".join(parts)

    @property
    def name(self) -> str | None:
        """The name, where the expression is one bare symbol."""
        if len(self.terms) == 1:
            monomial, coefficient = self.terms[0]
            if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1 and isinstance(monomial[0][0], str):
                return monomial[0][0]
        return None


Dim = int | Expr
Shape = tuple[Dim, ...]


def _order(item: tuple[Monomial, int]) -> tuple[bool, int, list[tuple[str, int]]]:
    """Higher powers first, then by text; no two monomials are alike, so the order of a polynomial's terms is one."""
    monomial, _ = item
    return (
        not monomial,
        -sum(power for _, power in monomial),
        [(_atom_text(atom), -power) for atom, power in monomial],
    )


def _atom_text(atom: Atom) -> str:
    if isinstance(atom, str):
        return atom
    kind, left, right = atom
    if kind in ("min", "max"):
        return f"{kind}({dim_text(left)}, {dim_text(right)})"
    return f"({_wrapped(left)}{kind}{_wrapped(right)})"


def _wrapped(dim: Dim) -> str:
    """The text of an operand of // or %."""
    return f"({dim_text(dim)})" if isinstance(dim, Expr) and dim.name is None else dim_text(dim)


def _terms(dim: Dim) -> Iterable[tuple[Monomial, int]]:
    return dim.terms if isinstance(dim, Expr) else (((), dim),)


def _normal(terms: Mapping[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Expr(kept)


def symbol(name: str) -> Expr:
    """The dimension called `name` (a Python identifier or any text without operators and spaces)."""
    return Expr({((name, 1),): 1})


def _atom(kind: str, left: Dim, right: Dim) -> Expr:
    return Expr({(((kind, left, right), 1),): 1})


def floordiv(left: Dim, right: Dim) -> Dim:
    """left // right; exact where every coefficient divides, split where the divisible part can be taken out."""
    if isinstance(right, int):
        if right == 0:
            raise ZeroDivisionError("a dimension is divided by 0")
        if right == 1:
            return left
        if isinstance(left, int):
            return left // right
        inner = _sole_quotient(left)
        if inner is not None and right > 0:  # (x // a) // b == x // (a * b)
            return floordiv(inner[0], inner[1] * right)
        whole = {m: c // right for m, c in left.terms if c % right == 0}
        rest = _normal({m: c for m, c in left.terms if c % right})
        if isinstance(rest, int):
            return _normal(whole) + rest // right
        return _normal(whole) + _atom("//", rest, right)
    if left == right:
        return 1
    quotient = _exact_quotient(left, right)
    return _atom("//", left, right) if quotient is None else quotient


def _sole_quotient(dim: Expr) -> tuple[Dim, int] | None:
    """(x, a) where the dimension is x // a with a > 0, and nothing else."""
    if len(dim.terms) != 1 or dim.terms[0][1] != 1 or len(dim.terms[0][0]) != 1:
        return None
    ((atom, power),) = dim.terms[0][0]
    if power != 1 or not isinstance(atom, tuple) or atom[0] != "//" or not isinstance(atom[2], int) or atom[2] <= 0:
        return None
    return atom[1], atom[2]


def _exact_quotient(left: Dim, right: Expr) -> Dim | None:
    """left / right where right is one monomial that divides every term of left."""
    if left == 0:
        return 0
    if len(right.terms) != 1 or isinstance(left, int):
        return None
    divisor, factor = right.terms[0]
    total: dict[Monomial, int] = {}
    for monomial, coefficient in left.terms:
        powers = dict(monomial)
        for atom, power in divisor:
            if powers.get(atom, 0) < power:
                return None
            powers[atom] -= power
        if coefficient % factor:
            return None
        total[tuple((a, powers[a]) for a, _ in monomial if powers[a])] = coefficient // factor
    return _normal(total)


def modulo(left: Dim, right: Dim) -> Dim:
    """left % right, 0 where right divides left for certain."""
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    quotient = floordiv(left, right)
    if not any(isinstance(atom, tuple) and atom[0] == "//" for m, _ in _terms(quotient) for atom, _ in m):
        remainder = left - quotient * right
        if isinstance(remainder, int):
            return remainder
    return _atom("%", left, right)


def minimum(left: Dim, right: Dim) -> Dim:
    """The smaller of two dimensions, decided where the difference has a known sign."""
    if isinstance(left, int) and isinstance(right, int):
        return min(left, right)
    low, high = bounds(left - right)
    if high <= 0:
        return left
    return right if low >= 0 else _atom("min", *sorted((left, right), key=dim_text))


def maximum(left: Dim, right: Dim) -> Dim:
    """The larger of two dimensions, decided where the difference has a known sign."""
    if isinstance(left, int) and isinstance(right, int):
        return max(left, right)
    low, high = bounds(left - right)
    if low >= 0:
        return left
    return right if high <= 0 else _atom("max", *sorted((left, right), key=dim_text))


def bounds(dim: Dim) -> tuple[float, float]:
    """The least and the largest value that `dim` can have (infinite where there is no bound), given that every symbol is
    between 0 and LIMIT."""
    if isinstance(dim, int):
        return dim, dim
    low = high = 0.0
    for monomial, coefficient in dim.terms:
        a, b = 1.0, 1.0
        for atom, power in monomial:
            for _ in range(power):
                ends = [x * y if x and y else 0.0 for x in (a, b) for y in _atom_bounds(atom)]
                a, b = min(ends), max(ends)
        low += min(coefficient * a, coefficient * b)
        high += max(coefficient * a, coefficient * b)
    return low, high


def _atom_bounds(atom: Atom) -> tuple[float, float]:
    if isinstance(atom, str):
        return 0.0, LIMIT
    kind, left, right = atom
    (a, b), (c, d) = bounds(left), bounds(right)
    match kind:
        case "min":
            return min(a, c), min(b, d)
        case "max":
            return max(a, c), max(b, d)
        case "%":
            return (0.0, d - 1) if c > 0 else (-math.inf, math.inf)
    if c <= 0 or math.isinf(d):
        return (0.0, max(b, 0.0)) if a >= 0 and c > 0 else (-math.inf, math.inf)
    ends = [x // y if math.isfinite(x) else x for x in (a, b) for y in (c, d)]
    return min(ends), max(ends)


def compare(left: Dim, right: Dim) -> int | None:
    """-1, 0 or 1 where left < = > right is certain; None where it is not."""
    low, high = bounds(left - right)
    if low > 0 or high < 0:
        return 1 if low > 0 else -1
    return 0 if low == high == 0 else None


def equal(left: Dim, right: Dim) -> bool | None:
    """True or False where certain, None where it must be checked at run time."""
    if left == right:
        return True
    return False if isinstance(left, int) and isinstance(right, int) else (False if compare(left, right) else None)


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """`dim` with each named symbol replaced by its value; names without a value stay."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        product: Dim = coefficient
        for atom, power in monomial:
            if isinstance(atom, str):
                factor: Dim = values.get(atom, symbol(atom))
            else:
                kind, left, right = atom
                factor = _APPLY[kind](substitute(left, values), substitute(right, values))
            for _ in range(power):
                product = product * factor
        total = total + product
    return total


_APPLY = {"//": floordiv, "%": modulo, "min": minimum, "max": maximum}


def symbols(dim: Dim) -> frozenset[str]:
    """The names that occur in `dim`."""
    if isinstance(dim, int):
        return frozenset()
    found: set[str] = set()
    for monomial, _ in dim.terms:
        for atom, _ in monomial:
            if isinstance(atom, str):
                found.add(atom)
            else:
                found |= symbols(atom[1]) | symbols(atom[2])
    return frozenset(found)


def product(shape: Iterable[Dim]) -> Dim:
    """The number of elements of a shape."""
    sizes = tuple(shape)
    total: Dim = math.prod(dim for dim in sizes if isinstance(dim, int))  # quickly; most are
    for dim in sizes:
        if not isinstance(dim, int):
            total = total * dim
    return total


def dim_text(dim: Dim) -> str:
    """The text that `parse` reads back."""
    return str(dim)


def parse(text: str, limit: int = 4096) -> Dim:
    """Read a dimension's text. Raises ValueError for anything but names, integers, + - * // % ** min max."""
    if len(text) > limit:
        raise ValueError(f"a dimension's text has {len(text)} characters; allowed are {limit}")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a dimension: {text[:80]!r}") from error
    return _read(tree, text, 0)


def _read(tree: ast.expr, text: str, depth: int) -> Dim:
    if depth > 64:
        raise ValueError("a dimension is nested more than 64 deep")

    def read(node: ast.expr) -> Dim:
        return _read(node, text, depth + 1)

    match tree:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -read(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as power)) if 0 <= power <= 16:
            return product([read(left)] * power)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = read(left), read(right)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.FloorDiv():
                    return floordiv(a, b)
                case ast.Mod():
                    return modulo(a, b)
        case ast.Call(func=ast.Name(id="min" | "max" as kind), args=[left, right], keywords=[]):
            return _APPLY[kind](read(left), read(right))
    raise ValueError(f"not a dimension: {text[:80]!r}")


def broadcast(left: Shape, right: Shape) -> Shape:
    """NumPy's broadcast of two shapes. A symbol beside 1 is the symbol; beside another integer k > 1 it is k (checked
    at run time); two symbols that are not provably equal become their maximum (checked at run time).

    Raises ValueError naming the dimensions that cannot be broadcast.
    """
    rank = max(len(left), len(right))
    a, b = (1,) * (rank - len(left)) + tuple(left), (1,) * (rank - len(right)) + tuple(right)
    out: list[Dim] = []
    for x, y in zip(a, b):
        if x == 1:
            out.append(y)
        elif y == 1 or x == y:
            out.append(x)
        elif isinstance(x, int) and isinstance(y, int):
            raise ValueError(f"shapes {shape_text(left)} and {shape_text(right)} cannot be broadcast: {x} against {y}")
        elif isinstance(x, int):
            out.append(x)
        elif isinstance(y, int):
            out.append(y)
        else:
            out.append(maximum(x, y))
    return tuple(out)


def shape_text(shape: Iterable[Dim]) -> str:
    return "[" + ", ".join(map(dim_text, shape)) + "]"
