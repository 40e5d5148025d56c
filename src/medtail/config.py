"""YAML 1.2 files to frozen dataclasses, with every mistake reported at once.

A config is a tree of keyword-only frozen dataclasses that live beside the component they configure. This
module knows none of them: it reads text, checks it against a dataclass and writes the resolved result.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from medtail.errors import Problems, UsageError, did_you_mean

T = TypeVar("T")

CLOSED: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
"""Pydantic settings of every config dataclass: unknown keys are errors, and so are `.nan` and `.inf`.

A config class says `__pydantic_config__: ClassVar[dict[str, Any]] = CLOSED`.
"""
MOST_BYTES = 2**20
"""A config is written by a person; a larger file is something else."""
MOST_VALUES = 100_000
"""What a config may come to once its aliases are followed: ten lines of aliases can stand for a billion values."""
SHOWN_CHARACTERS = 80
"""A wrong value longer than this is cut in messages."""


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
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path}: larger than {MOST_BYTES >> 20} MiB; expected a config that a person wrote.")
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
        count = _count_values(loaded, {}, set())
    # ValueError and the like: what only a tag can say, such as `!!int x`
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise UsageError(f"{where}: not valid YAML: {error}") from error
    if count > MOST_VALUES:
        raise UsageError(
            f"{where}: stands for {count:,} values once its aliases are followed; expected {MOST_VALUES:,} at most."
        )
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"{where}: found {type(loaded).__name__}; expected 'key: value' lines.")
    return loaded


def _count_values(value: Any, counted: dict[int, int], inside: set[int]) -> int:
    """Count the values a document stands for; what an alias shares is counted each time, and looked at once."""
    if isinstance(value, int) and value.bit_length() > 1024:
        raise ValueError("a number of more than 300 digits")  # Python refuses to print it, even in a message
    if not isinstance(value, (Mapping, list, tuple, Set)):
        return 1
    key = id(value)
    if key in inside:
        raise ValueError("an alias stands inside what it names")
    if key not in counted:
        inside.add(key)
        parts = value.values() if isinstance(value, Mapping) else value
        counted[key] = 1 + sum(_count_values(part, counted, inside) for part in parts)
        inside.discard(key)
    return counted[key]


def apply_overrides(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` overrides; values are read as YAML.

    Args:
        config: The mapping read from a file; not changed.
        overrides: Texts such as `loss.gamma=1.5`.

    Returns:
        A new mapping.

    Raises:
        UsageError: An override has no `=`, an empty name, or runs through a value that is not a mapping.

    Example:
        >>> apply_overrides({"loss": {"kind": "focal"}}, ["loss.gamma=1.5"])
        {'loss': {'kind': 'focal', 'gamma': 1.5}}
    """
    result: dict[str, Any] = _copy_mapping(config)
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not separator or not all(parts):
            raise UsageError(f"--set {override!r}: expected KEY=VALUE, for instance --set loss.gamma=1.5")
        value = _parse_yaml(f"value: {text}", where=f"--set {override}").get("value")
        node = result
        for part in parts[:-1]:
            if node.get(part) is None:  # absent, or an empty section such as `loss:`
                node[part] = {}
            child = node[part]
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
    from pydantic import ValidationError

    try:
        found: T = _checker(kind).validate_python(dict(values))  # type: ignore[arg-type] # a class is hashable
        return found
    except ValidationError as error:
        mistakes: dict[str, list[str]] = {}
        for item in error.errors():
            place, message = _explain(kind, item)
            # pydantic tries every member of a union and reports each; a person reads one line a place
            lines = mistakes.setdefault(place, [])
            if message not in lines:
                lines.append(message)
        problems = Problems(where)
        for place, lines in mistakes.items():
            problems.add(f"{place}: {_joined(lines)}")
        problems.raise_if_any(kind=UsageError)
        raise


