"""Results to an MQTT broker, which may be away: nothing here waits for it but a thread of its own."""

from __future__ import annotations

import logging
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from edgecnn.camera.line_sinks import json_line
from edgecnn.camera.sink import BaseSink
from edgecnn.camera.sink_address import Address, parse_address
from edgecnn.channel import Channel, Ended
from edgecnn.errors import BackendUnavailableError, OutputError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["BACKLOG", "MqttSink"]

_log = logging.getLogger(__name__)

BACKLOG = 1000
"""Results that wait for the broker at most; then the oldest makes room."""

_IN_FLIGHT = 20  # handed to the client and not yet sent (QoS 0) or confirmed (QoS 1)
_KEEPALIVE_S = 30
_RETRY_S = (1, 30)  # the client doubles the pause from the one to the other
_FINISH_S = 2.0
_REFUSALS = {"Bad user name or password", "Not authorized", "Banned", "Unsupported protocol version"}


class MqttSink(BaseSink):
    """Publishes each output as one JSON object, the one of a JSON line.

    The connection is made in the background, and again whenever it is lost. Meanwhile up to `BACKLOG` results
    wait; then the oldest are dropped, counted, and reported when the broker is back. With `qos=1` the broker
    confirms each one, and one may arrive twice.

    Args:
        uri: `mqtt://user:password@host:port/topic`, or `mqtts://` for TLS. Options: `qos`, 0 or 1; `retain`,
            0 or 1; `ca`, a file of certificates to trust in place of the system's.

    Attributes:
        dropped: results that will never reach the broker.

    Raises:
        BackendUnavailableError: paho-mqtt is not installed.
        OutputError: a wrong address. From `write`: the broker refuses user and password. From `close`:
            results did not reach the broker.
    """

    def __init__(self, uri: str) -> None:
        address = parse_address(uri, options=("qos", "retain", "ca"))
        self.name = address.name
        self._topic = _checked_topic(address)
        self._qos = int(address.choice("qos", "0", "1"))
        self._retain = address.choice("retain", "0", "1") == "1"
        self._results: Channel[bytes] = Channel(BACKLOG, keep="newest")
        self._changed = threading.Condition()  # of what follows
        self._connected = self._given_up = False
        self._written = self._sent = self._delivered = self._lost = self._reported = 0
        self._trouble = "no connection yet"
        self._refused: str | None = None
        self._client = self._connect(address)
        self._sender = threading.Thread(target=self._send_all, name="edgecnn-mqtt", daemon=True)
        self._sender.start()

    @property
    def dropped(self) -> int:
        """See the class."""
        return self._results.dropped + self._lost

    def _write(self, output: Output) -> None:
        if self._refused is not None:
            raise OutputError(
                f"{self.name} refuses the connection",
                got=self._refused,
                remedy="User and password stand in the address: mqtt://user:password@host/topic",
            )
        self._written += 1
        self._results.put(json_line(output).rstrip())

    @property
    def _in_flight(self) -> int:
        return self._sent - self._delivered - self._lost

    def _finish(self) -> None:
        deadline = monotonic() + _FINISH_S
        self._results.end()
        self._sender.join(_FINISH_S)
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight <= 0, max(0.0, deadline - monotonic()))
            missing = self._written - self._delivered - self.dropped
        self._stop()
        if missing > 0:
            self._lost += missing
            raise OutputError(
                f"{missing} results did not reach {self.name}",
                got=self._refused or self._trouble,
                expected=f"a connection within {_FINISH_S:g} s of the end",
            )

    def _abandon(self, error: OSError) -> None:
        self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
        self._results.close()
        self._client.disconnect()
        # It waits for a thread that may be in the middle of connecting, which takes as long as it takes.
        stopping = threading.Thread(target=self._client.loop_stop, name="edgecnn-mqtt-stop", daemon=True)
        stopping.start()
        stopping.join(1)

    def _connect(self, address: Address) -> Any:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise BackendUnavailableError(
                "paho-mqtt is not installed", got=str(error), remedy="pip install 'edgecnn[mqtt]'"
            ) from error
        client = Client(CallbackAPIVersion.VERSION2)
        client.reconnect_delay_set(*_RETRY_S)
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if address.scheme == "mqtts":
            try:
                client.tls_set(ca_certs=address.options.get("ca"))
            except OSError as error:
                raise OutputError(f"cannot use {self.name}", got=f"ca: {error}") from error
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        port = address.port or (8883 if address.scheme == "mqtts" else 1883)
        client.connect_async(address.host, port, keepalive=_KEEPALIVE_S)
        client.loop_start()
        return client

    def _send_all(self) -> None:
        """The sender's thread: hand results to the client, a few at a time, while there is a connection."""
        while True:
            try:
                line = self._results.get()
            except Ended:
                return
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: (self._connected and self._in_flight < _IN_FLIGHT) or self._given_up
                    )
                    if self._given_up:
                        return
                    self._sent += 1
                published = self._client.publish(self._topic, line, self._qos, self._retain)
                if self._qos or published.rc == 0:
                    break
                with self._changed:  # the connection has gone, and the client did not keep it
                    self._sent -= 1
                    self._changed.wait(0.1)

    # What the client says, in its own thread.
    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            self._connected = not reason.is_failure
            self._changed.notify_all()
        if self._connected:
            _log.info("%s: connected", self.name)
            self._trouble = ""
            if self.dropped > self._reported:
                _log.warning(
                    "%s: %d results were dropped meanwhile", self.name, self.dropped - self._reported
                )
                self._reported = self.dropped
        else:
            self._report(str(reason))
            if str(reason) in _REFUSALS:
                self._refused = str(reason)
                client.disconnect()

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        error = sys.exc_info()[1]  # the client calls this where it has caught why
        self._report(getattr(error, "strerror", None) or str(error or "no connection"))

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            was_connected, self._connected = self._connected, False
            if self._qos == 0:  # the client forgets what it had not sent
                self._lost += max(0, self._in_flight)
            self._changed.notify_all()
        if was_connected and not self._given_up:
            self._report("the connection was lost")

    def _on_publish(self, client: Any, data: Any, number: int, reason: Any, properties: Any) -> None:
        with self._changed:
            self._delivered += 1
            self._changed.notify_all()

    def _report(self, trouble: str) -> None:
        """Once for each kind of trouble: the client tries again every few seconds."""
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("%s: %s; trying again", self.name, trouble)


def _checked_topic(address: Address) -> str:
    if not address.host:
        raise OutputError(f"cannot use {address.name}", expected="mqtt://host/topic")
    if not address.path or any(sign in address.path for sign in "+#\0"):
        raise OutputError(
            f"cannot use {address.name}",
            got=f"the topic {address.path!r}",
            expected="one to publish to: mqtt://host/some/topic",
        )
    return address.path
