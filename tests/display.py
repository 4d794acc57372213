"""A real X display without a screen: Xvfb, what it shows, and a user's keys."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

XVFB = shutil.which("Xvfb")


class Display:
    """An X server of its own, 24 bits deep.

    Attributes:
        name: what DISPLAY is to be set to.
    """

    def __init__(self, folder: Path, size_wh: tuple[int, int] = (640, 480)) -> None:
        self._frame = folder / "Xvfb_screen0"
        reading, writing = os.pipe()
        screen = f"{size_wh[0]}x{size_wh[1]}x24"
        command = [str(XVFB), "-displayfd", str(writing), "-screen", "0", screen, "-fbdir", str(folder)]
        self.process = subprocess.Popen(
            [*command, "-nolisten", "tcp"],
            pass_fds=[writing],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(writing)
        with os.fdopen(reading) as answer:
            self.name = f":{answer.readline().strip()}"  # once it is there

    def screenshot(self) -> NDArray[np.uint8]:
        """(H, W, 3) BGR. Xvfb keeps its screen in a file in the format of xwd."""
        data = self._frame.read_bytes()
        header = struct.unpack(">25I", data[:100])
        width, height, line, colours = header[4], header[5], header[12], header[19]
        pixels = np.frombuffer(data, np.uint8, height * line, header[0] + 12 * colours)
        return pixels.reshape(height, line)[:, : 4 * width].reshape(height, width, 4)[:, :, :3]

    def press(self, key: bytes) -> None:
        """Press a key on the window in the middle of the screen."""
        x11, display = self._connect()
        test = ctypes.CDLL("libXtst.so.6")
        x11.XStringToKeysym.restype = ctypes.c_ulong
        height, width = self.screenshot().shape[:2]
        test.XTestFakeMotionEvent(display, -1, width // 2, height // 2, 0)  # without a window manager, keys
        code = x11.XKeysymToKeycode(
            display, ctypes.c_ulong(x11.XStringToKeysym(key))
        )  # go where the mouse is
        for down in (1, 0):
            test.XTestFakeKeyEvent(display, code, down, 0)
        x11.XCloseDisplay(display)

    def close_windows(self) -> None:
        """Ask every window to close, as a window manager does when its cross is clicked."""
        x11, display = self._connect()
        x11.XDefaultRootWindow.restype = x11.XInternAtom.restype = ctypes.c_ulong
        root, count = ctypes.c_ulong(x11.XDefaultRootWindow(display)), ctypes.c_uint()
        some, children = ctypes.c_ulong(), ctypes.POINTER(ctypes.c_ulong)()
        x11.XQueryTree(
            display, root, ctypes.byref(some), ctypes.byref(some), ctypes.byref(children), ctypes.byref(count)
        )
        protocols, delete = (
            x11.XInternAtom(display, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW")
        )
        for window in children[: count.value]:
            event = _ClientMessage(33, 0, 1, display, window, protocols, 32, (delete, 0, 0, 0, 0))
            x11.XSendEvent(display, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(event))
        x11.XCloseDisplay(display)

    def _connect(self) -> tuple[ctypes.CDLL, ctypes.c_void_p]:
        x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype = ctypes.c_void_p
        return x11, ctypes.c_void_p(x11.XOpenDisplay(self.name.encode()))

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


class _ClientMessage(ctypes.Structure):
    """XClientMessageEvent, as large as an XEvent."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("pad", ctypes.c_long * 12),
    )
