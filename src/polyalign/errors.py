"""The one error a user's mistake raises."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake the user can mend: bad input, a bad option, a missing model or package.

    The message is one line: what was got, what is allowed, what to do. The command line prints it and exits 2.
    """


def nearest(got: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the allowed name closest to ``got``, or an empty string."""
    close = get_close_matches(got, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
