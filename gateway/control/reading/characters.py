"""Characters that look like those of YAML and are none: they come with text that was copied from a page or a chat."""

from __future__ import annotations

import re
from typing import Final

_BLANKS: Final = {
    "\u00a0": "a no-break space", "\u2002": "an en space", "\u2003": "an em space", "\u2007": "a figure space",
    "\u2009": "a thin space", "\u202f": "a narrow no-break space", "\u3000": "an ideographic space",
}  # fmt: skip
_INVISIBLE: Final = {
    "\u00ad": "a soft hyphen", "\u200b": "a zero-width space", "\u200c": "a zero-width non-joiner",
    "\u200d": "a zero-width joiner", "\u2060": "a word joiner", "\ufeff": "a byte order mark",
}  # fmt: skip
_QUOTES: Final = dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"') | dict.fromkeys("\u2018\u2019\u201a\u00b4", "'")
_OTHERS: Final = dict.fromkeys("\u2010\u2011\u2013\u2014\u2212", "-") | {
    "\u2026": "...", "\uff0c": ",", "\uff0f": "/", "\uff1a": ":",
}  # fmt: skip
_PLAIN: Final = {**dict.fromkeys(_BLANKS, " "), **dict.fromkeys(_INVISIBLE, ""), **_QUOTES, **_OTHERS}
_ODD: Final = re.compile(f"[{''.join(_PLAIN)}]")
_LONGEST: Final = 80


def odd_character(line: str, start: int = 0, end: int | None = None) -> tuple[int, str, str] | None:
    """The first such character between these two places, as its place, its name, and what to do; comments do not count."""
    comment = re.search(r"(?:^|\s)#", line)
    end = len(line) if end is None else end
    match = _ODD.search(line, start, min(end, comment.start()) if comment is not None else end)
    if match is None:
        return None
    found = match[0]
    code = f"U+{ord(found):04X}"
    plain = line[start:end].strip()
    cure = f": `{plain_text(plain)}`" if len(plain) <= _LONGEST else ""
    if found in _QUOTES:
        return match.start(), f"a typographic quote ({code})", f"write a straight `{_QUOTES[found]}`{cure}"
    if found in _BLANKS:
        return match.start(), f"{_BLANKS[found]} ({code})", f"write an ordinary blank{cure}"
    if found in _INVISIBLE:
        return match.start(), f"{_INVISIBLE[found]} ({code}), which is invisible", f"remove it{cure}"
    return match.start(), f"`{found}` ({code}) in place of `{_OTHERS[found]}`", f"write `{_OTHERS[found]}`{cure}"


def plain_text(text: str) -> str:
    """The text with ordinary characters in place of the odd ones."""
    return _ODD.sub(lambda match: _PLAIN[match[0]], text)
