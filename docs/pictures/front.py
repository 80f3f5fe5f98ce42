"""The picture at the top of README.md: a clip, what the model sees of it, what it rebuilds, and its label.

    python docs/pictures/front.py PRETRAINED VIDEO --classifier CLASSIFIER

PRETRAINED and CLASSIFIER are model folders such as `make demo` leaves, VIDEO a clip that neither was trained on. It has to be
a drawn one: no frame of a real video belongs into the repository. Without a classifier there is no label.
"""

import argparse
from pathlib import Path

from videomae import VideoClassificationPipeline
from videomae.models import open_classifier, open_config, open_processor
from videomae.pictures.clip import read_clip
from videomae.pictures.drawing import grid_picture, png_bytes
from videomae.pictures.views import open_pretrained, rebuilt_clip, reconstruction_views

PICTURE = Path(__file__).with_name("front.png")
NOTE = "Each rebuilt patch got its own true mean and deviation back, as in the visualiser of the VideoMAE release."


def draw(
    pretrained: str, video: str, classifier: str | None, *, mask_ratio: float, seed: int = 0, columns: int, height: int
) -> bytes:
    model = open_pretrained(pretrained)
    clip = read_clip(video, open_processor(pretrained, model.config), model.config)
    rebuilt = rebuilt_clip(model, clip, mask_ratio=mask_ratio, seed=seed)
    rows, _ = reconstruction_views(rebuilt, ["patch"])
    rows[2] = ("rebuilt", rows[2][1])
    rows[1] = (f"seen\n({1 - float(rebuilt.hidden.float().mean()):.0%})", rows[1][1])
    notes = [f"label: {best['label']} ({best['score']:.0%})" for best in labels(classifier, video)]
    if rebuilt.normalised:
        notes.append(NOTE)
    return png_bytes(grid_picture(rows, notes=notes, columns=columns, height=height))


def labels(classifier: str | None, video: str) -> list[dict]:
    """The best label of the video, in a list; none without a classifier."""
    if classifier is None:
        return []
    processor = open_processor(classifier, open_config(classifier))
    return VideoClassificationPipeline(model=open_classifier(classifier), video_processor=processor)(video, top_k=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrained")
    parser.add_argument("video")
    parser.add_argument("--classifier")
    parser.add_argument("--mask_ratio", type=float, default=0.75)
    parser.add_argument("--seed", type=int, default=0, help="of the mask")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--height", type=int, default=96)
    options = vars(parser.parse_args())
    PICTURE.write_bytes(draw(**options))
    print(PICTURE)


if __name__ == "__main__":
    main()
