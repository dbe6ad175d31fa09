"""The system's resolver: names through `/etc/hosts`, DNS and whatever else the machine is set up for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from gateway.control.running.off_loop import off_loop

AT_ONCE: Final = 8
"""Lookups in flight; the others wait."""


class SystemResolver:
    """`getaddrinfo` in threads of its own (see `ports.Resolver`): a name server that does not answer would fill a pool."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)

    async def resolve(self, name: str) -> tuple[str, ...]:
        await self._free.acquire()
        loop = asyncio.get_running_loop()

        def look() -> tuple[str, ...]:
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
            except UnicodeError:
                raise socket.gaierror(socket.EAI_NONAME, "not a name") from None
            finally:
                # Only now: a lookup that nobody waits for any more still has its thread. The loop may have ended meanwhile.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._free.release)

        try:
            return await off_loop(look)
        except RuntimeError as error:
            self._free.release()
            raise OSError(f"no thread for a lookup: {error}") from None
