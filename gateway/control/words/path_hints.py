"""What was probably meant by a path, a prefix or a host that is written as another program wants it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from gateway.router import split_path

_LONGEST: Final = 200
_ALTERNATIVES: Final = re.compile(r"\(\??:?([A-Za-z0-9_|.~-]+)\)")
_TYPED: Final = re.compile(
    r"\{([A-Za-z_][A-Za-z0-9_]*)[^{}A-Za-z0-9_][^{}]*\}|\{([A-Za-z_][A-Za-z0-9_]*):[^{}]*\{[^{}]*\}[^{}]*\}"
)
_REGEX: Final = re.compile(r"^[~^]|[()|\\$+]|\[[^\]]*\]|\.\*")
_REST: Final = re.compile(r"\{(?:[A-Za-z_]\w*(?:\.\.\.|\*|:\.[*+])|\*[A-Za-z_]*|\*\*)\}$")


def path_hint(text: str) -> str:
    """A path that can be written in place of this one, as a sentence; or what to do instead."""
    written = text.strip()
    if not 0 < len(written) <= _LONGEST:
        return ""
    if re.match(r"https?://", written):
        host, path = urlsplit(written).netloc, urlsplit(written).path or "/**"
        return f"host and path are two words: `match: {{host: {host}, path: {path}}}`" if _right(path) else ""
    if re.fullmatch(r"/[^?()\\]*\?[A-Za-z0-9_.-]+(?:=.*)?", written):
        path, _, query = written.partition("?")
        name, _, value = query.partition("&")[0].partition("=")
        return f'the query is another word: `match: {{path: {path}, query: {{{name}: "{value}"}}}}`' if _right(path) else ""
    found = _like(written)
    regex = _REGEX.search(re.sub(r"\{[^{}]*\}", "", written)) is not None
    if regex:
        return f"there are no regular expressions in paths: {found or 'write a route for each path, or `{name}` for a segment'}"
    return found


def _like(text: str) -> str:
    """`write …` for a path in another dialect."""
    path = re.sub(r"^(?:~\*?|\^~|=)\s*", "", text)
    path = path.removeprefix("^").removesuffix("$").removesuffix("/?")
    path = re.sub(r"\{([A-Za-z_]\w*(?:-\w+)+)\}", lambda match: match[0].replace("-", "_"), path)
    path = re.sub(
        r"(?<=/)[A-Za-z0-9._-]+\{([A-Za-z_]\w*)\}[A-Za-z0-9._-]*|(?<=/)\{([A-Za-z_]\w*)\}[A-Za-z0-9._-]+", r"{\1\2}", path
    )
    path = re.sub(r"\{([A-Za-z0-9._-]+(?:,[A-Za-z0-9._-]+)+)\}", lambda match: f"({match[1].replace(',', '|')})", path)
    path = re.sub(r"(?:/\.\*|\(/\.\*\)\??|/\*|/?\(\.\*\)|\(/\|\$\))$", "/**", path)
    path = re.sub(r"(?<=[^/*.])\*$|(?<=[^/])\.\*$", "/**", path)
    path = re.sub(r"/:[A-Za-z_]\w*\*$", "/**", path)
    path = _REST.sub("**", path)
    path = re.sub(r"/(?::|<(?:\w+:)?)([A-Za-z_]\w*)>?(?=/|$)", r"/{\1}", path)
    path = _TYPED.sub(lambda match: f"{{{match[1] or match[2]}}}", path)
    path = re.sub(r"(?:\[[^\]]*\]|\\[dw]|\.)[+*](?=/|$)", "{name}", path)
    path = re.sub(r"/\*(?=/)", "/{name}", path)
    path = re.sub(r"/{2,}", "/", path if path.startswith(("/", "(")) else f"/{path}")
    path = "/**" if path in ("/*", "/") and text != "/" else path
    if "%" in path:
        path = unquote(path)
    if "/**/" in path:
        path = path.partition("/**/")[0] + "/**"
    alternatives = _ALTERNATIVES.search(path)
    if alternatives is not None:
        tail = path[alternatives.end() :]
        paths = [path[: alternatives.start()] + word + (tail or "/**") for word in alternatives[1].split("|")]
        return f"write `path: [{', '.join(_shown(one) for one in paths)}]`" if all(map(_right, paths)) else ""
    one = f", or `{_shown(path[:-2] + '{name}')}` for one segment" if re.search(r"[^*]/\*$", text) else ""
    return f"write `{_shown(path)}`{one}" if _right(path) and path != text else ""


def _shown(path: str) -> str:
    return f'"{path}"' if "{" in path else path


def _right(path: str) -> bool:
    if any(character in path for character in "?#\\%()[]|^$ +<>:"):
        return False
    try:
        split_path(path)
    except ValueError:
        return False
    return True


def prefix_hint(text: str) -> str:
    """A prefix that can be written in place of this one."""
    prefix = re.sub(r"/?\*+$|/?\(?\.\*\)?$", "", text.strip().removeprefix("^").removesuffix("$")) or "/"
    prefix = prefix if prefix.startswith("/") else f"/{prefix}"
    return (
        f"write `{prefix}`"
        if prefix != text and re.search(r"[/*]", text) and re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+/?", prefix)
        else ""
    )


def host_hint(text: str) -> str:
    """A host that can be written in place of this one, as a sentence."""
    written = text.strip()
    if written in ("*", "_", "", ".*", "*:80", "*:443", "default", "any"):
        return "without `host` any is taken: remove it"
    names = re.split(r"[\s,|]+", written)
    if len(names) > 1 and all(_host(name) for name in names):
        listed = ", ".join(f'"{name}"' if name.startswith("*") else name for name in names)
        return f"write `host: [{listed}]`"
    if re.match(r"[a-z]+://", written):
        written = urlsplit(written).hostname or ""
    written = written.partition("/")[0]
    if written.startswith("."):
        written = f"*{written}"
    elif re.match(r"\*[A-Za-z0-9]", written):
        written = f"*.{written[1:]}"
    if written != text and _host(written):
        return f'write `"{written}"`' if written.startswith("*") else f"write `{written}`"
    if "*" in written or _REGEX.search(written):
        return "there are no other patterns: `*.example.com` stands for all subdomains, a list for several hosts"
    return ""


def _host(name: str) -> bool:
    return re.fullmatch(r"(?:\*\.)?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*", name) is not None
