"""The notify socket of the service manager (sd_notify(3)), spoken directly: a few datagrams need no library.

NOTIFY_SOCKET and WATCHDOG_USEC are taken out of the environment, so that engine and worker processes cannot speak
for the service.  Without a service manager every call does nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Self


class Notifier:
    """Sends state changes to the service manager."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        #: How often `watchdog` must be called at least; 0 = never.
        self.watchdog_s = watchdog_s
        self._status = ""
        #: What its queue had no room for, by the variable's name, oldest first.
        self._unsent: dict[str, str] = {}
        # "@" stands for the null byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @classmethod
    def from_environment(cls) -> Self:
        """The notifier that the service manager asked this process for."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        interval_us = os.environ.pop("WATCHDOG_USEC", "0")
        for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(address, int(interval_us) / 1e6 if for_us else 0.0)

    def ready(self) -> None:
        """Start-up, or a reload, is finished."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it.  The time lets systemd 253 and later tell reloads apart."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Shutdown begins."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """The service is alive."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Start-up or shutdown goes on for at least so long from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def status(self, line: str) -> None:
        """One line for `systemctl status`; sent only when it changes."""
        if line != self._status or self._unsent:
            self._status = line
            self._send("STATUS=" + line.replace("\n", " "))

    def close(self) -> None:
        """Forget the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        name = message.partition("=")[0]
        self._unsent.pop(name, None)
        self._unsent[name] = message
        for waiting, words in list(self._unsent.items()):
            try:
                # Addressed each time: a service manager that was started anew hears the next one.
                self._socket.sendto(words.encode("utf-8", "backslashreplace"), socket.MSG_DONTWAIT, self._address)
            except OSError as error:
                if error.errno in {errno.EAGAIN, errno.ENOBUFS}:
                    return  # its queue is full, and the loop must not wait for it; they go out before the next one
                if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:  # it restarts
                    self._unsent.clear()
                    self._status = ""
                    return
            del self._unsent[waiting]
