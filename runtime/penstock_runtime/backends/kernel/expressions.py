"""The little language in which a configuration says sizes: whole numbers, + - * // %, parentheses,
min, max, ceil_div, and names with `.size`, `.rows` and `.shape[i]`.

    ceil_div(X.size, 256)        X.shape[1] * 4        min(batch, 64)

Text becomes a tree when a model is loaded, and numbers when a batch is launched; nothing is ever
executed as Python. What it cannot say is refused with the place where it went wrong.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]
Value = Callable[[Shapes], int]
"""A number, by the shapes of tensors."""

LONGEST = 512
DEEPEST = 32
# Numbers stay those of a machine: nobody computes for minutes.
_LIMIT = 2**63 - 1
_TOKEN = re.compile(r"\s*(?:(\d{1,18})(?![\w])|([A-Za-z_]\w*)|(//|[-+*%()\[\],.]))")


class Misspelt(ValueError):
    """An expression that cannot be read, or has no value for these shapes."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(text: str, names: Sequence[str]) -> Value:
    """The expression as a function of the shapes of the tensors of these names. Misspelt."""
    reader = _Reader(text, names)
    value = reader.sum()
    reader.end()
    return value


def parse_list(text: str, names: Sequence[str]) -> list[Value]:
    """Expressions separated by commas."""
    reader = _Reader(text, names)
    values = [reader.sum()]
    while reader.accept(","):
        values.append(reader.sum())
    reader.end()
    return values


def _tokens(text: str) -> list[_Token]:
    if len(text) > LONGEST:
        raise Misspelt(f"has {len(text)} characters, expected at most {LONGEST}")
    found, at, stripped = [], 0, text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None:
            raise Misspelt(f"cannot be read at {stripped[at:].strip()[:16]!r}")
        kind = ("number", "name", "sign")[(match.lastindex or 0) - 1]
        found.append(_Token(kind, match[match.lastindex or 0], match.end()))
        at = match.end()
    return [*found, _Token("end", "its end", at)]


class _Reader:
    """Reads from left to right, one rule a method."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self._tokens = _tokens(text)
        self._names = names
        self._at = 0
        self._depth = 0

    def sum(self) -> Value:
        """product (+ or - product)..."""
        value = self._product()
        while sign := self._accept_any("+", "-"):
            value = _binary(sign, value, self._product())
        return value

    def end(self) -> None:
        """Nothing more comes."""
        if self._now.kind != "end":
            raise self._unexpected("the end")

    def accept(self, text: str) -> bool:
        """Whether this comes next; then it is read."""
        return bool(self._accept_any(text))

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._now
        self._at += 1
        return token

    def _accept_any(self, *texts: str) -> str:
        if self._now.kind == "sign" and self._now.text in texts:
            return self._next().text
        return ""

    def _expect(self, text: str) -> None:
        if not self.accept(text):
            raise self._unexpected(f"{text!r}")

    def _unexpected(self, expected: str) -> Misspelt:
        return Misspelt(f"has {self._now.text!r} where {expected} should be")

    def _product(self) -> Value:
        value = self._term()
        while sign := self._accept_any("*", "//", "%"):
            value = _binary(sign, value, self._term())
        return value

    def _term(self) -> Value:
        self._depth += 1
        if self._depth > DEEPEST:
            raise Misspelt(f"is nested deeper than {DEEPEST}")
        token = self._now
        if token.kind == "number":
            value = _constant(int(self._next().text))
        elif token.kind == "name":
            value = self._named(self._next().text)
        elif self.accept("("):
            value = self.sum()
            self._expect(")")
        elif self.accept("-"):
            value = _binary("-", _constant(0), self._term())
        else:
            raise self._unexpected("a number, a name or '('")
        self._depth -= 1
        return value

    def _named(self, name: str) -> Value:
        if name in _FUNCTIONS and name not in self._names:
            return self._call(name)
        if name not in self._names:
            known = ", ".join((*self._names, *_FUNCTIONS))
            raise Misspelt(f"has the name '{name[:32]}', expected one of {known}")
        self._expect(".")
        return self._property(name, self._next())

    def _property(self, name: str, token: _Token) -> Value:
        if token.text == "size":
            return lambda shapes: _checked(_product_of(shapes[name]))
        if token.text == "rows":
            return lambda shapes: _dimension(name, shapes[name], 0)
        if token.text != "shape":
            raise Misspelt(f"has '{name}.{token.text[:16]}', expected .size, .rows or .shape[i]")
        self._expect("[")
        index = self._next()
        if index.kind != "number":
            raise Misspelt(
                f"has '{index.text[:16]}' as an index of {name}.shape, expected a number"
            )
        self._expect("]")
        axis = int(index.text)
        return lambda shapes: _dimension(name, shapes[name], axis)

    def _call(self, name: str) -> Value:
        self._expect("(")
        first = self.sum()
        self._expect(",")
        second = self.sum()
        self._expect(")")
        return _binary(name, first, second)


def _divide(a: int, b: int) -> int:
    if b == 0:
        raise Misspelt("divides by 0")
    return a // b


def _remainder(a: int, b: int) -> int:
    return a - _divide(a, b) * b


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": _divide,
    "%": _remainder,
}
_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "min": min,
    "max": max,
    "ceil_div": lambda a, b: -_divide(-a, b),
}


def _binary(sign: str, first: Value, second: Value) -> Value:
    operation = _OPERATIONS.get(sign) or _FUNCTIONS[sign]
    return lambda shapes: _checked(operation(first(shapes), second(shapes)))


def _constant(number: int) -> Value:
    return lambda _shapes: number


def _product_of(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _dimension(name: str, shape: Sequence[int], axis: int) -> int:
    if axis >= len(shape):
        raise Misspelt(f"asks for dimension {axis} of '{name}', which has {len(shape)}")
    return shape[axis]


def _checked(number: int) -> int:
    if not -_LIMIT <= number <= _LIMIT:
        raise Misspelt("has a value that no 64 bits hold")
    return number
