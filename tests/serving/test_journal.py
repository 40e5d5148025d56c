from __future__ import annotations

import io
import json
import logging

import pytest

from medtail.serving.journal import Journal, JournalHandler


def test_events_are_json_a_line_with_the_time() -> None:
    stream = io.StringIO()
    journal = Journal(stream)
    journal.write("one", port=1)
    journal.write("two", text="a\nb")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["one", "two"]
    assert all(event["time"].endswith("+00:00") for event in events)


def test_an_error_is_its_type_and_place_never_its_text() -> None:
    stream = io.StringIO()
    try:
        raise ValueError("Sorrow^Jane")
    except ValueError as error:
        Journal(stream).write_error("failed", error, request="r1")
    event = json.loads(stream.getvalue())
    assert event["error"] == "ValueError"
    assert "test_journal.py" in event["at"][-1]
    assert "Sorrow" not in stream.getvalue()


def test_other_loggers_are_taken_without_arguments_and_traceback() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("medtail.test_journal")
    logger.propagate = False
    logger.handlers = [JournalHandler(Journal(stream))]
    try:
        raise KeyError("secret")
    except KeyError:
        logger.exception("while reading %s", "jane.dcm")
    event = json.loads(stream.getvalue())
    assert event["message"] == "while reading %s"
    assert event["error"] == "KeyError"
    assert "jane" not in stream.getvalue()
    assert "secret" not in stream.getvalue()


def test_without_a_stream_it_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Journal().write("started")
    assert json.loads(capsys.readouterr().err)["event"] == "started"
