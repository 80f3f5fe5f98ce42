"""The example that the Hub's own VideoMAE cards show, as written there, with our classes."""

import pytest
import torch
import transformers

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEImageProcessor

EXAMPLE = """
from videomae import VideoMAEFeatureExtractor, VideoMAEForPreTraining
import numpy as np
import torch

num_frames = 16
video = list(np.random.randn(16, 3, 224, 224))

feature_extractor = VideoMAEFeatureExtractor.from_pretrained("MCG-NJU/videomae-base-short-ssv2")
model = VideoMAEForPreTraining.from_pretrained("MCG-NJU/videomae-base-short-ssv2")

pixel_values = feature_extractor(video, return_tensors="pt").pixel_values

num_patches_per_frame = (model.config.image_size // model.config.patch_size) ** 2
seq_length = (num_frames // model.config.tubelet_size) * num_patches_per_frame
bool_masked_pos = torch.randint(0, 2, (BATCH, seq_length)).bool()

outputs = model(pixel_values, bool_masked_pos=bool_masked_pos)
loss = outputs.loss
"""


@pytest.mark.parametrize("batch", [1, 2])
def test_the_example_of_the_hubs_cards_runs_as_written(batch, tmp_path, monkeypatch):
    """Only the folder is a small one, standing where the name points. With two clips the masks differ in size."""
    sizes = dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=96)
    decoder = dict(decoder_hidden_size=24, decoder_num_attention_heads=2, decoder_num_hidden_layers=1)
    folder = tmp_path / "MCG-NJU" / "videomae-base-short-ssv2"
    VideoMAEForPreTraining(VideoMAEConfig(**sizes, **decoder, use_mean_pooling=False)).save_pretrained(folder)
    VideoMAEImageProcessor().save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    example = EXAMPLE.replace("BATCH", str(batch))
    if batch == 2:
        example = example.replace("feature_extractor(video,", "feature_extractor([video, video],")
    names = {}
    exec(example, names)  # noqa: S102
    assert names["pixel_values"].shape == (batch, 16, 3, 224, 224)
    # transformers' class takes clips with as many hidden patches alone; ours is the mean over all hidden patches.
    stock = transformers.VideoMAEForPreTraining.from_pretrained(folder).eval()
    names["model"].eval()
    clips, masks = names["pixel_values"], names["bool_masked_pos"]
    with torch.no_grad():
        loss = names["model"](clips, bool_masked_pos=masks).loss
        alone = torch.stack([stock(clip[None], mask[None]).loss for clip, mask in zip(clips, masks)])
    expected = (alone * masks.sum(1)).sum() / masks.sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(names["loss"].detach(), expected, rtol=1e-4, atol=0)  # no dropout by default
