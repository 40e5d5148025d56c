"""Towers of a few thousand random weights, saved as people would have them on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "chest", "x", "-", "ray", "with", "of", "mass",
         "nodule", "no", "there", "is", "on", "this"]  # fmt: skip


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    named: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "eos_token": "[SEP]"}
    tf.PreTrainedTokenizerFast(tokenizer_object=words, **named).save_pretrained(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.CLIPModel(
            tf.CLIPConfig(
                text_config={**shape, "vocab_size": len(WORDS), "max_position_embeddings": 24, "eos_token_id": 2},
                vision_config={**shape, "image_size": 32, "patch_size": 8},
                projection_dim=12,
            )
        )
    model.save_pretrained(folder)
    save_tokenizer(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def sentence_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentences")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.BertModel(
            tf.BertConfig(
                vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
            )
        )
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder
