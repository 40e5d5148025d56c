from __future__ import annotations

import torch

from medtail.models.batch_mixer import BatchMixer, BatchMixerConfig


def mixer(width: int = 16, **changes: object) -> BatchMixer:
    torch.manual_seed(0)
    return BatchMixer(width, config=BatchMixerConfig(**{"dropout": 0.0, **changes}))  # type: ignore[arg-type]


def test_it_has_as_many_parameters_as_specified() -> None:
    assert sum(parameter.numel() for parameter in mixer(256).parameters()) == 263_680


def test_each_label_sees_the_batch_and_no_other_label() -> None:
    vectors = torch.randn(5, 3, 16, requires_grad=True)
    mixer()(vectors)[0, 1].sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad[:, 1].abs().sum(dim=1) > 0).all()
    assert (vectors.grad[:, [0, 2]] == 0).all()


def test_labels_are_mixed_by_the_same_weights_one_by_one() -> None:
    model, vectors = mixer(), torch.randn(5, 3, 16)
    alone = torch.cat([model(vectors[:, c : c + 1]) for c in range(3)], dim=1)
    torch.testing.assert_close(model(vectors), alone)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(model(vectors[order]), model(vectors)[order])


def test_a_batch_of_one_is_left_alone() -> None:
    vectors = torch.randn(1, 3, 16)
    assert mixer()(vectors) is vectors


def test_partners_of_the_control_are_other_labels() -> None:
    model, vectors = mixer(sham="partners"), torch.randn(6, 4, 16, requires_grad=True)
    torch.manual_seed(2)
    model(vectors)[0, 1].sum().backward()
    assert vectors.grad is not None
    reached = vectors.grad[1:].abs().sum(dim=2) > 0
    assert (reached.sum(dim=1) == 1).all()  # one vector an image, as without the control
    assert reached[:, [0, 2, 3]].any()
