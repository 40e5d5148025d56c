from __future__ import annotations

import numpy as np
import torch

from medtail.models.label_graph import LabelGraphConfig, LabelGraphHead, label_graph

# "common" is in 100 images, "rare" in 10, nine of them with "common"; "alone" is on its own, "never" in none
TOGETHER = np.array([[100, 9, 2, 0], [9, 10, 0, 0], [2, 0, 20, 0], [0, 0, 0, 0]])


def test_rare_label_leans_on_the_common_one_it_comes_with_and_not_the_other_way() -> None:
    graph = label_graph(TOGETHER, cut=0.4, neighbours=0.25)
    np.testing.assert_allclose(graph, [[1, 0, 0, 0], [0.25, 0.75, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_neighbours_share_what_a_label_takes_from_others() -> None:
    together = np.array([[10, 6, 7], [6, 60, 0], [7, 0, 70]])
    np.testing.assert_allclose(label_graph(together, cut=0.4, neighbours=0.2)[0], [0.8, 0.1, 0.1])
    np.testing.assert_allclose(label_graph(together, cut=0.65, neighbours=0.2)[0], [0.8, 0.0, 0.2])


def test_learning_the_common_label_moves_the_rare_ones_weights_through_the_edge() -> None:
    def moved(together: np.ndarray) -> bool:
        torch.manual_seed(0)
        head = LabelGraphHead(5, 4, config=LabelGraphConfig(width=8, embedding=8), together=together)
        before = head.weights().detach()[1]
        with torch.no_grad():
            head.embedding[0] += 1.0
        return not torch.equal(head.weights()[1], before)

    assert moved(TOGETHER)
    assert not moved(np.diag(np.diag(TOGETHER)))


def test_a_loaded_head_brings_its_graph() -> None:
    head = LabelGraphHead(5, 4, config=LabelGraphConfig(width=8), together=TOGETHER)
    again = LabelGraphHead(5, 4, config=LabelGraphConfig(width=8))
    again.load_state_dict(head.state_dict())
    features = torch.randn(2, 5, 3, 3)
    assert torch.equal(again(features), head(features))


def test_pooling_is_the_largest_or_the_mean() -> None:
    features = torch.randn(2, 5, 3, 3)
    for pool, pooled in (("max", features.amax(dim=(2, 3))), ("mean", features.mean(dim=(2, 3)))):
        head = LabelGraphHead(5, 4, config=LabelGraphConfig(pool=pool), together=TOGETHER)  # type: ignore[arg-type]
        torch.testing.assert_close(head(features), pooled @ head.weights().T)
