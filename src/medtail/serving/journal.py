"""The server's log: one JSON object a line, and in it nothing of a patient.

No file name, no query, no body, no header and no address of a client is ever handed to it; errors appear as their type
and the place in the code, for their text may quote a file.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO, final


@final
class Journal:
    """Writes events as JSON lines; safe from several threads.

    Args:
        stream: Where to write; standard error, as it is at the time, if None.

    Example:
        >>> import io
        >>> stream = io.StringIO()
        >>> Journal(stream).write("started", port=8000)
        >>> json.loads(stream.getvalue())["event"]
        'started'
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Write one event."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields})
        with self._lock:
            stream = self._stream if self._stream is not None else sys.stderr
            stream.write(line + "\n")
            stream.flush()

    def write_error(self, event: str, error: BaseException, **fields: Any) -> None:
        """Write an error: its type and where it was raised, not what it says."""
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        places = [f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} {frame.name}" for frame in frames]
        self.write(event, error=type(error).__name__, at=places, **fields)


@final
class JournalHandler(logging.Handler):
    """Takes what the web server's own loggers say into the journal: the message's template, no arguments, no traceback.

    Args:
        journal: Where it goes.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        kind = record.exc_info[0] if record.exc_info else None
        fields = {} if kind is None else {"error": kind.__name__}
        self._journal.write("log", level=record.levelname.lower(), message=str(record.msg)[:200], **fields)
