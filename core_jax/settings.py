"""A command's settings: changed by what is given, as JSON, as a run keeps them beside what it makes, and refused when it is gone on with by others."""
import dataclasses
import enum
import typing
from typing import Any, TypeVar

from etils import epath

Settings = TypeVar("Settings")


def replaced(settings: Settings, **given: Any) -> Settings:
    """A dataclass with these settings in place; None leaves one as it is."""
    return dataclasses.replace(settings, **{name: value for name, value in given.items() if value is not None})


def to_json(value: Any) -> Any:
    """Dataclasses, enums and tuples as JSON values."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type, value: Any) -> Any:
    """The inverse of `to_json` for a dataclass type; an unknown key is an error, a missing one takes its default."""
    hints = typing.get_type_hints(kind)
    if unknown := set(value) - set(hints):
        raise ValueError(f"{kind.__name__} has no field {sorted(unknown)}; it has {', '.join(hints)}")

    def read(hint: type, item: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_json(hint, item)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return hint(item)
        return tuple(item) if isinstance(item, list) else item

    return kind(**{name: read(hints[name], item) for name, item in value.items()})


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Each setting by its dotted name, as its flag has it."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, item in value.items() for k, v in flat(item, f"{prefix}.{name}".lstrip(".")).items()}


def changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """"NAME was …, now …" of each setting of `after` that was another before; "" if there is none."""
    return "; ".join(f"{name} was {before.get(name)!r}, now {value!r}" for name, value in after.items() if before.get(name) != value)


def refuse_changes(folder: epath.PathLike, shown: str, held: str = "run") -> None:
    """Raises ValueError where a folder holds a run with other settings than those that go on with it, as `changes` shows them."""
    if shown:
        raise ValueError(f"{folder} holds another {held}: {shown}; take another --out, or the {held}'s own settings")
