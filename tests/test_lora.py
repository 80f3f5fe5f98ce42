"""LoRA: the saved model is a plain one that computes the same, for transformers' own class too; and what is resumed."""

import pytest
import torch
from safetensors.torch import load_file
from support import TINY
from transformers import VideoMAEForVideoClassification as StockForVideoClassification

from videomae import VideoMAEConfig, VideoMAEForVideoClassification
from videomae.training import lora

pytest.importorskip("peft")


def tiny(rank):
    """A classifier with matrices that are no longer zero, and how many parameters are trained."""
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=5, initializer_range=0.2)).eval()
    count = lora.add_lora(model, rank)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.uniform_(-0.5, 0.5)
    return model, count


def clips():
    return torch.randn(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_only_the_small_matrices_the_last_norm_and_the_head_are_trained():
    _, count = tiny(4)
    width, blocks = 48, 3
    assert count == blocks * 2 * (4 * width + width * 4) + 2 * width + (width * 5 + 5)


def test_the_saved_folder_is_a_plain_model_that_computes_the_same_in_stock_too(tmp_path):
    model, _ = tiny(4)
    with torch.no_grad():
        expected = model(clips()).logits
        model.save_pretrained(tmp_path, state_dict=model.state_dict())
        for kind in (VideoMAEForVideoClassification, StockForVideoClassification):
            plain, report = kind.from_pretrained(tmp_path, output_loading_info=True)
            assert not report["missing_keys"] and not report["unexpected_keys"]
            torch.testing.assert_close(plain.eval()(clips()).logits, expected, rtol=0, atol=1e-4)
        assert torch.equal(model(clips()).logits, expected), "saving changes nothing in the model that is trained"
    plain = VideoMAEForVideoClassification(model.config)
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.save_pretrained(tmp_path / "plain")
    saved, usual = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "plain"))
    assert saved.keys() == usual.keys()


def test_what_was_trained_is_written_and_restored_exactly(tmp_path):
    model, _ = tiny(2)
    lora.write(model, tmp_path)
    other, _ = tiny(2)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
        other.load_state_dict(model.state_dict())  # what a checkpoint of merged weights must not do
        assert not torch.equal(other(clips()).logits, model(clips()).logits)
        lora.restore(other, tmp_path)
        assert torch.equal(other(clips()).logits, model(clips()).logits)
    with pytest.raises(ValueError, match="was written with another --lora_rank or --freeze"):
        plain = VideoMAEForVideoClassification(model.config)
        lora.restore(plain, tmp_path)
