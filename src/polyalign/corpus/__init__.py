"""The corpus: rows of one meaning in up to N languages, read, checked, counted and kept on disk."""

from polyalign.corpus.cells import inspect_cells
from polyalign.corpus.corpus import Corpus
from polyalign.corpus.exporting import export_corpus
from polyalign.corpus.importing import import_corpus, inspect_corpus

__all__ = ["Corpus", "export_corpus", "import_corpus", "inspect_cells", "inspect_corpus"]
