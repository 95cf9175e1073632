"""The base of every settings class: frozen, unknown keys refused, all problems told in one line."""

from __future__ import annotations

from typing import Any, Self

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
