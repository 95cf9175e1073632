"""What the corpus tests share: files written in place, and the text of a user's error."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from polyalign.errors import UserError


@pytest.fixture
def write(tmp_path) -> Callable[[str, str | bytes], Path]:
    """A function that writes text or bytes to a file of the given name."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def jsonl(write) -> Callable[..., Path]:
    """A function that writes records as a JSONL file."""
    return lambda *records, name="rows.jsonl": write(name, "".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def refused() -> Callable[..., str]:
    """A function that calls and returns the message of the `UserError` raised, which is one line."""

    def refused(call: Callable, *args, **options) -> str:
        with pytest.raises(UserError) as caught:
            call(*args, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused
