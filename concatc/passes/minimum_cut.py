"""A minimum cut of a directed graph with capacities, by blocking flows on shortest paths (Dinitz 1970).

graph = FlowGraph(4)                       0 --3--> 1 --1--> 2 --5--> 3
graph.add_edge(0, 1, 3) ..
graph.sink_side(0, 3)                      [False, False, True, True]: the edge of capacity 1 is cut
"""

from __future__ import annotations

from collections import deque


class FlowGraph:
    """Nodes ``0 .. count - 1`` and edges with whole capacities.  Edge ``e`` and its reverse ``e ^ 1`` are stored as a
    pair.
    """

    def __init__(self, count: int) -> None:
        self._edges_of: list[list[int]] = [[] for _ in range(count)]
        self._head: list[int] = []
        self._left: list[int] = []  # capacity that is not used

    def add_node(self) -> int:
        """One more node."""
        self._edges_of.append([])
        return len(self._edges_of) - 1

    def add_edge(self, tail: int, head: int, capacity: int) -> None:
        """An edge of this capacity, at least 0."""
        for node, other, left in ((tail, head, capacity), (head, tail, 0)):
            self._edges_of[node].append(len(self._head))
            self._head.append(other)
            self._left.append(left)

    def sink_side(self, source: int, sink: int) -> list[bool]:
        """For each node whether it lies on the sink's side of a minimum cut; of all minimum cuts, the one with the
        fewest such nodes.  Uses the capacities up.
        """
        while (level := self._levels(source, sink)) is not None:
            self._block(level, source, sink)
        side = [False] * len(self._edges_of)
        side[sink] = True
        pending = [sink]
        while pending:
            for edge in self._edges_of[pending.pop()]:
                tail = self._head[edge]
                if not side[tail] and self._left[edge ^ 1] > 0:
                    side[tail] = True
                    pending.append(tail)
        return side

    def _levels(self, source: int, sink: int) -> list[int] | None:
        """The distance of each node from the source over edges with capacity left; None where the sink has none."""
        level = [-1] * len(self._edges_of)
        level[source] = 0
        pending = deque([source])
        while pending:
            node = pending.popleft()
            for edge in self._edges_of[node]:
                head = self._head[edge]
                if self._left[edge] > 0 and level[head] < 0:
                    level[head] = level[node] + 1
                    pending.append(head)
        return level if level[sink] >= 0 else None

    def _block(self, level: list[int], source: int, sink: int) -> None:
        """Push flow along shortest paths until each of them is blocked."""
        next_edge = [0] * len(self._edges_of)
        path: list[int] = []
        node = source
        while True:
            if node == sink:
                flow = min(self._left[edge] for edge in path)
                for edge in path:
                    self._left[edge] -= flow
                    self._left[edge ^ 1] += flow
                first_full = next(k for k, edge in enumerate(path) if self._left[edge] == 0)
                node = self._head[path[first_full] ^ 1]
                del path[first_full:]
                continue
            step = self._usable(node, level, next_edge)
            if step is not None:
                path.append(step)
                node = self._head[step]
                continue
            if not path:
                return
            node = self._head[path.pop() ^ 1]
            next_edge[node] += 1

    def _usable(self, node: int, level: list[int], next_edge: list[int]) -> int | None:
        edges = self._edges_of[node]
        while next_edge[node] < len(edges):
            edge = edges[next_edge[node]]
            if self._left[edge] > 0 and level[self._head[edge]] == level[node] + 1:
                return edge
            next_edge[node] += 1
        return None
