"""Which columns of a table are languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from polyalign.errors import UserError
from polyalign.languages import canonical, is_known, name

ROW_ID = "row_id"
ENGLISH = "en"
_TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum, pl.Null)


def text_columns(table: pl.DataFrame, languages: Sequence[str] | None, where: str) -> pl.DataFrame:
    """Return the language columns of ``table`` as strings, in its order, named by their canonical tags.

    A struct column ``translation``, as many datasets have, stands for its fields. A column ``row_id`` is left out.
    Every other column has to be a language code and hold text, unless ``languages`` names those that matter: then
    what is amiss with the others does not, and such columns are left out.

    Args:
        table: the table as read.
        languages: language codes that must be sound, or None for all columns. Languages beside them stay in.
        where: what the table is called in messages.

    Raises:
        UserError: for a column that is no language code, holds no text or means the same language as another one, and
            for fewer than two language columns.
    """
    if isinstance(table.schema.get("translation"), pl.Struct):
        table = table["translation"].struct.unnest()
    wanted = None if languages is None else {canonical(tag) for tag in languages}
    columns = [column for column in table.columns if column != ROW_ID]
    tags = {column: canonical(column.strip()) for column in columns if is_known(column.strip())}
    if wanted is None and len(tags) < len(columns):
        raise _unknown([column for column in columns if column not in tags], where)
    texts = []
    for column, tag in tags.items():
        fault = _fault(table[column], tags)
        if fault is None:
            texts.append(table[column].cast(pl.String).alias(tag))
        elif wanted is None or tag in wanted:
            raise UserError(f"{where}: {fault}; mend the file, or name the languages to read (--languages en,de,...)")
    if len(texts) < 2:
        found = f"only {texts[0].name!r}" if texts else "no language"
        names = ", ".join(map(repr, columns))
        raise UserError(f"{where} has {found} among its columns ({names}); a corpus needs two languages")
    return pl.DataFrame(texts)


def _unknown(unknown: list[str], where: str) -> UserError:
    """Return the error for columns that are not language codes; the nearest code of the first is in its message."""
    others = f"; no language codes either: {', '.join(map(repr, unknown[1:]))}" if unknown[1:] else ""
    try:
        canonical(unknown[0].strip())
    except UserError as error:
        return UserError(
            f"{where}: column {unknown[0]!r}: {error}{others}; --languages en,de,... reads those columns only"
        )
    raise AssertionError(f"{unknown[0]!r} is a language code")


def _fault(texts: pl.Series, tags: Mapping[str, str]) -> str | None:
    """Return why a language column cannot be read as that language's text, or None."""
    tag = tags[texts.name]
    same = [column for column in tags if tags[column] == tag]
    if len(same) > 1:
        return f"columns {' and '.join(map(repr, same))} both mean {tag!r}"
    if texts.dtype == pl.Object:
        row, kind = next((i, type(v).__name__) for i, v in enumerate(texts, 1) if not isinstance(v, str | None))
        return f"column {texts.name!r} ({name(tag)}) holds {kind}, not text, in row {row}"
    if texts.dtype not in _TEXT_TYPES:
        return f"column {texts.name!r} ({name(tag)}) holds {texts.dtype}, not text"
    return None
