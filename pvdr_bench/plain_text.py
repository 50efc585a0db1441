"""Text of other people's files, made harmless for where it is shown: a terminal, a CSV cell, Markdown, LaTeX.

A title or an error message may hold escape sequences that a terminal obeys, marks that turn the reading direction,
newlines that forge a row, or a formula that a spreadsheet runs. What does something is shown as what it is (``\\x1b``).
"""

from __future__ import annotations

import re

# C0 without tab and newline, DEL, C1; marks of direction and of invisible joins; separators of lines; lone surrogates.
_ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@")


def visible(text: str) -> str:
    """The text with what a terminal would obey written out; tabs and newlines stay."""
    return _ACTIVE.sub(_written, text)


def _written(match: re.Match[str]) -> str:
    code = ord(match.group())
    return {13: "\\r"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def one_line(text: str) -> str:
    """The same, and every run of blanks one space: for a cell or a line of a list."""
    return " ".join(visible(text).split())


def csv_cell(text: str) -> str:
    """For a spreadsheet: on one line, and no formula (a leading ``=``, ``+``, ``-`` or ``@`` gets an apostrophe)."""
    plain = one_line(text)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain


def markdown_cell(text: str) -> str:
    """For a Markdown table: on one line, no new column, no HTML."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")
