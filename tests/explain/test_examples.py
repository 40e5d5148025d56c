from __future__ import annotations

import torch

from medtail.explain.examples import tiny_diagnoser


def test_examples_follow_their_seed_and_leave_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = tiny_diagnoser("dual"), tiny_diagnoser("dual"), tiny_diagnoser("dual", seed=1)
    assert torch.equal(torch.rand(2), expected)
    image = torch.rand(1, 1, 64, 64)
    assert torch.equal(first(image), again(image))
    assert not torch.equal(first(image), other(image))
    assert not first.training
