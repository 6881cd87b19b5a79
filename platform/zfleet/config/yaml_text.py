"""Read YAML as plain data; refuse repeated keys, and aliases that would multiply the data."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from zfleet.errors import SpecError

MOST_VALUES = 100_000
"""Aliases of aliases in a few lines can stand for billions of values, which an error would print."""


def read_yaml(text: str, source: str) -> Any:
    """Read one YAML document as plain data: mappings, lists, texts, numbers, dates.

    Args:
        text: The document.
        source: The document's name in errors.

    Raises:
        SpecError: The text is not YAML; a mapping has a key twice (the key and both lines are named); an alias refers
            to a value that contains it; or there are more than 100,000 values, with those of each alias counted.
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
        raise SpecError(f"{source} is not YAML: {error}", "correct the line it names, or quote the value") from error


class _Loader(yaml.SafeLoader):
    """Checks nodes when they are composed. Later, a merge (``<<``) adds pairs to a mapping that may repeat its keys."""

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
            raise self._refusal(
                f"the alias in line {_line(node)} refers to a value that contains it", "write the value out"
            )
        if self._sizes[node] > MOST_VALUES:
            raise self._refusal(
                f"line {_line(node)} holds more than {MOST_VALUES:,} values, those of its aliases included",
                "write fewer aliases of aliases",
            )
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
        except ValueError as error:  # A date that does not exist, or a number of too many digits.
            raise self._refusal(
                f"{str(node.value)[:80]!r} in line {_line(node)} is not a valid value: {error}",
                "correct it, or quote it if it is a text",
            ) from error

    def _refusal(self, message: str, remedy: str) -> SpecError:
        return SpecError(f"{self._source}: {message}", remedy)


def _parts(node: Node) -> list[Node]:
    if isinstance(node, ScalarNode):
        return []
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
