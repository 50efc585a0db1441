"""What tables share in LaTeX: text made safe, numbers with a minus, and the environment around their lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pvdr_bench.plain_text import one_line

_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
          "—": "---", "±": r"$\pm$"}
_PAGE = 100  # letters that stand beside each other on a page of a paper, about
SCRIPT = 0.7  # of a letter's width: one of an interval


def escape_latex(text: str) -> str:
    """Make text safe for LaTeX, on one line."""
    return "".join(_LATEX.get(letter, letter) for letter in one_line(text))


def minus(text: str) -> str:
    """Numbers as LaTeX sets them: a hyphen before a digit is a minus."""
    return re.sub(r"-(?=\d)", "$-$", text)


def environment(columns: str, lines: Sequence[str], caption: str, letters: float) -> list[str]:
    """A ``table`` environment in booktabs style; what the preamble needs is said in its first line.

    Args:
        columns: of the tabular, as ``lrr``.
        lines: of the tabular, from its head to its last row.
        letters: how wide it is, about; a table that is wider than a page is made as narrow as that.
    """
    wide = letters > _PAGE
    return [r"% needs \usepackage{booktabs}" + r" and \usepackage{graphicx}" * wide,
            r"\begin{table*}" if wide else r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(caption)}}}",
            *[r"\resizebox{\textwidth}{!}{%"] * wide, rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
            *lines, r"\bottomrule", r"\end{tabular}" + "}" * wide, r"\end{table*}" if wide else r"\end{table}"]
