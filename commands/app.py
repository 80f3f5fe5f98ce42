"""A small page to try a classifier: drop a video, see its labels. `videomae app FOLDER`; needs `videomae[demo]`."""

import argparse
from collections.abc import Callable

from videomae.model_source import open_config, open_device
from videomae.pipeline_videomae import VideoClassificationPipeline


def make_labeller(model: str, device: str | None = None) -> Callable[[str, bool, int], dict[str, float]]:
    """A function from a video file to the scores of its best labels, by the model's saved policy."""
    from videomae import VideoMAEForVideoClassification, VideoMAEVideoProcessor

    open_config(model, "model", kind="ForVideoClassification")
    pipe = VideoClassificationPipeline(
        model=VideoMAEForVideoClassification.from_pretrained(model),
        video_processor=VideoMAEVideoProcessor.from_pretrained(model),
        device=open_device(device),
    )

    def label(video: str, all_views: bool, top_k: int) -> dict[str, float]:
        guesses = pipe(video, top_k=top_k, **({"views": "test"} if all_views else {}))
        return {guess["label"]: guess["score"] for guess in guesses}

    return label


def build_page(model: str, device: str | None = None):
    """The gradio page, ready to launch."""
    try:
        import gradio
    except ImportError as error:
        raise OSError("the page needs gradio: pip install 'videomae[demo]'") from error
    label = make_labeller(model, device)

    def show(video: str | None, all_views: bool, top_k: int) -> dict[str, float]:
        if not video:
            raise gradio.Error("Choose a video first.")
        try:
            return label(video, all_views, int(top_k))
        except ValueError as problem:  # a file that is no video, too short, ...
            raise gradio.Error(str(problem)) from problem

    return gradio.Interface(
        show,
        inputs=[
            gradio.Video(label="Video"),
            gradio.Checkbox(label="All views of the test, averaged (slower, more reliable)"),
            gradio.Slider(1, 10, value=5, step=1, label="Labels to show"),
        ],
        outputs=gradio.Label(label="What it shows"),
        title=f"VideoMAE: {model}",
        flagging_mode="never",
    )


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="videomae app", description=__doc__)
    parse.add_argument("model", help="folder or Hub name of a classifier")
    parse.add_argument("--device", help="such as cpu or cuda [what there is]")
    parse.add_argument("--host", default="127.0.0.1", help="address to listen at [127.0.0.1: this machine alone]")
    parse.add_argument("--port", type=int, default=7860, help="[7860]")
    return parse


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    build_page(arguments.model, arguments.device).launch(server_name=arguments.host, server_port=arguments.port)
    return 0
