"""compare: scores in, a report of means, differences and their intervals out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyalign.reporting.report import compare as compare

__all__ = ["compare"]


def __getattr__(name: str) -> Any:
    if name == "compare":
        from polyalign.reporting.report import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
