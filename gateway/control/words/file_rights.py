"""Who may use a file that the gateway makes: `mode`, `owner` and `group`."""

from __future__ import annotations

import grp
import pwd
from typing import Annotated, Final, TypeAlias

from gateway.control.words.model import Model, setting
from gateway.control.words.values import invalid, text_value
from gateway.server_settings import Rights

_NUMBERS: Final = 2**32 - 1
"""Of users and groups. The last one means nobody to the system."""


def _parse_mode(text: str) -> int:
    if not 3 <= len(text) <= 4 or not set(text) <= set("01234567") or int(text, 8) > 0o777 or int(text, 8) == 0:
        raise invalid("expected permission bits in octal, such as `0660`")
    return int(text, 8)


def _number(text: str) -> int | None:
    """None: it is a name."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > len(str(_NUMBERS)) or int(text) >= _NUMBERS:
        raise invalid(f"the system has no numbers above {_NUMBERS - 1}")
    return int(text)


def _parse_owner(text: str) -> int:
    number = _number(text)
    try:
        return pwd.getpwnam(text).pw_uid if number is None else number
    except (KeyError, ValueError):
        raise invalid("there is no user of this name here") from None


def _parse_group(text: str) -> int:
    number = _number(text)
    try:
        return grp.getgrnam(text).gr_gid if number is None else number
    except (KeyError, ValueError):
        raise invalid("there is no group of this name here") from None


Mode: TypeAlias = Annotated[int, *text_value("permission bits such as `0660`", _parse_mode)]
Owner: TypeAlias = Annotated[int, *text_value("the name of a user", _parse_owner)]
Group: TypeAlias = Annotated[int, *text_value("the name of a group", _parse_group)]


class FileRights(Model):
    """The fields of a block that has a file made."""

    mode: Mode | None = setting(None, "Permission bits of the file, such as `0660`. Default: as the umask says.")
    owner: Owner | None = setting(None, "User that owns the file, name or number. Default: that of the process.")
    group: Group | None = setting(None, "Group of the file, name or number. Default: that of the process.")

    def rights(self) -> Rights:
        """What they become."""
        return Rights(self.mode or 0, -1 if self.owner is None else self.owner, -1 if self.group is None else self.group)
