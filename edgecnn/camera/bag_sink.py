"""A ROS 2 bag, written without ROS through the package `rosbags`.

    /camera/image/compressed    sensor_msgs/msg/CompressedImage: the frame as it came, as JPEG
    /camera/classification      vision_msgs/msg/Classification
    /camera/detections          vision_msgs/msg/Detection2DArray: boxes; `id` is the track's
    /camera/result              std_msgs/msg/String: any other task's result as JSON, masks and keypoints too

A model with a name has it in the topic, `/camera/NAME/classification`; the pipeline's further cameras are
`/camera1`, `/camera2` … . Header and bag carry the moment when the frame was captured, by the wall clock.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgecnn.camera.opencv import import_cv2
from edgecnn.camera.ros_messages import VISION_MSGS, messages_of
from edgecnn.camera.sink import BaseSink
from edgecnn.camera.uri import display_path
from edgecnn.camera.video_sink import RESERVE_BYTES, free_bytes
from edgecnn.errors import BackendUnavailableError, OutputError, OutputExistsError
from edgecnn.results import Result

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["BagSink"]

_QUALITY = 90
_METADATA_VERSION: Literal[8] = 8  # and SQLite: what ROS 2 Humble, JetPack 6's, has out of the box
_FRAME_ID = "camera"


class BagSink(BaseSink):
    """A folder `NAME.rosbag` with a bag, which gets its name when it is closed and can be played.

    Where the disk fills up, recording ends with OutputError and the bag so far is kept.

    Args:
        path: ends in .rosbag.
        force: replace a bag that is there.

    Raises:
        BackendUnavailableError: rosbags is not installed.
        OutputExistsError, OutputError: as for files; a folder that is no bag is never replaced.
    """

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        import_cv2()
        self._path = Path(path)
        self._force = force
        self.name = display_path(path)
        self._check()
        try:
            from rosbags.typesys import Stores, get_types_from_msg, get_typestore
        except ImportError as error:
            raise BackendUnavailableError(
                "rosbags is not installed", got=str(error), remedy="pip install 'edgecnn[ros]'"
            ) from error
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        for name, text in VISION_MSGS.items():
            self._store.register(get_types_from_msg(text, name))
        self._folder = self._path.with_name(f".edgecnn-{secrets.token_hex(8)}")
        # SQLite's objects belong to the thread that made them, and a sink may be closed by another.
        self._storage = ThreadPoolExecutor(1, thread_name_prefix="edgecnn-bag")
        self._writer: Any = None
        self._topics: dict[str, Any] = {}
        self._frames = 0

    def _write(self, output: Output) -> None:
        moment_ns = time_ns() - round((monotonic() - output.frame.captured_at) * 1e9)
        camera = f"/camera{output.camera or ''}"
        try:
            self._storage.submit(self._add_output, camera, moment_ns, output).result()
        except OutputError:
            raise
        except Exception as error:  # which library's they are is the storage's own business
            raise OutputError(f"cannot write {self.name}", got=f"{type(error).__name__}: {error}") from error
        self._frames += 1
        if free_bytes(self._path) < RESERVE_BYTES:
            self._finish()
            raise OutputError(
                f"recording {self.name} ended",
                got=f"less than {RESERVE_BYTES >> 20} MB left on the disk",
                remedy=f"It holds the first {self._frames} frames",
            )

    def _add_output(self, camera: str, moment_ns: int, output: Output) -> None:
        if self._writer is None:
            self._open()
        self._add_image(f"{camera}/image/compressed", moment_ns, output)
        results = output.results or {"": output.result}
        for name, result in results.items():
            self._add_result(f"{camera}/{name}" if name else camera, moment_ns, result)

    def _add_image(self, topic: str, moment_ns: int, output: Output) -> None:
        cv2 = import_cv2()
        _, data = cv2.imencode(".jpg", output.picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        self._add(
            topic,
            "sensor_msgs/msg/CompressedImage",
            moment_ns,
            format="bgr8; jpeg compressed bgr8",
            data=np.asarray(data, np.uint8).reshape(-1),
        )

    def _add_result(self, prefix: str, moment_ns: int, result: Result) -> None:
        for topic, kind, fields in messages_of(self._store.types, self._header(moment_ns), result):
            self._add(f"{prefix}/{topic}", kind, moment_ns, **fields)

    def _add(self, topic: str, kind: str, moment_ns: int, **fields: Any) -> None:
        types = self._store.types
        if topic not in self._topics:
            self._topics[topic] = self._writer.add_connection(topic, kind, typestore=self._store)
        if "header" in types[kind].__annotations__:
            fields["header"] = self._header(moment_ns)
        message = self._store.serialize_cdr(types[kind](**fields), kind)
        self._writer.write(self._topics[topic], moment_ns, message)

    def _header(self, moment_ns: int) -> Any:
        seconds, nanoseconds = divmod(moment_ns, 10**9)
        stamp = self._store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        return self._store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=_FRAME_ID)

    def _open(self) -> None:
        from rosbags.rosbag2 import Writer

        self._writer = Writer(self._folder / self._path.name, version=_METADATA_VERSION)
        self._writer.open()

    def _finish(self) -> None:
        if self._writer is None:
            self._storage.shutdown()
            return
        writer, self._writer = self._writer, None
        try:
            self._storage.submit(writer.close).result()
            self._check()  # again: something may have appeared meanwhile
            if self._path.exists():
                shutil.rmtree(self._path)
            (self._folder / self._path.name).rename(self._path)
        except OutputError:
            raise
        except Exception as error:
            raise OutputError(f"cannot finish {self.name}", got=f"{type(error).__name__}: {error}") from error
        finally:
            self._storage.shutdown()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _abandon(self, error: OSError) -> None:
        if self._writer is not None:
            with contextlib.suppress(Exception):  # what was wrong is known
                self._storage.submit(self._writer.close).result()
            self._writer = None
            shutil.rmtree(self._folder, ignore_errors=True)
        self._storage.shutdown()

    def _check(self) -> None:
        parent = self._path.parent
        if not parent.is_dir():
            raise OutputError(
                f"cannot write {self.name}", got=f"no folder {parent}", remedy=f"mkdir -p {parent}"
            )
        if not os.access(parent, os.W_OK):
            raise OutputError(f"cannot write {self.name}", got=f"no permission to write in {parent}")
        if self._path.exists() and not (self._path / "metadata.yaml").is_file():
            raise OutputError(f"cannot write {self.name}", got="something there that is no bag")
        if self._path.exists() and not self._force:
            raise OutputExistsError(f"{self.name} exists", remedy="Use --force (force=True) to replace it")
