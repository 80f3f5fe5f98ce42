"""The page in a real browser: `make browser`. Screenshots go to the folder that SCREENSHOTS names, to be looked at.

One server with tiny models serves all tests; they see what a visitor sees: files chosen, labels and pictures shown.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import TINY
from video_files import write_video

from videomae import (
    VideoMAEConfig,
    VideoMAEForActionDetection,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
)

pytest.importorskip("gradio", reason="the extra `demo` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
pytestmark = pytest.mark.browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120_000  # milliseconds, for machines with other work
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three models, a video, and a file that only bears a video's name."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("page")
    config = VideoMAEConfig(**TINY, num_labels=4, id2label=dict(enumerate(("run", "walk", "jump", "wave"))))
    VideoMAEForVideoClassification(config).save_pretrained(folder / "classifier")
    VideoMAEForPreTraining(VideoMAEConfig(**TINY)).save_pretrained(folder / "pretrained")
    config = VideoMAEConfig.preset("small", head="detect", **{**TINY, "num_labels": 3, "detection_short_side": 32})
    VideoMAEForActionDetection(config).save_pretrained(folder / "detector")
    write_video(folder / "video.mp4", num_frames=150, width=96, height=64, fps=25)
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    return folder


@contextlib.contextmanager
def serving(files):
    """(address, process, its temporary folder) of a page with all models."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = files / f"scratch-{port}"
    scratch.mkdir()
    command = [sys.executable, "-m", "videomae.commands.main", "app", "classifier", "--port", str(port)]
    command += ["--pretrained", "pretrained", "--action_detector", "detector", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=files, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert "Ctrl-C ends it" in line, line
        yield line.split()[0], process, scratch
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def address(files):
    with serving(files) as (address, _, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with playwright.sync_playwright() as running:
        if executable is None and not Path(running.chromium.executable_path).exists():
            pytest.skip("no Chromium here: apt-get install chromium, or playwright install chromium")
        # A camera that shows a moving pattern; without the permission of a page it is not handed out.
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = running.chromium.launch(executable_path=executable, args=["--no-sandbox", *camera])
        yield browser
        browser.close()


@contextlib.contextmanager
def visiting(browser, address, size=DESKTOP):
    """An open page; whatever it asks of other hosts, or logs as an error, fails the test."""
    context = browser.new_context(viewport=size)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.get_by_text("Examples", exact=True).wait_for()
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert wrong == []


def choose(page, path):
    page.set_input_files("input[type=file]", str(path))


def choose_example(page):
    page.locator(".gallery button, .gallery-item").first.click()


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def photograph(page, name):
    if folder := os.environ.get("SCREENSHOTS"):
        page.wait_for_timeout(1000)  # films start, bars grow
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def check_drawn(page):
    """The film of the open tab can be fetched, and its picture of frames has arrived."""
    film = page.locator("video:visible").last
    film.wait_for()
    page.locator(".frames img:visible").wait_for()
    assert page.locator(".frames img:visible").evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    status = film.evaluate("film => fetch(film.currentSrc || film.src).then(answer => answer.status)")
    assert status in (200, 206)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_video_that_is_uploaded_shows_labels_reconstruction_attention_and_actions(browser, address, files, size):
    name = "phone" if size is PHONE else "desktop"
    with visiting(browser, address, size) as page:
        photograph(page, f"{name}-0-start")
        choose(page, files / "video.mp4")
        plot = page.locator(".line-plot")
        plot.wait_for()
        assert plot.locator("polyline").count() == 4 and "jump" in plot.inner_text()
        assert re.search(r"(run|walk|jump|wave)\s*\d+%", page.locator("body").inner_text().replace("\n", " "))
        photograph(page, f"{name}-1-labels")

        open_tab(page, "Reconstruction")
        page.get_by_text("96 of 128 tokens are hidden.").wait_for()
        assert page.get_by_text("No leak").count() >= 1
        check_drawn(page)
        page.get_by_label("true ones, as the official code (LEAK)").check()
        page.get_by_text("LEAK: each hidden patch got its own true brightness").wait_for()
        photograph(page, f"{name}-2-reconstruction")

        open_tab(page, "Attention")
        page.get_by_text("Layer 2, mean of heads").wait_for()
        check_drawn(page)
        photograph(page, f"{name}-3-attention")

        open_tab(page, "Actions")
        page.get_by_role("button", name="Find actions").click()
        page.get_by_role("gridcell", name="LABEL_").first.wait_for()
        photograph(page, f"{name}-4-actions")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], f"the page is {width} wide on a screen of {size['width']}"


def test_the_slider_hides_more(browser, address, files):
    with visiting(browser, address) as page:
        choose(page, files / "video.mp4")
        open_tab(page, "Reconstruction")
        page.get_by_text("96 of 128 tokens are hidden.").wait_for()
        slider = page.get_by_role("slider", name="Share of the video that is hidden").first
        slider.focus()
        slider.press("End")  # 0.95 of 16 cells hides 15
        slider.dispatch_event("pointerup")
        page.get_by_text("120 of 128 tokens are hidden.").wait_for()


def test_a_clip_from_the_webcam_is_recorded_and_labelled(browser, address):
    with visiting(browser, address) as page:
        page.get_by_label("Capture from camera").click()
        page.get_by_text("Click to Access Webcam").click()
        page.get_by_text("Record", exact=True).click()
        page.wait_for_timeout(3000)
        photograph(page, "desktop-6-recording")
        page.get_by_text("Stop", exact=True).click()
        page.locator(".line-plot").wait_for()
        photograph(page, "desktop-7-recorded")


def test_an_example_is_one_click_away(browser, address):
    with visiting(browser, address) as page:
        choose_example(page)
        page.locator(".line-plot polyline").first.wait_for()


def test_a_file_that_is_no_video_is_one_sentence_and_the_next_one_works(browser, address, files):
    with visiting(browser, address) as page:
        choose(page, files / "broken.mp4")
        toast = page.get_by_test_id("toast-body").filter(has_text="broken.mp4")
        toast.wait_for()
        said = toast.inner_text()
        assert "broken.mp4 is not a video that can be read" in said
        assert "Traceback" not in said and str(files) not in said
        photograph(page, "desktop-5-broken")
        choose_example(page)
        page.locator(".line-plot polyline").first.wait_for()


def test_nothing_is_left_behind_when_the_page_ends(browser, files):
    with serving(files) as (address, process, scratch):
        with visiting(browser, address) as page:
            choose(page, files / "video.mp4")
            page.locator(".line-plot").wait_for()
            assert list(scratch.iterdir()) != []
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert list(scratch.iterdir()) == []
