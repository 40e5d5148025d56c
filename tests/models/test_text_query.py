from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.text_query import TextQueryConfig, TextQueryHead, read_class_texts
from medtail.tables.labels import LabelSpace
from medtail.tables.vectors import Phrase, text_vectors

TINY = TextQueryConfig(texts="t.safetensors", text_width=8, width=16, heads=4, inner=32)


def unit(count: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, 8))
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("match", [True, False])
def test_a_classs_logit_is_the_same_whichever_classes_are_asked_beside_it(match: bool) -> None:
    texts = unit(5)
    head = TextQueryHead(6, 5, config=replace(TINY, match=match), texts=texts).eval()
    features = torch.randn(3, 6, 3, 3)
    together = head(features)
    for columns in ([4, 2], [0], [3, 1, 0, 2, 4]):
        torch.testing.assert_close(head.asked(texts[columns])(features), together[:, columns])
    assert together.std(dim=1).min() > 0, "classes that all score alike would pass trivially"


def test_every_weight_is_shared_and_learns_and_the_texts_do_not() -> None:
    head = TextQueryHead(6, 3, config=TINY, texts=unit(3))
    asked = head.asked(unit(2, seed=1))
    own, other = head.state_dict(), asked.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own if name not in ("class_texts", "offset"))
    assert {"class_texts", "offset"} <= own.keys() - dict(head.named_parameters()).keys()
    head(torch.randn(2, 6, 3, 3)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        # what keys are moved by alike changes no softmax
        assert parameter.grad.abs().sum() > 0 or name == "to_keys.bias", name


def test_first_logits_are_near_the_class_frequencies_and_a_new_class_has_no_offset() -> None:
    head = TextQueryHead(6, 3, config=TINY, texts=unit(3), bias=[-1.0, -4.0, -4.0]).eval()
    features = torch.zeros(1, 6, 2, 2)
    with torch.no_grad():
        head.weight.zero_()
        head.out.weight.zero_()
        head.out.bias.zero_()
    torch.testing.assert_close(head(features), torch.tensor([[-1.0, -4.0, -4.0]]))
    torch.testing.assert_close(head.asked(unit(1, seed=2))(features), torch.tensor([[-3.0]]))
    torch.testing.assert_close(head.asked(unit(1, seed=2), offset=[0.5])(features), torch.tensor([[-2.5]]))


def test_order_of_positions_is_no_matter() -> None:
    head = TextQueryHead(6, 3, config=TINY, texts=unit(3)).eval()
    features = torch.randn(2, 6, 3, 3)
    shuffled = features.flatten(2)[:, :, torch.randperm(9)].view(2, 6, 3, 3)
    torch.testing.assert_close(head(shuffled), head(features))


def test_what_is_learnt_from_some_texts_holds_for_others() -> None:
    """Classes are directions of the map, texts are these directions: 48 of them are trained, 12 others asked."""
    torch.manual_seed(0)
    config = TextQueryConfig(texts="t", text_width=8, width=16, heads=2, inner=16, dropout=0.0)
    texts = unit(60)
    directions = torch.from_numpy(texts)
    head = TextQueryHead(8, 48, config=config, texts=texts[:48], bias=[-3.8] * 48)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)

    def batch(first: int, last: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        which = torch.randint(first, last, (count,))
        maps = 0.3 * torch.randn(count, 8, 1, 2)
        maps[:, :, 0, 0] += 2.0 * directions[which]
        return maps, torch.nn.functional.one_hot(which - first, last - first).float()

    for _ in range(100):
        maps, targets = batch(0, 48, 32)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(maps), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    maps, targets = batch(48, 60, 256)
    with torch.inference_mode():
        logits = head.eval().asked(texts[48:])(maps)
    right = (logits.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
    assert right > 0.6, "chance is 1 / 12"


def test_texts_are_read_by_class_name_and_checked(tmp_path: Path) -> None:
    phrases = [Phrase(name, kind, "", name + kind) for name in ("Mass", "Bulla") for kind in ("prompt", "description")]  # type: ignore[arg-type]
    path = tmp_path / "t.safetensors"
    text_vectors(phrases, unit(4)).write(path)
    config = TextQueryConfig(texts=str(path), text_width=8)
    labels = LabelSpace(("Bulla", "Mass"))
    np.testing.assert_allclose(read_class_texts(config, labels), unit(4)[[2, 0]], atol=1e-6)
    described = TextQueryConfig(texts=str(path), text_width=8, phrases="description")
    np.testing.assert_allclose(read_class_texts(described, labels), unit(4)[[3, 1]], atol=1e-6)
    with pytest.raises(MedtailError, match=r"head\.text_width: found 384; t\.safetensors has .* length 8"):
        read_class_texts(TextQueryConfig(texts=str(path)), labels)
    with pytest.raises(MedtailError, match="class 'Hernia': no vectors"):
        read_class_texts(config, LabelSpace(("Hernia",)))


def test_wrong_shapes_and_an_odd_width_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"found vectors \[2, 8\]; expected \[3, 8\]"):
        TextQueryHead(6, 3, config=TINY, texts=unit(2))
    with pytest.raises(MedtailError, match="width 20, heads 8: expected a width that is a multiple of heads"):
        TextQueryConfig(texts="t", width=20)
