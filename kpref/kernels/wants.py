"""What products ask for while they multiply: pieces of memory that operations after them want.

What lies between two products reads coefficients and tensors far faster than memory brings them, and a processor keeps
only a few dozen requests under way: asked for all at once, they come no sooner. So their places go on a list, and
products ask for them (`kpref.kernels.panel_products`), some bytes further on in each pass of their inner loop, in which
a request costs nothing, evenly over all their passes. Memory then works while the processor multiplies, and most of
what is wanted is in the second cache when its turn comes.

A list is a table of integers: see `_ASKED` and what follows. A piece is 16 lines of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import ask_for, set_word, word

__all__ = [
    "LINE", "Asking", "ask_for_rest", "ask_for_share", "no_wants", "pieces_of", "room_for_wants", "spread", "want",
]  # fmt: skip

#: Bytes of a line of the cache, and of a piece of memory.
LINE, _PIECE = 64, 1024
#: Places of a list: pieces that have been asked for, that are on it, and that there is room for; bytes that have been
#: asked for of the next; bytes for each pass of a loop, and for each term of a sum; and the addresses.
_ASKED, _WANTED, _ROOM, _OFFSET, _STEP, _SHARE, _FIRST = range(7)
_INTEGER = ir.IntType(64)


@kernel
def pieces_of(length):  # type: ignore[no-untyped-def]
    """Pieces that so many bytes are."""
    return -(-length // _PIECE)


@kernel
def room_for_wants(pieces):  # type: ignore[no-untyped-def]
    """Integers that a list of so many pieces takes."""
    return _FIRST + pieces


@kernel
def no_wants(wants, pieces):  # type: ignore[no-untyped-def]
    """Begin an empty list with room for so many pieces."""
    set_word(wants, _ASKED, 0)
    set_word(wants, _WANTED, 0)
    set_word(wants, _OFFSET, 0)
    set_word(wants, _ROOM, pieces)
    set_word(wants, _STEP, LINE)
    set_word(wants, _SHARE, 0)


@kernel
def spread(wants, passes, terms):  # type: ignore[no-untyped-def]
    """Have what is on the list asked for evenly over so many passes, and what these leave over so many terms of sums.

    A pass asks for a line of the cache at most.
    """
    wanted = _PIECE * word(wants, _WANTED)
    step = min(wanted // max(1, passes) + 1, LINE)
    set_word(wants, _STEP, step)
    set_word(wants, _SHARE, -(-max(0, wanted - step * passes) // max(1, terms)))


@kernel
def want(wants, address, length):  # type: ignore[no-untyped-def]
    """Put so many bytes from an address on on the list; what there is no room for is left out."""
    room, wanted = word(wants, _ROOM), word(wants, _WANTED)
    for first in range(0, length, _PIECE):
        if wanted < room:
            set_word(wants, _FIRST + wanted, address + first)
            wanted += 1
    set_word(wants, _WANTED, wanted)


@kernel
def ask_for_share(wants, terms):  # type: ignore[no-untyped-def]
    """Ask for what so many terms of sums are to ask for."""
    asked, wanted, offset = word(wants, _ASKED), word(wants, _WANTED), word(wants, _OFFSET)
    left = word(wants, _SHARE) * terms
    while left > 0 and asked < wanted:
        length = min(left, _PIECE - offset)
        ask_for(word(wants, _FIRST + asked) + offset, length)
        left, offset = left - length, offset + length
        if offset == _PIECE:
            asked, offset = asked + 1, 0
    set_word(wants, _ASKED, asked)
    set_word(wants, _OFFSET, offset)


@kernel
def ask_for_rest(wants):  # type: ignore[no-untyped-def]
    """Ask for what products have not asked for; the list is empty then."""
    for piece in range(word(wants, _ASKED), word(wants, _WANTED)):
        ask_for(word(wants, _FIRST + piece), _PIECE)
    set_word(wants, _ASKED, 0)
    set_word(wants, _WANTED, 0)
    set_word(wants, _OFFSET, 0)


def ask_for_line(builder: Any, address: Any) -> None:
    """Code that asks for the line of the cache with an address: to read, into the second cache."""
    integer, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer, integer, integer, integer]), "llvm.prefetch.p0i8"
    )
    how = (ir.Constant(integer, value) for value in (0, 2, 1))
    builder.call(function, [builder.inttoptr(address, pointer), *how])


class Asking:
    """Code that asks for the pieces of a list, some bytes further on in each pass of a loop."""

    def __init__(self, builder: Any, wants: Any, known: Any) -> None:
        """`known`: an address that may be asked for in place of one that is wanted."""
        self.builder, self.wants, self.known = builder, wants, known
        self.first, self.line, self.step, self.left = (cgutils.alloca_once(builder, _INTEGER) for _ in range(4))

    def _place(self, index: Any) -> Any:
        table = self.builder.inttoptr(self.wants, _INTEGER.as_pointer())
        return self.builder.gep(table, [index if isinstance(index, ir.Value) else ir.Constant(_INTEGER, index)])

    def passes(self) -> Any:
        """Passes until the next piece is due."""
        builder = self.builder
        builder.store(self.known, self.line)
        builder.store(ir.Constant(_INTEGER, 0), self.step)
        builder.store(ir.Constant(_INTEGER, 1 << 40), self.left)
        with self._if_any():
            offset, step = (builder.load(self._place(at)) for at in (_OFFSET, _STEP))
            entry = builder.add(builder.load(self._place(_ASKED)), ir.Constant(_INTEGER, _FIRST))
            builder.store(builder.add(builder.load(self._place(entry)), offset), self.line)
            builder.store(step, self.step)
            last = builder.sub(ir.Constant(_INTEGER, _PIECE - 1), offset)
            builder.store(builder.udiv(builder.add(last, step), step), self.left)
        builder.store(builder.load(self.line), self.first)
        return builder.load(self.left)

    def ask(self) -> None:
        """To read, into the second cache."""
        builder = self.builder
        address = builder.load(self.line)
        ask_for_line(builder, address)
        builder.store(builder.add(address, builder.load(self.step)), self.line)

    def move_on(self) -> None:
        """After these passes, or fewer."""
        builder = self.builder
        with self._if_any():
            asked, offset = (builder.load(self._place(at)) for at in (_ASKED, _OFFSET))
            offset = builder.add(offset, builder.sub(builder.load(self.line), builder.load(self.first)))
            done = builder.icmp_signed(">=", offset, ir.Constant(_INTEGER, _PIECE))
            builder.store(builder.add(asked, builder.zext(done, _INTEGER)), self._place(_ASKED))
            builder.store(builder.select(done, ir.Constant(_INTEGER, 0), offset), self._place(_OFFSET))

    @contextmanager
    def _if_any(self) -> Iterator[None]:
        builder = self.builder
        with builder.if_then(builder.icmp_unsigned("!=", self.wants, ir.Constant(_INTEGER, 0))):
            asked, wanted = (builder.load(self._place(at)) for at in (_ASKED, _WANTED))
            with builder.if_then(builder.icmp_signed("<", asked, wanted)):
                yield
