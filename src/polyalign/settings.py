"""The base of every settings class: frozen, unknown keys refused, all problems told in one line; values from YAML."""

from __future__ import annotations

from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from polyalign.errors import UserError, nearest


class Settings(BaseModel):
    """Immutable, validated settings; the class that owns the behaviour owns its settings class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def checked(cls, values: Any, where: str) -> Self:
        """Return the settings made from ``values``.

        Args:
            values: usually a mapping, as YAML gives it.
            where: what the problems are said to be about, such as a file name.

        Raises:
            UserError: one line that names every problem at once.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(cls._problem(detail) for detail in error.errors())
            raise UserError(f"{where}: {problems}") from error

    @classmethod
    def completed(cls, values: Any, where: str) -> dict[str, Any]:
        """Return recorded values for comparison: settings newer than the record have their defaults, JSON types.

        Raises:
            UserError: when this version does not know the recorded settings.
        """
        return cls.checked(values, where).model_dump(mode="json")

    @classmethod
    def _problem(cls, detail: Any) -> str:
        key = ".".join(str(part) for part in detail["loc"]) or "settings"
        if detail["type"] == "extra_forbidden":
            allowed = cls._fields_at(detail["loc"][:-1])
            return f"unknown key {key!r}{nearest(str(detail['loc'][-1]), allowed)}" + (
                f", allowed are {', '.join(allowed)}" if allowed else ""
            )
        if detail["type"] == "missing":
            return f"{key} is missing"
        message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if detail["type"] == "value_error":
            return f"{key}: {message}" if detail["loc"] else message
        hint = " (YAML reads a bare no, yes, on or off as true or false: quote it)" if _is_yaml_bool(detail) else ""
        return f"{key} is {detail['input']!r}, {message}{hint}"

    @classmethod
    def _fields_at(cls, location: tuple[Any, ...]) -> list[str]:
        """Return the field names of the settings at a place inside this class, or none where there are no settings."""
        here: Any = cls
        for part in location:
            field = getattr(here, "model_fields", {}).get(part)
            if field is None:
                continue  # a list index or the key of a mapping
            here = next((kind for kind in _kinds(field.annotation) if hasattr(kind, "model_fields")), None)
        return list(getattr(here, "model_fields", {}))


def _kinds(annotation: Any) -> list[Any]:
    """Return a type and, for a generic or a union, the types inside it."""
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(kind for part in inner for kind in _kinds(part))]


def _is_yaml_bool(detail: Any) -> bool:
    return isinstance(detail["input"], bool) and detail["type"] == "string_type"


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text says.

    Raises:
        UserError: when it is not YAML; ``where`` is what the text is called there.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where} is not valid YAML{place}: {getattr(error, 'problem', None) or 'unreadable'}"
        ) from error


def apply_change(values: dict[str, Any], change: str) -> None:
    """Carry out a ``KEY=VALUE`` with dots between nested keys and the value in YAML, as ``training.steps=100``.

    Raises:
        UserError: when it is not of that form, or goes through what is neither a mapping nor a list.
    """
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise UserError(f"--set {change!r} must be KEY=VALUE, such as training.steps=100")
    put(values, key, parse_yaml(value, f"--set {key}"), f"--set {change!r}")


def put(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a value under a key with dots, making the mappings on the way; of a list, the number of an item from 0.

    Raises:
        UserError: when something on the way is neither a mapping nor a list, or the list has no such item.
    """
    *parents, last = key.split(".")
    inner: Any = values
    for depth, parent in enumerate(parents):
        place = _place(inner, parent, where)
        if isinstance(inner, dict) and inner.get(place) is None:
            inner[place] = {}
        inner = inner[place]
        if not isinstance(inner, dict | list):
            raise UserError(f"{where}: {'.'.join(parents[: depth + 1])} is neither a mapping nor a list")
    inner[_place(inner, last, where)] = value


def _place(inner: dict[str, Any] | list[Any], key: str, where: str) -> Any:
    """Return the key of a mapping, or the index of a list."""
    if isinstance(inner, dict):
        return key
    if not key.isdecimal() or int(key) >= len(inner):
        raise UserError(f"{where}: {key} is no item of a list of {len(inner)}; count from 0")
    return int(key)
