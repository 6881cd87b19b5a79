"""Make the examiner's counterpart of a class of the candidate."""

from __future__ import annotations

from functools import partial
from typing import Any

from .contents import base_of
from .known import named
from .remote import YES_OR_NO, Remote, RemoteClass, ask, link, no_proof
from .special import SPECIAL, compare_fields
from .wire import Record


def remote_class(record: Record) -> type:
    """Make the class that stands for one of the candidate's.

    Args:
        record: The class's module and name, its bases as items, the names defined in it, and for a data class the
            fields and the comparisons that ``dataclass`` wrote.

    Raises:
        TypeError, ValueError: No such class is possible.
    """
    (module, name), items, names, compared = record
    bases = [base for base in map(link().wire.value, items) if _may_be_base(base)]
    if not any(isinstance(base, RemoteClass) for base in bases):
        bases.insert(0, Remote)
    space: dict[str, Any] = {
        "__slots__": (),
        "__module__": str(module),
        "__qualname__": str(name),
        "__doc__": _RemoteAttribute("__doc__"),
    }
    for attribute in map(str, names):
        if attribute in SPECIAL:
            space[attribute] = SPECIAL[attribute]
        elif attribute in YES_OR_NO:
            space[attribute] = property(partial(no_proof, name=attribute))
        elif not attribute.startswith("__"):
            space[attribute] = _RemoteAttribute(attribute)
    if compared is not None:
        fields, comparisons = compared
        space |= {comparison: compare_fields(comparison, [*map(str, fields)]) for comparison in comparisons}
    if "__await__" in space:
        # An event loop here cannot wait for the other process.
        space |= {attribute: property(SPECIAL["__await__"]) for attribute in ("send", "throw")}
    try:
        # `isinstance` reads `__class__`. It is set for built-in classes such as iterators, which both processes have,
        # but not for classes written in Python: some, such as Counter, ask what claims to be one of theirs to compare.
        if module == "builtins":
            counterpart = named(f"builtins.{name}")
            space["__class__"] = property(lambda self: counterpart)
    except ValueError:
        pass
    made: type = type.__new__(RemoteClass, str(name).rpartition(".")[2], tuple(bases), space)
    return made


def _may_be_base(base: object) -> bool:
    if isinstance(base, RemoteClass):
        return True
    return isinstance(base, type) and base_of(base) is not object and base not in (bool, slice, range)


class _RemoteAttribute:
    """A name in a class of the candidate; its value is fetched on each access."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, thing: object, kind: type | None = None) -> Any:
        return ask("getattr", kind if thing is None else thing, self._name)
