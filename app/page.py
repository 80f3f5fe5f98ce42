"""A page to try models in the browser: choose a video and see the answers. Needs `videomae[demo]`.

    videomae app FOLDER                                  # a classifier: labels over time, attention
    videomae app FOLDER --pretrained PRETRAINED          # and what a pre-trained model rebuilds
    videomae app FOLDER --action_detector DETECTOR       # and who does what
    videomae app FOLDER --write_space SPACE              # the files of a Space on the Hub that shows this page

The page downloads nothing and reports nothing; uploads stay in a temporary folder that is emptied every hour and removed
at the end.
"""

import abc
import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from videomae.app.about import about, introduction
from videomae.app.answers import Actions, Attention, Drawn, Labels, Rebuilding, make_examples
from videomae.choices import MEAN
from videomae.models import open_device
from videomae.pictures.plot import line_plot

KEPT_SECONDS = 3600  # how long uploads and results stay
LARGEST_UPLOAD = "500mb"
CAMERA = {"width": {"ideal": 640}, "height": {"ideal": 480}, "frameRate": {"ideal": 30}}  # models see no more
STATISTICS = {
    "guessed from visible patches (no leak)": "nearby",
    "true ones, as the official code (LEAK)": "patch",
    "left out (no leak)": "none",
}
STYLE = """
.gradio-container { width: 100% !important; max-width: 1280px !important; margin: auto; }
footer { display: none !important; }
button[aria-label^="Trim video"] { display: none; } /* it would download its tool */
@media (max-width: 640px) {
  .gradio-container .main.fillable { padding: 8px 12px !important; }
  .tab-container button { padding: 0 7px !important; } /* else some tabs hide in a menu */
}
.input-video .video-container { display: flex; flex-direction: column; } /* else its row of sources is cut off */
.input-video .video-container > :not(.source-selection) { flex: 1; min-height: 0; }
.input-video .source-selection { flex: none; }
.frames { padding-top: 36px; } /* the buttons have a strip of their own */
.frames .icon-button-wrapper.top-panel { top: -34px; }
"""


def serve(
    models: Mapping[str, str | None],
    *,
    device: str | None,
    examples: Sequence[str] | None,
    host: str,
    port: int,
    errors: str = "strict",
) -> None:
    """Show the page until Ctrl-C or SIGTERM. `models` are those of `build_page`, examples None makes some."""
    with tempfile.TemporaryDirectory(prefix="videomae-app-") as scratch:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(scratch) / "gradio")  # read when gradio is imported
        import_gradio()
        (Path(scratch) / "examples").mkdir()
        shown = make_examples(Path(scratch) / "examples") if examples is None else examples
        page = build_page(**models, device=device, examples=shown, scratch=scratch, errors=errors)
        address = start(page, host=host, port=port, scratch=scratch)
        print(f"{address} (Ctrl-C ends it)", flush=True)
        wait_for_the_end()
        page.close()


def wait_for_the_end() -> None:
    """Until Ctrl-C or SIGTERM."""
    over = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())
    try:
        over.wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def build_page(
    model: str | None = None,
    device: str | None = None,
    *,
    pretrained: str | None = None,
    action_detector: str | None = None,
    person_detector: str | None = None,
    actions: str | None = None,
    examples: Sequence[str] = (),
    scratch: str | Path | None = None,
    errors: str = "strict",
):
    """The gradio page, ready for `start`. `scratch` is a folder for what is made while it runs; `errors` is `--errors`."""
    gradio = import_gradio()
    if not any((model, pretrained, action_detector)):
        raise ValueError("the page needs a model: a classifier, --pretrained or --action_detector")
    for name, value in (("--person_detector", person_detector), ("--actions", actions)):
        if value and not action_detector:
            raise ValueError(f"{name} is for --action_detector, which is missing")
    transformers_logging.disable_progress_bar()
    where = open_device(device)
    labels = Labels(model, where, errors=errors) if model else None
    rebuilding = Rebuilding(pretrained, where, errors=errors) if pretrained else None
    acting = None
    if action_detector:
        acting = Actions(action_detector, where, person_detector, names=actions, errors=errors)
    source = labels or rebuilding or acting
    assert source is not None  # one model is given, see above
    attention = Attention(source.model.videomae, source.processor, errors=errors)
    named = {"model": model, "pretrained": pretrained, "action_detector": action_detector}
    models = {part: about(name) for part, name in named.items() if name}
    examples = [*(path for one in models.values() for path in one.examples), *examples]

    with gradio.Blocks(
        title="VideoMAE", analytics_enabled=False, delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS)
    ) as page:
        gradio.Markdown(f"# VideoMAE\n\n{introduction(models)}", elem_classes="introduction")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                video = video_input(gradio)
                if examples:
                    gradio.Examples([[path] for path in examples], [video], label="Examples", cache_examples=False)
            with gradio.Column(scale=2, min_width=320), gradio.Tabs():
                steps = []
                if labels:
                    with gradio.Tab("Labels"):
                        steps.append(labels_tab(gradio, labels, video))
                if rebuilding:
                    with gradio.Tab("Reconstruction"):
                        steps.append(reconstruction_tab(gradio, rebuilding, video, scratch))
                with gradio.Tab("Attention"):
                    steps.append(attention_tab(gradio, attention, video, scratch))
                if acting:
                    with gradio.Tab("Actions"):
                        actions_tab(gradio, acting, video, scratch)
        # One after the other, so that a file that is no video gives one error.
        event = None
        for step in steps:
            event = (event.success if event else video.change)(**step, api_visibility="private")
    return page


