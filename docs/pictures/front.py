"""The picture at the top of README.md: a clip, what the model sees of it, what it rebuilds, and its label.

    python docs/pictures/front.py PRETRAINED CLASSIFIER VIDEO

PRETRAINED and CLASSIFIER are model folders such as `make demo` leaves, VIDEO a clip that neither was trained on. It has to be
a drawn one: no frame of a real video belongs into the repository.
"""

import argparse
from pathlib import Path

from videomae import VideoClassificationPipeline
from videomae.models import open_classifier, open_config, open_processor
from videomae.pictures.clip import read_clip
from videomae.pictures.drawing import grid_picture, png_bytes
from videomae.pictures.views import open_pretrained, rebuilt_clip, reconstruction_views

PICTURE = Path(__file__).with_name("front.png")


def draw(pretrained: str, classifier: str, video: str, *, mask_ratio: float, columns: int, height: int) -> bytes:
    model = open_pretrained(pretrained)
    clip = read_clip(video, open_processor(pretrained, model.config), model.config)
    rebuilt = rebuilt_clip(model, clip, mask_ratio=mask_ratio)
    rows, _ = reconstruction_views(rebuilt, ["nearby"])
    rows[1] = (f"seen\n({1 - float(rebuilt.hidden.float().mean()):.0%})", rows[1][1])
    pipe = VideoClassificationPipeline(
        model=open_classifier(classifier), video_processor=open_processor(classifier, open_config(classifier))
    )
    best = pipe(video, top_k=1)[0]
    label = f"label: {best['label']} (score {best['score']:.2f})"
    return png_bytes(grid_picture(rows, notes=[label], columns=columns, height=height))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrained")
    parser.add_argument("classifier")
    parser.add_argument("video")
    parser.add_argument("--mask_ratio", type=float, default=0.75)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--height", type=int, default=96)
    options = vars(parser.parse_args())
    PICTURE.write_bytes(draw(options.pop("pretrained"), options.pop("classifier"), options.pop("video"), **options))
    print(PICTURE)


if __name__ == "__main__":
    main()
