"""Against a real broker: Debian's mosquitto."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt")
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edgecnn.camera import mqtt_sink, open_sink
from edgecnn.camera.mqtt_sink import MqttSink
from edgecnn.errors import ClosedError, OutputError
from tests.browser import eventually
from tests.outputs import output

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto: apt install mosquitto")


class Broker:
    """A mosquitto on a free port of this machine, which can be stopped and started again."""

    def __init__(self, folder: Path, *configuration: str) -> None:
        self._file = folder / "mosquitto.conf"
        self.port = free_port()
        lines = [f"listener {self.port} 127.0.0.1", *(configuration or ["allow_anonymous true"])]
        self._file.write_text("\n".join(["per_listener_settings false", "user root", *lines, ""]))
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self._answers)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, "mosquitto ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_sink, "_RETRY_S", (1, 1))


@contextlib.contextmanager
def subscriber(port: int, topic: str = "#", user: str | None = None) -> Iterator[list[Any]]:
    """The messages that come, in a list that grows."""
    messages: list[Any] = []
    there = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2)
    client.reconnect_delay_set(1, 1)
    if user:
        client.username_pw_set(user, "s/ecret@")
    client.on_message = lambda client, data, message: messages.append(message)
    client.on_connect = lambda client, *rest: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *rest: there.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert there.wait(30)
    try:
        yield messages
    finally:
        client.disconnect()
        client.loop_stop()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "mqtt" in thread.name]


@needs_broker
@pytest.mark.parametrize("qos", [0, 1])
def test_each_output_is_a_message(broker: Broker, qos: int) -> None:
    before = len(threads())
    with subscriber(broker.port) as messages:
        with open_sink(f"mqtt://127.0.0.1:{broker.port}/robot/front%20door?qos={qos}") as sink:
            for index in range(200):
                sink.write(output(index=index, score=0.75))
        eventually(lambda: len(messages) == 200)
    assert [json.loads(message.payload)["index"] for message in messages] == list(range(200))
    assert {(message.topic, message.qos) for message in messages} == {("robot/front door", qos)}
    assert json.loads(messages[0].payload)["result"]["classes"][0] == {"id": 0, "label": "cat", "score": 0.75}
    assert len(threads()) == before
    with pytest.raises(ClosedError):
        sink.write(output())


@needs_broker
def test_the_last_result_can_be_retained(broker: Broker) -> None:
    with open_sink(f"mqtt://127.0.0.1:{broker.port}/last?retain=1&qos=1") as sink:
        sink.write(output(index=7))
    with subscriber(broker.port) as messages:
        eventually(lambda: len(messages) == 1)
    assert json.loads(messages[0].payload)["index"] == 7


@needs_broker
def test_a_broker_that_comes_back_gets_what_waited(
    broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_sink, "BACKLOG", 50)
    with MqttSink(f"mqtt://127.0.0.1:{broker.port}/x?qos=1") as sink:
        with subscriber(broker.port) as messages:
            sink.write(output(index=0))
            eventually(lambda: len(messages) == 1)
        broker.stop()
        eventually(lambda: not sink._connected)
        for index in range(1, 201):
            sink.write(output(index=index))  # no waiting here: nothing would end it
        eventually(lambda: sink.dropped >= 149)
        broker.start()
        with subscriber(broker.port) as messages:
            eventually(lambda: sink._delivered + sink.dropped == 201)
            sink.write(output(index=201))
            eventually(lambda: messages and json.loads(messages[-1].payload)["index"] == 201)
        dropped = sink.dropped
    assert 149 <= dropped <= 150
    assert "the connection was lost; trying again" in caplog.text
    assert f"{dropped} results were dropped meanwhile" in caplog.text
    assert caplog.text.count("Connection refused; trying again") <= 1


@needs_broker
def test_what_was_lost_without_confirmation_is_counted(broker: Broker) -> None:
    with MqttSink(f"mqtt://127.0.0.1:{broker.port}/x") as sink:
        sink.write(output())
        eventually(lambda: sink._delivered == 1)
        broker.stop()
        broker.start()
        eventually(lambda: sink._connected)
        sink.write(output())
        eventually(lambda: sink._delivered + sink.dropped == 2)


def test_no_broker_at_all_is_said_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_sink, "_FINISH_S", 0.3)
    sink = MqttSink(f"mqtt://me:secret@127.0.0.1:{free_port()}/x")
    for index in range(5):
        sink.write(output(index=index))
    eventually(lambda: "Connection refused; trying again" in caplog.text)
    with pytest.raises(OutputError, match=r"5 results did not reach .*: got Connection refused") as caught:
        sink.close()
    assert "secret" not in str(caught.value) + caplog.text + repr(sink) + sink.name
    assert sink.dropped == 5
    sink.close()


def test_nothing_written_is_nothing_lost() -> None:
    with MqttSink(f"mqtt://127.0.0.1:{free_port()}/x"):
        pass


@needs_broker
def test_passwords(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", passwords, "me", "s/ecret@"],
        check=True,
        capture_output=True,
    )
    passwords.chmod(0o644)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    try:
        with subscriber(broker.port, user="me") as messages:
            with open_sink(f"mqtt://me:s%2Fecret%40@127.0.0.1:{broker.port}/x") as sink:
                sink.write(output())
                assert "ecret" not in sink.name
            eventually(lambda: len(messages) == 1)
        for credentials in ("me:wrong@", ""):
            refused = MqttSink(f"mqtt://{credentials}127.0.0.1:{broker.port}/x")
            eventually(partial(getattr, refused, "_refused"))
            with pytest.raises(OutputError, match="refuses the connection: got Not authorized") as caught:
                refused.write(output())
            assert "wrong" not in str(caught.value)
            with pytest.raises(ClosedError):
                refused.write(output())
    finally:
        broker.stop()


@needs_broker
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves its socket open
def test_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o644)
    broker = Broker(tmp_path, "allow_anonymous true", f"keyfile {key}", f"certfile {certificate}")
    try:
        with open_sink(f"mqtts://127.0.0.1:{broker.port}/x?qos=1&ca={certificate}") as sink:
            sink.write(output())
        monkeypatch.setattr(mqtt_sink, "_FINISH_S", 0.3)
        stranger = MqttSink(f"mqtts://127.0.0.1:{broker.port}/x")
        stranger.write(output())
        eventually(lambda: "certificate verify failed" in caplog.text)
        with pytest.raises(OutputError, match="did not reach"):
            stranger.close()
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mqtt://broker", "got the topic ''"),
        ("mqtt://broker/a/+/b", r"got the topic 'a/\+/b', expected one to publish to"),
        ("mqtt:///topic", "expected mqtt://host/topic"),
        ("mqtt://broker/topic?qos=2", "got qos=2, expected 0 or 1"),
        ("mqtt://broker/topic?keepalive=2", "got the option keepalive, expected qos or retain or ca"),
        ("mqtts://broker/topic?ca=/missing", "got ca: .*No such file"),
        ("mqtt://me:se/cret@broker/topic", r"cannot use mqtt://\*\*\*@broker/topic: got an address that"),
    ],
)
def test_addresses_that_cannot_be(uri: str, message: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        open_sink(uri)
    assert "cret" not in str(caught.value)
