"""Frozen values that come from files: read strictly, refuse in one line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from effnet.errors import ConfigError
from effnet.files import read_regular, reason

MAX_FILE_BYTES = 1 << 18  # no configuration is this large; refuses mistaken paths early
MAX_NODES = 20_000  # scalars, lists and maps of a file, those that an alias repeats counted each time
MAX_DEPTH = 50  # of nested lists and maps
MAX_DIGITS = 100  # of a number
_ZERO = r"\u0000"
_SHOWN = 80  # characters of a broken value that a message shows
_set = object.__setattr__  # of a frozen value


class Value(BaseModel):
    """A frozen value: unknown keys are refused, types are not guessed, ranges are checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """Build the value from plain data (what JSON or YAML gives).

        Raises:
            ConfigError: naming `where`, the key, what is wrong and, for a misspelt key, the likely one.
        """
        try:
            text = json.dumps(data, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: holds something other than text, numbers, lists and maps ({error})") from error
        if _ZERO in text and _ZERO in text.replace(r"\\", ""):
            raise ConfigError(
                f"{where}: holds text with a zero byte in it, which no name or path may contain; remove it"
            )
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, cls)}") from error

    def replaced(self, **changes: Any) -> Self:
        """Return a copy with some fields changed and nothing validated: `model_copy(update=changes)`, but quick.

        Searches and grids make tens of thousands of copies. Values have neither private nor extra fields.
        """
        given = self.__pydantic_fields_set__  # shared where it stays the same, as nothing changes it
        made = object.__new__(type(self))
        _set(made, "__dict__", {**self.__dict__, **changes})
        _set(made, "__pydantic_fields_set__", given if given.issuperset(changes) else given | changes.keys())
        _set(made, "__pydantic_extra__", None)
        _set(made, "__pydantic_private__", None)
        return made


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds one map. YAML tags that build objects are refused.

    Raises:
        ConfigError: if the file is missing, not a regular file, unreadable, too large, not YAML, holds a key twice,
            repeats itself by aliases without end, or is not a map.
    """
    try:
        content = read_regular(path, MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(
                f"{path}: larger than {MAX_FILE_BYTES >> 10} KiB, too large for a configuration; check the path"
            )
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    try:
        data = _json(text) if path.suffix == ".json" else None
        data = _load(text) if data is None else data
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_explain_yaml(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deep") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, found {_kind(data)}")
    return data


def _json(text: str) -> Any:
    """Return what JSON holds, many times as fast as YAML's reader does; None if it is to say what is wrong."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError:
        return None


# What patterns of fields stand for: a person is told this, not the pattern.
FORMS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$": "must be letters, digits, _ . + and -, beginning with a letter or a digit",
    r"^[a-z0-9][a-z0-9_-]*$": "must be lower-case letters, digits, _ and -, beginning with a letter or a digit",
    r"^(s3://[^/]+|/)": "must be s3://bucket/prefix, or the path of a folder that begins with /",
    r"^[0-9a-f]{16}$": "must be 16 hexadecimal digits",
    r"^[0-9a-f]{64}$": "must be 64 hexadecimal digits",
    r"^.+:[0-9]+$": "must be HOST:PORT",
    r"^(local|auto|[^\s/:]+:[0-9]+)$": "must be local, auto, or the HOST:PORT of the cluster's head",
}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say the first problem of a validation error in one line: the key, what is wrong, how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"]) or "the whole"
    if first["type"] == "extra_forbidden":
        text = f"unknown key {_shortened(key)}{_suggestion(first['loc'], model)}"
    elif first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        text = _explain_tag(key, first["ctx"])
    elif first["type"] == "missing":
        text = f"{key}: missing; give it a value"
    else:
        pattern = first.get("ctx", {}).get("pattern", "")
        message = FORMS.get(pattern, first["msg"].removeprefix("Value error, "))
        message = message[:1].lower() + message[1:]
        given = first.get("input")
        plain = json.dumps(given) if isinstance(given, str | int | float | bool | None) else ""
        shown = f" (got {plain if len(plain) <= _SHOWN else plain[:_SHOWN] + '…'})" if plain else ""
        text = f"{key}: {message}{shown}"
    more = len(problems) - 1
    return text + (f" (and {more} more)" if more else "")


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many nodes a node holds, counting itself, and what aliases name each time.

    Raises:
        YAMLError: if that is more than any configuration has, or a node is part of itself.
    """
    if id(node) not in known:
        known[id(node)] = MAX_NODES  # a node that is met again before it is counted is part of itself
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    if known[id(node)] >= MAX_NODES:
        raise _refused(f"more than {MAX_NODES:,} values, counting those that aliases repeat; too many", node.start_mark)
    return known[id(node)]


def _refused(problem: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    """SafeLoader with limits, that refuses a key given twice instead of keeping the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES or self._depth > MAX_DEPTH:
            limit = f"{MAX_NODES:,} values" if self._nodes > MAX_NODES else f"{MAX_DEPTH} levels"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _refused(f"more than {limit}; no configuration has so many", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        number = node.tag.endswith((":int", ":float"))
        try:
            if number and len(node.value) > MAX_DIGITS:
                raise ValueError
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, KeyError, IndexError, AttributeError, TypeError) as error:
            # What PyYAML's readers of numbers, dates and the like let through: the 99th of a month
            raise _refused(f"{_shortened(str(node.value))} is not a usable number or date", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise _refused(f"key {_shortened(key_node.value)} is given twice", key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _shortened(text: str) -> str:
    return f"'{text}'" if len(text) <= _SHOWN else f"'{text[:_SHOWN]}…' ({len(text):,} characters)"


def _explain_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "not valid YAML"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)


def _suggestion(loc: tuple[str | int, ...], model: type[BaseModel]) -> str:
    known = _fields_at(loc[:-1], model)
    close = difflib.get_close_matches(str(loc[-1]), known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known here: {', '.join(known)}" if known else ""


def _fields_at(loc: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    schema: Mapping[str, Any] = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolve(node: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
        return node

    def step(node: Mapping[str, Any], part: str | int) -> Mapping[str, Any]:
        node = resolve(node)
        for option in (node, *(resolve(o) for o in node.get("anyOf", node.get("oneOf", ())))):
            if part in option.get("properties", {}):
                return resolve(option["properties"][part])
            if "items" in option and isinstance(part, int):
                return resolve(option["items"])
            if part == option.get("properties", {}).get("kind", {}).get("const"):  # a tagged union's tag
                return option
        return {}

    node: Mapping[str, Any] = schema
    for part in loc:
        node = step(node, part)
    names = dict(resolve(node).get("properties", {}))
    for option in resolve(node).get("anyOf", ()):
        names |= resolve(option).get("properties", {})
    return list(names)


def _explain_tag(key: str, context: Mapping[str, Any]) -> str:
    """Say which kinds a value of several kinds can have."""
    field, expected = context["discriminator"].strip("'"), context.get("expected_tags", "")
    if "tag" not in context:
        return f"{key}.{field}: missing; it says which other keys apply"
    close = difflib.get_close_matches(context["tag"], expected.replace("'", "").split(", "), n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{key}.{field}: input should be one of {expected} (got {json.dumps(context['tag'])}){hint}"


def _kind(data: Any) -> str:
    if data is None:
        return "nothing"
    return {"list": "a list", "str": "text"}.get(type(data).__name__, f"a {type(data).__name__}")
