from __future__ import annotations

import pytest

from medtail.serving.refusals import Refusal


@pytest.mark.parametrize(
    ("refusal", "status", "kind"),
    [
        (Refusal.image("x"), 422, "image"),
        (Refusal.wrong("x"), 400, "request"),
        (Refusal.timeout(), 504, "timeout"),
        (Refusal.busy(), 503, "busy"),
        (Refusal.too_large(2.5), 413, "size"),
        (Refusal.gone(), 499, "gone"),
        (Refusal.broken(), 500, "internal"),
    ],
)
def test_every_refusal_has_a_status_a_kind_and_words(refusal: Refusal, status: int, kind: str) -> None:
    assert (refusal.status, refusal.kind) == (status, kind)
    body = refusal.to_json(request="r1")
    assert body["error"]["kind"] == kind
    assert body["error"]["message"]
    assert body["request"] == "r1"


def test_only_what_passes_with_time_says_when_to_come_back() -> None:
    assert Refusal.busy().retry_s == 2
    assert Refusal.image("x").retry_s is None
    assert "2.5 MB" in Refusal.too_large(2.5).message
