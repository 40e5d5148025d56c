"""YAML 1.2 files to frozen dataclasses, with every mistake reported at once.

A config is a tree of keyword-only frozen dataclasses that live beside the component they configure. This
module knows none of them: it reads text, checks it against a dataclass and writes the resolved result.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medtail.errors import Problems, UsageError, did_you_mean

T = TypeVar("T")

CLOSED = {"extra": "forbid"}
"""Pydantic settings of every config dataclass: `__pydantic_config__ = CLOSED` makes unknown keys errors."""


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (`no` is text, `1e-3` is a number, duplicate keys are errors).

    Args:
        path: A UTF-8 file.

    Returns:
        The mapping; an empty file is an empty mapping.

    Raises:
        UsageError: The file is missing, is not YAML or is not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; give the path of a YAML config.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    return _parse_yaml(text, where=str(path))


def _parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        loaded = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UsageError(f"{where}: not valid YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"{where}: found {type(loaded).__name__}; expected 'key: value' lines.")
    return loaded


def apply_overrides(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` overrides; values are read as YAML.

    Args:
        config: The mapping read from a file; not changed.
        overrides: Texts such as `loss.gamma=1.5`.

    Returns:
        A new mapping.

    Raises:
        UsageError: An override has no `=` or runs through a value that is not a mapping.

    Example:
        >>> apply_overrides({"loss": {"kind": "focal"}}, ["loss.gamma=1.5"])
        {'loss': {'kind': 'focal', 'gamma': 1.5}}
    """
    result: dict[str, Any] = _copy_mapping(config)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set {override!r}: expected KEY=VALUE, for instance --set loss.gamma=1.5")
        value = _parse_yaml(f"value: {text}", where=f"--set {override}").get("value")
        node = result
        parts = key.strip().split(".")
        for part in parts[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise UsageError(f"--set {override!r}: {part!r} is {child!r}, not a section with keys.")
            node = child
        node[parts[-1]] = value
    return result


def _copy_mapping(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy_mapping(value) if isinstance(value, Mapping) else value for key, value in config.items()}


def build_config(kind: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Check a mapping against a config dataclass and build it, listing every mistake.

    Args:
        kind: A frozen dataclass with `__pydantic_config__ = CLOSED`.
        values: The mapping a user wrote.
        where: The file's name, for messages.

    Returns:
        An instance of `kind` with defaults filled in.

    Raises:
        UsageError: Unknown keys, wrong types or values out of range, each with its dotted place.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problems = Problems(where)
        for item in error.errors():
            problems.add(_explain(kind, item))
        problems.raise_if_any(kind=UsageError)
        raise


def _explain(kind: type[Any], item: Mapping[str, Any]) -> str:
    place = tuple(item["loc"])
    dotted = ".".join(str(part) for part in _user_place(kind, place)) or "(top level)"
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known_keys(kind, place[:-1])
        hint = did_you_mean(str(place[-1]), known)
        listed = "" if hint else f"; known here: {', '.join(known)}"
        return f"{dotted}: unknown key{hint}{listed}"
    found = "" if item["type"] in ("missing", "missing_keyword_only_argument") else f"found {item['input']!r}; "
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{dotted}: {found}{message[:1].lower() + message[1:]}"


def _members(annotation: Any) -> list[type[Any]]:
    """Return the dataclasses inside an annotation such as `Annotated[A | B, …] | None`."""
    if dataclasses.is_dataclass(annotation):
        return [annotation] if isinstance(annotation, type) else []
    return [member for part in getattr(annotation, "__args__", ()) for member in _members(part)]


def _kind_of(member: type[Any]) -> Any:
    kind = next((f for f in dataclasses.fields(member) if f.name == "kind"), None)
    return None if kind is None else kind.default


def _walk(kind: type[Any], place: Sequence[Any]) -> tuple[list[type[Any]], list[Any]]:
    from typing import get_type_hints

    current: list[type[Any]] = [kind]
    written: list[Any] = []
    for part in place:
        tagged = [member for member in current if len(current) > 1 and _kind_of(member) == part]
        if tagged:  # pydantic names the chosen union member; the user never wrote that step
            current = tagged
            continue
        named = [member for member in current if member.__name__ == part]
        if named:
            current = named
            continue
        written.append(part)
        following: list[type[Any]] = []
        for member in current:
            following += _members(get_type_hints(member, include_extras=False).get(str(part)))
        current = following
    return current, written


def _known_keys(kind: type[Any], place: Sequence[Any]) -> list[str]:
    members, _ = _walk(kind, place)
    return sorted({f.name for member in members for f in dataclasses.fields(member)})


def _user_place(kind: type[Any], place: Sequence[Any]) -> list[Any]:
    return _walk(kind, place)[1]


def config_to_dict(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into plain values that YAML and JSON can hold.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Tiny:
        ...     size_px: int = 64
        >>> config_to_dict(Tiny())
        {'size_px': 64}
    """
    plain = _plain(dataclasses.asdict(config))
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Write a mapping as YAML 1.2 text that `read_yaml` reads back equal.

    Example:
        >>> print(dump_yaml({"seed": 0, "loss": {"kind": "bce"}}), end="")
        seed: 0
        loss:
          kind: bce
    """
    from ruamel.yaml import YAML

    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.width = 120
    buffer = io.StringIO()
    writer.dump(_plain(values), buffer)
    return buffer.getvalue()
