from __future__ import annotations

import torch

from medtail.models.heads import LinearHeadConfig, build_head


def test_untrained_head_predicts_the_class_frequencies() -> None:
    frequencies = torch.tensor([0.3, 0.01])
    head = build_head(LinearHeadConfig(), feature_dim=64, num_classes=2, prior=torch.logit(frequencies).tolist()).eval()
    features = torch.rand(500, 64, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.sigmoid(head(features)).mean(dim=0), frequencies, rtol=0.3, atol=0)


def test_prior_is_ignored_where_the_config_says_so() -> None:
    head = build_head(LinearHeadConfig(prior_bias=False), feature_dim=4, num_classes=2, prior=[-3.0, -4.0])
    assert head.linear.bias.tolist() == [0.0, 0.0]


def test_head_averages_over_the_map() -> None:
    head = build_head(LinearHeadConfig(dropout=0.0), feature_dim=3, num_classes=2)
    features = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(head(features), features.mean(dim=(2, 3)) @ head.linear.weight.T)


def test_scales_multiply_each_logit_and_begin_at_one() -> None:
    head = build_head(LinearHeadConfig(dropout=0.0, scales=True), feature_dim=3, num_classes=2, prior=[-1.0, -2.0])
    features = torch.rand(2, 3, 4, 5)
    before = head(features)
    with torch.no_grad():
        head.scales.copy_(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(head(features), before * torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(before, head.linear(features.mean(dim=(2, 3))))


def test_dropout_is_only_for_training() -> None:
    head = build_head(LinearHeadConfig(dropout=0.9), feature_dim=100, num_classes=1)
    features = torch.rand(1, 100, 1, 1)
    assert torch.equal(head.eval()(features), head(features))
    assert not torch.equal(head.train()(features), head.eval()(features))
