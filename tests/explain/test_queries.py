from __future__ import annotations

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.explain.examples import tiny_diagnoser
from medtail.explain.queries import has_queries, query_maps
from medtail.models.backbones import ResNetConfig
from medtail.models.diagnoser import build_diagnoser
from medtail.models.ml_decoder import MlDecoderConfig
from medtail.models.syntus import SyntusHeadConfig
from medtail.models.text_query import TextQueryConfig
from medtail.tables.labels import LabelSpace

SPACE = LabelSpace(("a", "b", "c"))
HEADS = {
    "ml_decoder": MlDecoderConfig(width=16, heads=2, inner=16),
    "text_query": TextQueryConfig(texts="none", text_width=8, width=16, heads=2, inner=16),
    "syntus": SyntusHeadConfig.of_size("tiny"),
}


def model_of(head):
    texts = np.eye(3, 8, dtype=np.float32) if isinstance(head, TextQueryConfig) else None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_diagnoser(
            backbone=ResNetConfig(), head=head, labels=SPACE, link="sigmoid", channels=1, size_px=64, texts=texts
        ).eval()


@pytest.mark.parametrize("name", HEADS)
def test_each_class_looks_somewhere_of_its_own(name):
    model = model_of(HEADS[name])
    assert has_queries(model.head)
    maps = query_maps(model, torch.rand(2, 1, 64, 64), None, classes=[0, 1, 2])
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 3))
    assert not torch.allclose(maps[:, 0], maps[:, 1], rtol=1e-3)


def test_the_attention_of_text_queries_is_what_the_head_reads_with():
    """With the values of one position alone, what is read grows with the attention the position gets."""
    model = model_of(HEADS["text_query"])
    features = model.backbone(torch.rand(1, 1, 64, 64)).detach()
    looks = model.head.attention(features)
    reads = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, **options):
        reads.append(original(query, key, torch.eye(value.shape[2]).expand(1, 2, -1, -1), **options))
        return original(query, key, value, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medtail.models.text_query.F.scaled_dot_product_attention", spy)
        model.head(features)
    torch.testing.assert_close(looks, reads[0])


def test_classes_of_a_group_share_their_query():
    model = model_of(MlDecoderConfig(groups=2, width=16, heads=2, inner=16))
    maps = query_maps(model, torch.rand(1, 1, 64, 64), None, classes=[0, 1, 2])
    assert torch.equal(maps[:, 0], maps[:, 1])
    assert not torch.allclose(maps[:, 0], maps[:, 2], rtol=1e-3)


def test_a_head_without_queries_is_refused():
    model = tiny_diagnoser("cnn")
    assert not has_queries(model.head)
    with pytest.raises(MedtailError, match="method 'attention': the head has no query a class"):
        query_maps(model, torch.rand(1, 1, 64, 64), None, classes=[0])
