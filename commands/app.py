"""A page to try models in the browser: `videomae app MODEL`. Needs `videomae[demo]`.

videomae app FOLDER                                  # a classifier: labels over time, attention
videomae app FOLDER --pretrained PRETRAINED          # and what a pre-trained model rebuilds
videomae app FOLDER --action_detector DETECTOR       # and who does what
videomae app FOLDER --write_space SPACE              # the files of a Space on the Hub that shows this page
"""

from dataclasses import dataclass

from videomae.command_line import argument, errors_option, option, read_options

MODELS = ("model", "pretrained", "action_detector", "person_detector", "actions")


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str | None = argument("folder or Hub name of a classifier", default=None, kind="model")
    pretrained: str | None = option(None, "models", "a pre-training model, for reconstructions", kind="model")
    action_detector: str | None = option(None, "models", "an action detector", kind="model")
    person_detector: str | None = option(
        None,
        "models",
        "a transformers object-detection model that finds the persons for it [the whole frame]",
        kind="model",
    )
    actions: str | None = option(
        None, "models", "its action names, where it has none (pbtxt or NUMBER: NAME)", kind="file"
    )
    examples: tuple[str, ...] | None = option(
        None, "page", "video files to offer [three made by a program]", kind="file"
    )
    errors: str = errors_option("page")
    host: str = option("127.0.0.1", "page", "address to listen at; the default is this machine alone")
    port: int = option(7860, "page", "port to listen at")
    device: str | None = option(None, "page", "such as cpu or cuda [what there is]", metavar="DEVICE")
    write_space: str | None = option(
        None, "page", "write the files of a Space there and start nothing", metavar="FOLDER"
    )


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="app", about=__doc__)
    models = {name: getattr(options, name) for name in MODELS}
    if options.write_space:
        from videomae.app.space import write_space

        folder = write_space(options.write_space, **models)
        print(f"{folder}/ is a Space: hf upload OWNER/NAME {folder} --repo-type space, once it is created with")
        print("hf repos create OWNER/NAME --repo-type space --space-sdk gradio")
        return 0
    from videomae.app.page import serve

    serve(
        models,
        device=options.device,
        examples=options.examples,
        host=options.host,
        port=options.port,
        errors=options.errors,
    )
    return 0
