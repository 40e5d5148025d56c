"""What the server says when it does not answer: a status, one word a machine reads, and a sentence for a person.

Everything that goes wrong becomes one of these; nothing else ever reaches a client.
"""

from __future__ import annotations

from typing import Any, final

RETRY_S = 2


@final
class Refusal(Exception):  # noqa: N818  # the request is refused; nothing is broken
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        kind: One word.
        message: For a person.
        retry_s: Seconds after which to come back; None where that would not help.

    Example:
        >>> Refusal.busy().status, Refusal.busy().to_json()["error"]["kind"]
        (503, 'busy')
    """

    def __init__(self, status: int, kind: str, message: str, *, retry_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.retry_s = status, kind, message, retry_s

    def to_json(self, *, request: str | None = None) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"error": {"kind": self.kind, "message": self.message}, "request": request}

    @classmethod
    def image(cls, message: str) -> Refusal:
        """The file cannot be read as an image."""
        return cls(422, "image", message)

    @classmethod
    def wrong(cls, message: str) -> Refusal:
        """The request itself is wrong."""
        return cls(400, "request", message)

    @classmethod
    def timeout(cls) -> Refusal:
        """It took too long."""
        return cls(504, "timeout", "The file took too long to read. Try a smaller one, or allow more with --timeout.")

    @classmethod
    def busy(cls) -> Refusal:
        """Too many requests are waiting."""
        return cls(503, "busy", "The server is busy. Try again in a moment.", retry_s=RETRY_S)

    @classmethod
    def too_large(cls, max_mb: float) -> Refusal:
        """The file has too many bytes."""
        return cls(413, "size", f"The file is larger than {max_mb:g} MB, the limit of this server (--max-mb).")

    @classmethod
    def gone(cls) -> Refusal:
        """The client hung up before its file had come; nobody hears this, but the log tells it from our mistakes."""
        return cls(499, "gone", "The connection ended before the whole file had come.")

    @classmethod
    def broken(cls) -> Refusal:
        """A mistake of ours."""
        return cls(500, "internal", "Something went wrong in the server. Its log names this request.")
