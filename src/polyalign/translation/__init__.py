"""Building a corpus: English from anywhere, engines, the memory of what they translated, the job that fills cells."""

from polyalign.translation.building import build
from polyalign.translation.settings import BuildSettings

__all__ = ["BuildSettings", "build"]
