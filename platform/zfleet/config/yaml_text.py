"""Reading YAML as plain data: no key is given twice in a mapping, and aliases do not multiply what is read."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from zfleet.errors import SpecError

MOST_VALUES = 100_000
"""A text of a few lines can hold billions of values through aliases of aliases; an error would print them all."""


def read_yaml(text: str, source: str) -> Any:
    """Plain data of one YAML document: mappings, lists, texts, numbers, dates.

    Args:
        text: The document.
        source: What errors call it.

    Raises:
        SpecError: It is no YAML; a key stands twice in a mapping (names it and both lines); an alias stands inside
            what it stands for; or there are more than 100,000 values, those of aliases counted wherever they stand.
    """
    try:
        loader = _Loader(text, source)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError as error:
        raise SpecError(f"{source} is nested too deeply", "write it with fewer levels") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{source} is no YAML: {error}", "mend the line it names, or quote the value") from error


class _Loader(yaml.SafeLoader):
    """Checks nodes where they are composed: a merge (``<<``) later puts the pairs of others among a mapping's own."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.name = self._source = source
        self._sizes: dict[Node, int] = {}

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if not is_alias:
            self._sizes[node] = 1 + sum(self._sizes[part] for part in _parts(node))
        elif node not in self._sizes:
            raise self._refusal(f"the alias in line {_line(node)} stands inside what it stands for", "write it out")
        if self._sizes[node] > MOST_VALUES:
            told = f"line {_line(node)} holds more than {MOST_VALUES:,} values, those of its aliases included"
            raise self._refusal(told, "write fewer aliases of aliases")
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, ScalarNode)):
            name, line = (key.tag, key.value), _line(key)
            if name in lines:
                where = f"lines {lines[name]} and {line}" if line > lines[name] else f"line {line}"
                raise self._refusal(f"`{key.value}` is given twice, in {where}", "keep one of the two")
            lines[name] = line
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a date that does not exist, a number of too many digits
            told = f"{str(node.value)[:80]!r} in line {_line(node)} is no value: {error}"
            raise self._refusal(told, "mend it, or quote it where it is a text") from error

    def _refusal(self, told: str, remedy: str) -> SpecError:
        return SpecError(f"{self._source}: {told}", remedy)


def _parts(node: Node) -> list[Node]:
    if isinstance(node, ScalarNode):
        return []
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
