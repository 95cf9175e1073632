"""Texts as lines: one line a text, whatever line breaks it holds."""

from __future__ import annotations

import re

MOSES_NAME = "corpus"
"""Name before the suffix of the files in an exported folder of Moses line pairs."""

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\ufeff"
"""What some program takes for the end of a line, and the byte order mark, which is dropped at the start of a file."""

_SHORT = {"\\": "\\\\", "\n": "\\n"}
_UNSAFE = re.compile(rf"[\\{BREAKS}]")
_ESCAPED = re.compile(r"\\(?:u([0-9a-f]{4})|([\\n]))")


def escape_line(text: str) -> str:
    r"""Write a text as one line: ``\\`` for a backslash, ``\n`` for a line feed, ``\u2028`` and the like for others."""
    return _UNSAFE.sub(lambda match: _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}", text)


def unescape_line(line: str) -> str:
    """Return the text that `escape_line` wrote as this line."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2].replace("n", "\n"), line)
