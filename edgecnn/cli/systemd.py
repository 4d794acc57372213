"""What systemd offers a service, over a socket and environment variables: readiness, watchdog, priorities.

Started by anything else, all of this does nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from time import monotonic_ns

__all__ = ["ServiceManager", "journal_prefix"]


class ServiceManager:
    """Tells systemd how the service does: sd_notify(3), for units with `Type=notify`.

    Attributes:
        watchdog_s: seconds without `alive` after which systemd restarts the service; None where it does not.
        listening: whether there is anybody to tell.
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # the abstract namespace
        self.listening = bool(address)
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(microseconds) / 1e6 if microseconds.isdigit() and meant else None

    def ready(self) -> None:
        """Everything is open."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Everything is opened anew; `ready` follows."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is about to end."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={' '.join(text.splitlines())}")

    def _tell(self, message: str) -> None:
        if self.listening:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(1)
                channel.sendto(message.encode(), self._address)


def journal_prefix(level: int) -> str:
    """What journald reads a line's priority from (sd-daemon(3)); empty where stderr is not its stream.

    Args:
        level: as `logging` counts.
    """
    try:
        state = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # a test or a GUI has put something else there
        return ""
    if os.environ.get("JOURNAL_STREAM") != f"{state.st_dev}:{state.st_ino}":
        return ""
    for least, priority in ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= least:
            return f"<{priority}>"
    return "<7>"
