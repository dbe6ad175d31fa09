"""Reload: a changed file, SIGHUP, `POST /reload` and `gateway reload` all come here, one after the other.

A new configuration is loaded and checked aside while requests go on; what runs changes only when all of it can run. Otherwise
the last good one goes on, and the log, the metrics and whoever asked are told why.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.control.load import STDIN, Loaded, load
from gateway.control.reading.files import Look, Settling, Sources, Stamps, digests_of, stamps_of
from gateway.control.reading.problems import ConfigError, Problem, render_text
from gateway.control.running.off_loop import off_loop
from gateway.control.tools.diff import MOST, Change, diff, render
from gateway.metrics import ReloadMetrics

INTERVAL: Final = 1.0
"""Seconds between two looks at the files."""
SETTLE: Final = 0.25
"""Seconds after which files that have changed must still be the same."""
READ_ANYWAY: Final = 10
"""Every so many looks the content is read even if no stamp has changed: not every file system keeps time well."""
FIXED: Final[tuple[tuple[str, ...], ...]] = (("server", "workers"), ("admin", "listen"))
"""What cannot change while the gateway runs."""

_log = logging.getLogger("gateway")


class ReloadError(Exception):
    """A valid configuration that cannot run here and now; the text is for the operator."""


class Target(Protocol):
    """What runs a configuration."""

    @property
    def loaded(self) -> Loaded:
        """What runs now."""

    async def change_to(self, loaded: Loaded) -> None:
        """Run this from now on, all of it or nothing. Raises ReloadError."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reload went."""

    ok: bool
    hash: str
    """Of the configuration that runs now."""
    changes: list[Change] = field(default_factory=list)
    problems: tuple[Problem, ...] = ()
    dry_run: bool = False
    last_change: str = ""
    """Where nothing has changed: when something did last, and who asked for it; empty: not since the start."""

    @property
    def text(self) -> str:
        """What has changed, or what is wrong."""
        if not self.ok:
            return render_text(self.problems)
        since = f": the last ones were taken over at {self.last_change}" if self.last_change else ""
        return render(self.changes) + since


class Reloader:
    """Reloads a target from its file. `run` looks for changes until it is cancelled."""

    def __init__(self, target: Target, metrics: ReloadMetrics, *, interval: float = INTERVAL, settle: float = SETTLE) -> None:
        self._interval = interval
        self._settle = settle
        self._target = target
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._settling = Settling(target.loaded.sources.digests)
        self._sources = target.loaded.sources
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self.last = Outcome(True, target.loaded.hash)
        """How the last one went; the start counts."""
        self._last_change = ""

    # -- one reload --------------------------------------------------------------------------------------------------

    async def reload(self, cause: str, *, dry_run: bool = False) -> Outcome:
        """Load the file and change to what it says. Never raises for what the file holds."""
        async with self._lock:
            outcome = await self._reload(cause, dry_run=dry_run)
            if not dry_run:
                self.last = outcome
                if outcome.changes:
                    self._last_change = f"{time.strftime('%H:%M:%S')} ({cause})"
            return outcome

    async def _reload(self, cause: str, *, dry_run: bool) -> Outcome:
        target, running = self._target, self._target.loaded
        try:
            if running.path == STDIN:
                raise ReloadError("the configuration came from standard input, which cannot be read again")
            loaded = await off_loop(functools.partial(load, running.path))
            if not dry_run:
                await self._look_at(loaded.sources, loaded.sources)
            refused = list(refusals(running, loaded))
            if refused:
                raise ConfigError(refused)
            changes = await off_loop(functools.partial(diff, running, loaded))
            if not dry_run:
                await target.change_to(loaded)
        except ConfigError as error:
            if not dry_run and error.sources.digests:
                # Who could not read all of it does not know all the files: those of the last time count too.
                every = Sources(
                    {**self._sources.digests, **error.sources.digests},
                    tuple(dict.fromkeys((*self._sources.patterns, *error.sources.patterns))),
                )
                await self._look_at(error.sources, every)
            return self._failed(cause, error.problems, dry_run=dry_run)
        except ReloadError as error:
            return self._failed(cause, (Problem(str(running.path), 0, 0, str(error)),), dry_run=dry_run)
        except Exception as error:  # noqa: BLE001 - whatever it is, what runs goes on
            _log.exception("reload failed (%s)", cause)
            return self._failed(cause, (Problem(str(running.path), 0, 0, f"{type(error).__name__}: {error}"),), dry_run=dry_run)
        if not dry_run:
            self._metrics.succeeded(time.time())
            _log.info("configuration reloaded (%s): %s\n%s", cause, loaded.hash, render(changes))
        return Outcome(True, loaded.hash, changes, dry_run=dry_run, last_change="" if changes else self._last_change)

    async def _look_at(self, read: Sources, every: Sources) -> None:
        """`read` has just been tried; look at the files of `every` from now on."""
        self._sources = every
        self._settling.tried(read.digests, await off_loop(every.paths))

    def _failed(self, cause: str, problems: tuple[Problem, ...], *, dry_run: bool) -> Outcome:
        if not dry_run:
            self._metrics.failed()
            text = render_text(problems[:MOST])
            if len(problems) > MOST:
                text += f"\n… and {len(problems) - MOST} more problems"
            _log.error("reload failed (%s), configuration %s goes on:\n%s", cause, self._target.loaded.hash, text)
        return Outcome(False, self._target.loaded.hash, [], problems, dry_run)

    def request(self, cause: str) -> None:
        """Reload soon; for signals. While two are waiting, a third would find nothing that they do not."""
        if len(self._tasks) < 2:
            task = asyncio.get_running_loop().create_task(self.reload(cause))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # -- looking for changes -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at the files once a second, as long as the configuration says so."""
        stamps: Stamps | None = None
        looks, wait = 0, self._interval
        while True:
            await asyncio.sleep(wait)
            wait = self._interval
            if not self._target.loaded.config.server.reload.watch:
                stamps = None
                continue
            looks += 1
            found = await off_loop(lambda: stamps_of(self._sources.paths()))
            if found == stamps and looks % READ_ANYWAY:
                continue
            # Nothing that is settled is read again before its stamp changes.
            stamps = found
            look = self._settling.seen(await off_loop(lambda: digests_of(self._sources.paths())))
            if look is Look.RELOAD:
                await self.reload("files have changed")
            elif look is Look.WAIT:
                stamps, wait = None, self._settle

    async def stop(self) -> None:
        """Reloads that have begun are left as they are: either they are through or they change nothing."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def refusals(running: Loaded, loaded: Loaded) -> list[Problem]:
    """What has changed and cannot while the gateway runs."""
    return [
        loaded.positions.problem(
            loc, f"`{'.'.join(map(str, loc))}` cannot change while the gateway runs", "restart it, or take the change back"
        )
        for loc in FIXED
        if functools.reduce(getattr, loc, running.config) != functools.reduce(getattr, loc, loaded.config)
    ]
