"""A page to try a model in the browser: `videomae app --model FOLDER`."""

import argparse
import os
import signal
import tempfile
import threading
from pathlib import Path

from videomae.app.answers import make_examples
from videomae.app.page import build_page, import_gradio, start
from videomae.app.space import write_space


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="videomae app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("model", nargs="?", help="folder or Hub name of a classifier")
    parse.add_argument("--pretrained", help="a pre-training model, for reconstructions: folder or name")
    parse.add_argument("--action_detector", help="an action detector: folder or name")
    parse.add_argument(
        "--person_detector",
        help="a transformers object-detection model that finds the persons for it: folder or name [the whole frame]",
    )
    parse.add_argument("--actions", help="its action names, where it has none (pbtxt or NUMBER: NAME)")
    parse.add_argument("--examples", nargs="*", help="video files to offer [three made by a program]")
    parse.add_argument("--device", help="such as cpu or cuda [what there is]")
    parse.add_argument("--host", default="127.0.0.1", help="address to listen at [127.0.0.1: this machine alone]")
    parse.add_argument("--port", type=int, default=7860, help="[7860]")
    parse.add_argument("--write_space", metavar="DIR", help="write the files of a Space there and start nothing")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    models = dict(
        model=args.model,
        pretrained=args.pretrained,
        action_detector=args.action_detector,
        person_detector=args.person_detector,
        actions=args.actions,
    )
    if args.write_space:
        folder = write_space(args.write_space, **models)
        print(f"{folder}/ is a Space: hf upload OWNER/NAME {folder} --repo-type space, once it is created with")
        print("hf repos create OWNER/NAME --repo-type space --space-sdk gradio")
        return 0
    for path in args.examples or ():
        if not Path(path).is_file():
            raise FileNotFoundError(f"--examples {path}: no such file")
    with tempfile.TemporaryDirectory(prefix="videomae-app-") as scratch:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(scratch) / "gradio")  # read when gradio is imported
        import_gradio()
        (Path(scratch) / "examples").mkdir()
        examples = make_examples(Path(scratch) / "examples") if args.examples is None else args.examples
        page = build_page(**models, device=args.device, examples=examples, scratch=scratch)
        address = start(page, host=args.host, port=args.port, scratch=scratch)
        print(f"{address} (Ctrl-C ends it)", flush=True)
        wait_for_the_end()
        page.close()
    return 0


def wait_for_the_end() -> None:
    """Until Ctrl-C or a polite kill."""
    over = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())
    try:
        over.wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