def import_gradio():
    """gradio, with its analytics switched off, which works only before the import."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise OSError("the page needs gradio: pip install 'videomae[demo]'") from error
    return gradio


# ----------------------------------------------------------------------------------------------------------------- tabs


def video_input(gradio):
    """A file, or a clip from the webcam where the browser has one: without sound, and as the camera sees it.

    Before a file is passed on, gradio would take the sound out with an ffmpeg program, which need not be there.
    """
    # Made past gradio's metaclass, which would write a stub file beside this module.
    attributes = {"is_template": True, "preprocess": lambda self, payload: payload.path if payload else None}
    kind = abc.ABCMeta.__new__(type(gradio.Video), "Video", (gradio.Video,), attributes)
    return kind(
        label="Video",
        sources=["upload", "webcam"],
        webcam_options=gradio.WebcamOptions(mirror=False, constraints={"video": CAMERA}),
        include_audio=False,
        height=300,
        elem_classes="input-video",
    )


def labels_tab(gradio, labels: Labels, video) -> dict[str, Any]:
    """Best labels and their course; returns the event that a new video starts."""
    all_views = gradio.Checkbox(label="All views of the test, averaged (slower, more reliable)")
    top_k = gradio.Slider(1, 10, value=5, step=1, label="Labels to show")
    whole = gradio.Label(label="The whole video")
    course = gradio.HTML(label="Over time", show_label=True, container=True, padding=True)

    def show(path: str | None, all_views: bool, top_k: int, progress=gradio.Progress()):  # noqa: B008
        if not path:
            return None, ""
        with page_errors(gradio, path):
            best = labels.whole(path, all_views=all_views, top_k=int(top_k))
            rows = labels.over_time(
                path, top_k=int(top_k), progress=lambda share: progress(share, desc="looking through the video")
            )
        return best, line_plot(rows)

    event = dict(fn=show, inputs=[video, all_views, top_k], outputs=[whole, course])
    gradio.on([all_views.change, top_k.release], **event, api_visibility="private")
    return event


def reconstruction_tab(gradio, rebuilding: Rebuilding, video, scratch) -> dict[str, Any]:
    """Input, what is seen and what is rebuilt, side by side."""
    ratio = gradio.Slider(0.1, 0.95, value=0.75, step=0.05, label="Share of the video that is hidden")
    with gradio.Row():
        mask = gradio.Radio(["tube", "random", "frame"], value="tube", label="What is hidden", min_width=240)
        statistics = gradio.Radio(
            list(STATISTICS),
            value=next(iter(STATISTICS)),
            label="Brightness and contrast of rebuilt patches",
            visible=rebuilding.config.norm_pix_loss,
            min_width=280,
        )
    outputs = drawn_outputs(gradio)

    def draw(path: str, mask: str, ratio: float, statistics: str) -> Drawn:
        return rebuilding(path, mask=mask, mask_ratio=ratio, statistics=STATISTICS[statistics])

    event = dict(fn=drawing_event(gradio, draw, scratch), inputs=[video, mask, ratio, statistics], outputs=outputs)
    gradio.on([ratio.release, mask.change, statistics.change], **event, api_visibility="private")
    return event


def attention_tab(gradio, attention: Attention, video, scratch) -> dict[str, Any]:
    """Where one layer and head look, over the frames."""
    last = attention.config.num_hidden_layers - 1
    heads = ["mean of all", *map(str, range(attention.config.num_attention_heads))]
    with gradio.Row():
        layer = gradio.Slider(0, last, value=last, step=1, label="Layer", visible=last > 0)
        head = gradio.Dropdown(heads, value=heads[0], label="Head")
    outputs = drawn_outputs(gradio)

    def draw(path: str, layer: int, head: str) -> Drawn:
        return attention(path, layer=int(layer), head=MEAN if head == heads[0] else int(head))

    event = dict(fn=drawing_event(gradio, draw, scratch), inputs=[video, layer, head], outputs=outputs)
    gradio.on([layer.release, head.change], **event, api_visibility="private")
    return event


def actions_tab(gradio, actions: Actions, video, scratch) -> None:
    """Boxes and actions; on demand, since it looks at every second of the video."""
    with gradio.Row():
        score = gradio.Slider(0.05, 0.95, value=0.3, step=0.05, label="Smallest score of an action", min_width=240)
        every = gradio.Slider(0.5, 5, value=1, step=0.5, label="Seconds between looks", min_width=240)
    if not actions.persons:
        gradio.Markdown("No person detector was given, so the whole frame is taken as one person.")
    if actions.note:
        gradio.Markdown(actions.note[0].upper() + actions.note[1:] + ".")
    find = gradio.Button("Find actions", variant="primary")
    overlay = gradio.Video(show_label=False, interactive=False, autoplay=True, loop=True)
    table = gradio.Dataframe(headers=["second", "person", "action", "score"], label="Actions", interactive=False)

    def show(path: str | None, score: float, every: float, progress=gradio.Progress()) -> Iterator[tuple]:  # noqa: B008
        if not path:
            raise gradio.Error("Choose a video first.", print_exception=False)
        with tempfile.TemporaryDirectory(dir=scratch) as folder, page_errors(gradio, path):
            rows = actions(
                path,
                Path(folder) / "overlay.mp4",
                action_score=score,
                every_seconds=every,
                progress=lambda share: progress(share, desc="looking for actions"),
            )
            yield str(Path(folder) / "overlay.mp4"), rows  # gradio copies the file before it comes back

    find.click(show, [video, score, every], [overlay, table], show_progress_on=overlay, api_visibility="private")


def drawn_outputs(gradio) -> list:
    return [
        gradio.Video(show_label=False, interactive=False, autoplay=True, loop=True),
        gradio.Markdown(),
        gradio.Image(
            show_label=False,
            interactive=False,
            type="pil",
            format="png",
            buttons=["download", "fullscreen"],
            elem_classes="frames",
        ),
    ]


def drawing_event(gradio, draw: Callable[..., Drawn], scratch) -> Callable[..., Iterator[tuple]]:
    """`draw` as an event: film, picture and notes; nothing without a video."""

    def show(path: str | None, *settings) -> Iterator[tuple]:
        if not path:
            yield None, "", None
            return
        with page_errors(gradio, path):
            drawn = draw(path, *settings)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            film = Path(folder) / "film.mp4"
            film.write_bytes(drawn.film)
            yield str(film), "\n\n".join(drawn.notes), drawn.picture  # gradio copies the file before it comes back

    return show


@contextlib.contextmanager
def page_errors(gradio, path: str) -> Iterator[None]:
    """Show errors that a user can cause as one sentence on the page, with the file's name instead of its path here."""
    try:
        yield
    except (ValueError, TypeError, OSError) as problem:
        sentence = str(problem).replace(str(path), Path(path).name)
        raise gradio.Error(sentence, duration=20, print_exception=False) from problem


# -------------------------------------------------------------------------------------------------------------- serving


def start(page, *, host: str, port: int, scratch: str | Path | None = None) -> str:
    """Serve the page in the background; returns its address."""
    import_gradio()
    from gradio.themes import Default

    fonts = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the machine: none is downloaded
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            show_error=True,
            footer_links=[],
            max_file_size=LARGEST_UPLOAD,
            allowed_paths=[str(scratch)] if scratch else None,
            theme=Default(font=fonts[0], font_mono=fonts[1]),
            css=STYLE,
        )
    except OSError as error:
        raise OSError(f"cannot listen at --host {host} --port {port}; is the port in use? ({error})") from None
    return address
