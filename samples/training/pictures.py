"""Runs the samples as their README says and makes a picture of what each shows: docs/images/*.jpg and *.svg.

    python -m samples.training.pictures [--demo demo-output] [NAME …]

Videos that a sample wrote give one frame; what it only prints is a picture of a terminal. Those that need
what `make demo` writes are left out without it. `web_view` is photographed in Chromium where there is one.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 60_000
WIDTH = 480
SHOWN_LINES = 12

# sample → the file among its outputs that is shown, and which part of a video; None: the terminal
SHOWN: dict[str, tuple[str, float] | None] = {
    "classify_camera": ("classified.mp4", 0.9),
    "detect_camera": ("followed.mp4", 0.65),
    "segment_camera": ("focus.mp4", 0.5),
    "medical_slide": ("overlay.png", 0),
    "drive": ("steered.mp4", 0.8),
    "robot_follow": ("error.png", 0),
    "custom_task": ("answers.mp4", 0.9),
    "face_cascade": ("faces.jpg", 0),
    "stop_on_class": None,
    "multi_camera": None,
    "reidentify": None,
    "serve_results": None,
    "ros2_bag": None,
}


def commands() -> dict[str, list[str]]:
    """Sample → its commands in samples/README.md."""
    found: dict[str, list[str]] = {}
    for line in re.findall(
        r"^python samples/.*$", (ROOT / "samples" / "README.md").read_text(), re.MULTILINE
    ):
        found.setdefault(line.split("/")[1].split(".py")[0], []).append(line)
    return found


def words_of(command: str) -> list[str]:
    """As a shell has them."""
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)]
    return [sys.executable, *words[1:]]


def save(picture: Any, path: Path) -> None:
    """Write a JPEG of at most WIDTH and MOST_BYTES."""
    if picture.shape[1] != WIDTH:
        size = (WIDTH, round(picture.shape[0] * WIDTH / picture.shape[1]))
        way = cv2.INTER_AREA if picture.shape[1] > WIDTH else cv2.INTER_CUBIC
        picture = cv2.resize(picture, size, interpolation=way)
    for quality in range(90, 30, -5):
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(data) <= MOST_BYTES:
            break
    path.write_bytes(data.tobytes())


def frame_of(file: Path, part: float) -> Any:
    """A picture, or a frame of a video at a part of its length."""
    if file.suffix != ".mp4":
        return cv2.imread(str(file), cv2.IMREAD_COLOR)
    capture = cv2.VideoCapture(str(file))
    frames: list[Any] = []
    while (grabbed := capture.read())[0]:
        frames.append(grabbed[1])
    return frames[int(part * (len(frames) - 1))]


def terminal(command: str, said: str, path: Path) -> None:
    """What was typed and printed, as a picture of a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=88, file=io.StringIO())
    console.print(Text("$ " + command))
    lines = said.splitlines()
    hidden = len(lines) - SHOWN_LINES
    if hidden > 1:
        half = SHOWN_LINES // 2
        lines = [*lines[:half], f"… {hidden} more lines", *lines[-half:]]
    for line in lines:
        console.print(Text(line))
    drawn = console.export_svg(title="", unique_id=path.stem)
    path.write_text(re.sub(r"@font-face\s*{.*?}\s*", "", drawn, flags=re.DOTALL))  # nothing from elsewhere


def photograph_page(command: str, folder: Path, path: Path) -> None:
    """The web view in a browser."""
    from tests.browser import CHROMIUM, Browser

    if CHROMIUM is None:
        print("web_view: no Chromium here")
        return
    words = [*words_of(command), "--at", "http://127.0.0.1:0", "--rounds", "0"]
    with subprocess.Popen(
        words,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("open ").strip()
        try:
            with Browser((720, 620)) as browser:
                browser.open(url)
                time.sleep(3)  # a few results
                save(browser.screenshot(), path)
        finally:
            process.send_signal(signal.SIGINT)


def environment() -> dict[str, str]:
    """The checkout's edgecnn, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def make(name: str, orders: list[str], demo: Path | None) -> None:
    """Run one sample's commands, and show the last one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "samples").symlink_to(ROOT / "samples")
        if demo is not None:
            (folder / "demo-output").symlink_to(demo.resolve())
        if name == "web_view":
            photograph_page(orders[-1], folder, IMAGES / "web_view.jpg")
            return
        said = ""
        for order in orders:
            done = subprocess.run(
                words_of(order), cwd=folder, env=environment(), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{order}\n{done.stderr}")
            said = done.stdout
        shown = SHOWN[name]
        if shown is None:
            terminal(orders[-1], said, IMAGES / f"{name}.svg")
        else:
            save(frame_of(folder / shown[0], shown[1]), IMAGES / f"{name}.jpg")


def main() -> None:
    """Make those that are asked for, or all that can be made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="samples; all where none is given")
    parser.add_argument("--demo", type=Path, help="the folder that `make demo` wrote")
    arguments = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, orders in commands().items():
        needs_demo = any("demo-output/" in order for order in orders)
        if (arguments.names and name not in arguments.names) or (needs_demo and arguments.demo is None):
            continue
        print(name, flush=True)
        make(name, orders, arguments.demo)


if __name__ == "__main__":
    main()
