"""The object graph inside a TF2 object-based checkpoint.

Facts: tensorflow/core/protobuf/trackable_object_graph.proto. A node has children (1: node id, local name) and
attributes (2: name, full name of the variable, key in the checkpoint); node 0 is the saved object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from porting.checkpoint.wire import damaged, fields, integer, message, text

MAX_NODES = 500_000


@dataclass
class ObjectGraph:
    """`children[node][local name]` is a node; `full_names[checkpoint key]` a variable's name when it was
    saved.
    """

    children: list[dict[str, int]] = field(default_factory=list)
    full_names: dict[str, str] = field(default_factory=dict)

    def child_names(self, path: str) -> list[str] | None:
        """Names below the object at `path` ("a/b/0"; "" is the root), None where there is no such object."""
        node = 0
        for name in filter(None, path.split("/")):
            if node >= len(self.children) or name not in self.children[node]:
                return None
            node = self.children[node][name]
        return list(self.children[node]) if node < len(self.children) else None


def parse_object_graph(content: bytes, where: str) -> ObjectGraph:
    """The graph in the bytes of `_CHECKPOINTABLE_OBJECT_GRAPH`.

    Raises:
        InputError: not a graph, more than `MAX_NODES` nodes, or a child that is not a node.
    """
    graph = ObjectGraph()
    for number, kind, value in fields(content, where):
        if number == 1:
            if len(graph.children) >= MAX_NODES:
                raise damaged(where, f"at most {MAX_NODES} objects", "more")
            graph.children.append(_parse_node(message(kind, value, where), graph.full_names, where))
    for children in graph.children:
        for name, node in children.items():
            if not 0 <= node < len(graph.children):
                raise damaged(where, f"one of {len(graph.children)} objects as {name!r}", f"number {node}")
    return graph


def _parse_node(content: bytes, full_names: dict[str, str], where: str) -> dict[str, int]:
    children: dict[str, int] = {}
    for number, kind, value in fields(content, where):
        if number == 1:
            node, name = 0, ""
            for inner, inner_kind, inner_value in fields(message(kind, value, where), where):
                if inner == 1:
                    node = integer(inner_kind, inner_value, where)
                elif inner == 2:
                    name = text(inner_kind, inner_value, where)
            children.setdefault(name, node)
        elif number == 2:
            strings = {2: "", 3: ""}
            for inner, inner_kind, inner_value in fields(message(kind, value, where), where):
                if inner in strings:
                    strings[inner] = text(inner_kind, inner_value, where)
            if strings[2] and strings[3]:
                full_names[strings[3]] = strings[2]
    return children


def unescape(local_name: str) -> str:
    """A local name as it was before it became a part of a checkpoint key (".S" for a slash, ".." for a
    dot).
    """
    return re.sub(r"\.(.)", lambda match: "/" if match[1] == "S" else match[1], local_name)
