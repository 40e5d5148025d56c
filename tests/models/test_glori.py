from __future__ import annotations

import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.glori import GloriConfig, GloriHead


def made(parts: tuple[int, ...] = (6, 6, 4)) -> GloriHead:
    torch.manual_seed(0)
    head = GloriHead(parts, 3, config=GloriConfig(width=8, heads=2)).eval()
    torch.nn.init.normal_(head.weight)
    return head


def test_attention_is_what_the_answer_uses() -> None:
    head = made((6, 4))
    features = torch.randn(2, 10, 3, 2)
    shares = head.attention(features)
    assert shares.shape == (2, 2, 3, 6)
    torch.testing.assert_close(shares.sum(dim=3), torch.ones(2, 2, 3))
    _, _, values = head._prepare(features)
    found = head.out((shares @ values).transpose(1, 2).flatten(2))
    local = head.norm(head.queries + found)
    whole = head.whole(features[:, 6:].mean(dim=(2, 3)))
    logits = (torch.cat([local, whole[:, None].expand_as(local)], dim=2) * head.weight).sum(dim=2) + head.bias
    torch.testing.assert_close(head(features), logits, rtol=1e-4, atol=1e-5)


def test_the_last_part_speaks_for_the_whole_image_and_the_others_for_places() -> None:
    head, features = made(), torch.randn(2, 16, 4, 4)
    places = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    token = features.clone()
    token[:, 12:] = token[:, 12:].flatten(2)[:, :, places].unflatten(2, (4, 4))
    torch.testing.assert_close(head(token), head(features), rtol=0, atol=1e-5)
    patches = features.clone()
    patches[:, :6] = patches[:, :6].flatten(2)[:, :, places].unflatten(2, (4, 4))
    assert (head(patches) - head(features)).abs().max() > 1e-4


def test_every_part_is_read() -> None:
    head, features = made(), torch.randn(2, 16, 4, 4, requires_grad=True)
    head(features).square().sum().backward()
    assert features.grad is not None
    assert all(features.grad[:, part].abs().max() > 0 for part in (slice(0, 6), slice(6, 12), slice(12, 16)))


def test_blocks_are_told_apart() -> None:
    head, features = made(), torch.randn(2, 16, 4, 4)
    swapped = torch.cat([features[:, 6:12], features[:, :6], features[:, 12:]], dim=1)
    assert (head(swapped) - head(features)).abs().max() > 1e-4


def test_a_single_map_is_both_read_and_averaged() -> None:
    head, features = made((6,)), torch.randn(2, 6, 4, 4)
    assert head(features).shape == (2, 3)
    torch.testing.assert_close(head.answer(features).pooled, head.whole(features.mean(dim=(2, 3))))


def test_it_begins_with_the_class_frequencies_and_refuses_odd_widths() -> None:
    head = GloriHead((6, 4), 2, config=GloriConfig(width=8, heads=2), bias=[-1.0, -4.0]).eval()
    torch.testing.assert_close(head(torch.zeros(1, 10, 2, 2)), torch.tensor([[-1.0, -4.0]]), rtol=0, atol=0.2)
    with pytest.raises(MedtailError, match="width 12, heads 8"):
        GloriConfig(width=12)