@cache
def _checker(kind: Any) -> Any:
    """Return pydantic's checker of a config class; making one takes far longer than using it."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _joined(lines: Sequence[str]) -> str:
    lead, separator, _ = lines[0].partition("expected ")
    if separator and all(line.startswith(lead + separator) for line in lines):
        return lead + separator + " or ".join(line.removeprefix(lead + separator) for line in lines)
    return "; or ".join(lines)


def _explain(kind: type[Any], item: Mapping[str, Any]) -> tuple[str, str]:
    """Return the dotted place the user wrote and what is wrong there."""
    annotations, written = _walk(kind, item["loc"])
    place = ".".join(map(str, written)) or "(top level)"
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known_keys(_walk(kind, item["loc"][:-1])[0])
        hint = did_you_mean(str(written[-1]), known)
        return place, f"unknown key{hint}" + ("" if hint else f"; known here: {', '.join(known)}")
    if item["type"] in ("missing", "missing_keyword_only_argument", "missing_argument"):
        return place, "missing; expected a value here"
    kinds = [str(tag) for tag in map(_kind_of, annotations) if tag is not None]
    if item["type"] == "union_tag_invalid":
        tag = str(item["ctx"]["tag"])
        hint = did_you_mean(tag, kinds)
        return f"{place}.kind", f"found {tag!r}; expected {_either(kinds)}{hint}"
    if item["type"] == "union_tag_not_found":
        return place, f"found {_shown(item['input'])} without 'kind'; expected kind: {_either(kinds)}"
    if item["type"] in ("dataclass_type", "model_attributes_type"):
        keys = f"'kind': {_either(kinds)}" if kinds else _either([repr(key) for key in _known_keys(annotations)])
        return place, f"found {_shown(item['input'])}; expected a section with its own keys, such as {keys}"
    if item["type"] == "value_error":
        found = "" if isinstance(item["input"], Mapping) else f"found {_shown(item['input'])}; "
        return place, found + str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "literal_error":
        values = [part for annotation in annotations for part in getattr(annotation, "__args__", ())]
        hint = did_you_mean(str(item["input"]), [value for value in values if isinstance(value, str)])
        return place, f"found {_shown(item['input'])}; expected {item['ctx']['expected']}{hint}"
    message = str(item["msg"])
    wanted = message.removeprefix("Input should be ")
    wanted = f"a value {wanted}" if wanted.startswith(("greater", "less")) else wanted
    expected = f"expected {wanted}" if wanted != message else message[:1].lower() + message[1:]
    return place, f"found {_shown(item['input'])}; {expected}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _alternatives(annotation: Any) -> list[Any]:
    """Return what an annotation such as `Annotated[A | B, …] | None` allows, without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _alternatives(part)]
    return [] if annotation is NoneType else [annotation]


def _kind_of(annotation: Any) -> Any:
    if not dataclasses.is_dataclass(annotation):
        return None
    kind = next((f for f in dataclasses.fields(annotation) if f.name == "kind"), None)
    return None if kind is None else kind.default


def _walk(kind: type[Any], place: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Follow pydantic's place of a mistake through the annotations.

    Returns:
        What may stand at that place, and the steps to it that the user wrote. (Pydantic also names the union
        member it tried, a step that stands nowhere in the file.)
    """
    current: list[Any] = [kind]
    written: list[Any] = []
    for part in place:
        if len(current) > 1:
            chosen = [a for a in current if part in (_kind_of(a), getattr(a, "__name__", None))]
            if chosen:
                current = chosen[:1]
                continue
        following = [_within(annotation, part) for annotation in current]
        if part == "[key]" or (len(current) > 1 and not any(following)):
            continue
        written.append(part)
        current = [member for members in following for member in members]
    return current, written


def _within(annotation: Any, part: Any) -> list[Any]:
    """Return what may stand under a key or an index of a dataclass, a mapping or a sequence."""
    if dataclasses.is_dataclass(annotation):
        return _alternatives(get_type_hints(annotation).get(str(part)))
    origin, args = get_origin(annotation), get_args(annotation)
    if not isinstance(origin, type) or not args:
        return []
    if issubclass(origin, Mapping):
        return _alternatives(args[1])
    if isinstance(part, int) and issubclass(origin, (Sequence, Set)):
        fixed = issubclass(origin, tuple) and args[-1] is not Ellipsis
        return _alternatives(args[min(part, len(args) - 1)] if fixed else args[0])
    return []


def _known_keys(annotations: Sequence[Any]) -> list[str]:
    classes = [annotation for annotation in annotations if dataclasses.is_dataclass(annotation)]
    return sorted({f.name for found in classes for f in dataclasses.fields(found) if f.init})


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
