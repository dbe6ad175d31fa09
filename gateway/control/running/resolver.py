"""The system's resolver: names through `/etc/hosts`, DNS and whatever else the machine is set up for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Final

AT_ONCE: Final = 8
"""Lookups in flight; the others wait."""


class SystemResolver:
    """`getaddrinfo` in threads of its own (see `ports.Resolver`).

    Not in the loop's pool of threads: a name server that does not answer would fill that. The threads are daemons, so that one
    that is stuck does not hold up the end of the process.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)

    async def resolve(self, name: str) -> tuple[str, ...]:
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[str, ...]] = loop.create_future()

        def done(addresses: tuple[str, ...], error: OSError | None) -> None:
            # Only now: a lookup that nobody waits for any more still has its thread.
            self._free.release()
            if answer.done():
                return
            if error is None:
                answer.set_result(addresses)
            else:
                answer.set_exception(error)

        def look() -> None:
            addresses: tuple[str, ...] = ()
            error: OSError | None = None
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
            except OSError as raised:
                error = raised
            except UnicodeError:
                error = socket.gaierror(socket.EAI_NONAME, "not a name")
            # The loop may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done, addresses, error)

        try:
            threading.Thread(target=look, name=f"resolve {name}", daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            raise OSError(f"no thread for a lookup: {error}") from None
        return await answer
