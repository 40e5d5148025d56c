"""Opening the port: the one module that knows the web server."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from medtail.errors import MedtailError, UsageError
from medtail.serving.journal import Journal, JournalHandler
from medtail.serving.settings import ServeSettings

if TYPE_CHECKING:
    import uvicorn

    from medtail.serving.similar import Progress

EXTRA = "Serving needs the extra 'serve': install it with `pip install 'medtail[serve]'`."
HEAT_EXTRA = "Heat maps need the extra 'explain': install it with `pip install 'medtail[explain]'`, or give --no-heat."


@final
class Listener:
    """A bound socket and what listens on it; made by `listen`, closed by `close`.

    Attributes:
        settings: With the port that was bound.
        server: The web server, not yet running.
    """

    def __init__(self, settings: ServeSettings, server: uvicorn.Server, bound: socket.socket) -> None:
        self.settings, self.server, self._bound = settings, server, bound

    def run(self) -> None:
        """Answer requests until interrupted or told to end; what was let in is answered first."""
        if threading.current_thread() is threading.main_thread():
            # the web server ends well on both signals, then raises them again: here both become one
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.server.run(sockets=[self._bound])

    def close(self) -> None:
        """Close the port."""
        self._bound.close()


def listen(application: Any, settings: ServeSettings, *, journal: Journal) -> Listener:
    """Bind the port, so that a taken one shows before anything is promised.

    Args:
        application: The guarded application.
        settings: Where to listen.
        journal: Takes what the web server says.

    Raises:
        MedtailError: The address cannot be bound.
    """
    import uvicorn

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        bound = socket.create_server((settings.host.strip("[]"), settings.port), family=family, backlog=256)
    except OSError as error:
        raise MedtailError(
            f"serve: {settings.host}, port {settings.port} cannot be opened ({error.strerror or error}). Choose another"
            " with --port, or 0 for any."
        ) from error
    # accepted connections inherit it; asyncio would set it only on sockets made with an explicit protocol, and without
    # it the body of an answer waits 40 ms for the client to acknowledge the header
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    settings = replace(settings, port=bound.getsockname()[1])
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [JournalHandler(journal)] if name in ("uvicorn", "asyncio") else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(logging.WARNING)
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        proxy_headers=False,  # the address that counts against the rate is the one that connected
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        # beyond the requests let in: those being refused, and connections that wait
        limit_concurrency=max(256, 8 * settings.queue),
        h11_max_incomplete_event_size=16_384,
    )
    return Listener(settings, uvicorn.Server(config), bound)


def serve(
    run: Path,
    settings: ServeSettings,
    *,
    similar: Path | None = None,
    say: Callable[[ServeSettings], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Serve a trained run until interrupted.

    Args:
        run: A run folder, or the model folder inside it.
        settings: Where, for whom and how much.
        similar: A manifest whose training cases may be shown; None shows none.
        say: Called with the settings once the port is open, the port filled in.
        progress: Of reading the cases.

    Raises:
        MedtailError: An extra is missing, the run or the manifest is wrong, or the port cannot be opened.
        UsageError: The settings do not go together with the model.
    """
    check_extras(with_heat=settings.heat_maps)
    from medtail.serving.app import Service, build_app
    from medtail.serving.diagnosis import Diagnosis
    from medtail.serving.similar import read_cases

    diagnosis = Diagnosis(run, with_heat=settings.heat_maps, engine=settings.engine, threads=settings.threads)
    cases = None if similar is None else read_cases(similar, diagnosis, progress=progress)
    journal = Journal()
    with Service(diagnosis, settings, cases=cases, journal=journal) as service:
        listener = listen(build_app(service), settings, journal=journal)
        try:
            journal.write("started", port=listener.settings.port, model=diagnosis.evidence.digest[:12])
            if say is not None:
                say(listener.settings)
            listener.run()
        except KeyboardInterrupt:  # how a person stops it
            pass
        finally:
            listener.close()
            journal.write("stopped")


def check_extras(*, with_heat: bool) -> None:
    """Check that the libraries are there before a model is loaded.

    Raises:
        UsageError: One is not; names the extra.
    """
    needed = {"fastapi": EXTRA, "uvicorn": EXTRA, **({"captum": HEAT_EXTRA} if with_heat else {})}
    for name, advice in needed.items():
        if find_spec(name) is None:
            raise UsageError(f"serve: {name} is not installed. {advice}")
