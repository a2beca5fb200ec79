"""Sums over shards in an order that nothing but the number of shards fixes.

The nodes of a binary tree over shards ``first, ..., last - 1`` are ranges; one of several shards is the sum of its two
halves, of which the left one holds the largest power of two that leaves something to the right:

    sum(first, last) = sum(first, middle) + sum(middle, last).

Floating-point addition commutes and does not associate: so the tree has to be the same, and it does not matter who adds
which of its nodes up. Somebody who holds the shards of a range hands over the few largest nodes inside it
(`largest_nodes`), and the rest of the tree is added elsewhere, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

from kpref._types import Array

__all__ = ["Node", "largest_nodes", "tree_sum"]

#: The shards ``first, ..., last - 1``.
Node = tuple[int, int]


def tree_sum(node: Node, known: Callable[[Node], Array | None]) -> Array:
    """The sum over the shards of a node.

    `known`: the value of a node, or None for one that is to be added up from its halves; it knows single shards. Shards
    are asked for in their order, and as many sums as the tree has levels are held at a time.
    """
    value = known(node)
    if value is not None:
        return value
    left, right = _halves(node)
    return tree_sum(left, known) + tree_sum(right, known)


def largest_nodes(node: Node, held: Node) -> list[Node]:
    """The largest nodes below `node` that lie within the shards `held`, in order: two for each level at most."""
    first, last = max(node[0], held[0]), min(node[1], held[1])
    if first >= last:
        return []
    if (first, last) == node:
        return [node]
    left, right = _halves(node)
    return largest_nodes(left, held) + largest_nodes(right, held)


def _halves(node: Node) -> tuple[Node, Node]:
    first, last = node
    middle = first + (1 << ((last - first - 1).bit_length() - 1))
    return (first, middle), (middle, last)
