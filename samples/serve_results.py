"""Results for another process: JSON lines on its standard input, or MQTT; where something was found.

A process that reads slowly or dies does not hold the camera up: results for it are dropped and counted. At
the end it has five seconds to read what is left; then it is killed.

python samples/serve_results.py model.onnx 0 --to mqtt://broker/camera/results
python samples/serve_results.py model.onnx 0 --run "python consumer.py"
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

import edgecnn
from edgecnn.camera import open_sink

PATIENCE_S = 5.0  # with a program that does not end


def found_something(output: edgecnn.Output, min_score: float) -> bool:
    """Whether the frame is worth telling."""
    result = output.result
    if isinstance(result, edgecnn.Detections):
        return bool((result.scores >= min_score).any())
    if isinstance(result, edgecnn.Classification):
        return result.best.score >= min_score
    return True


class Feeder:
    """Writes JSON lines to a program's standard input, from a thread of its own."""

    def __init__(self, command: str) -> None:
        self.process = subprocess.Popen(  # in a session of its own: Ctrl-C is not for it
            shlex.split(command), stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines: queue.Queue[str | None] = queue.Queue(100)
        self.dropped = 0
        self.thread = threading.Thread(target=self._feed)
        self.thread.start()

    def write(self, output: edgecnn.Output) -> None:
        """Hand a result over, without waiting."""
        try:
            self.lines.put_nowait(json.dumps(output.to_dict()))
        except queue.Full:
            self.dropped += 1

    def close(self) -> int:
        """What the program's exit code is, once it has read everything; killed after `PATIENCE_S`: -9."""
        kill = threading.Timer(PATIENCE_S, os.killpg, (self.process.pid, signal.SIGKILL))
        kill.start()  # with all that it has started, which may hold the pipe open
        self.lines.put(None)
        self.thread.join()
        code = self.process.wait()
        kill.cancel()
        return code

    def _feed(self) -> None:
        pipe = self.process.stdin
        assert pipe is not None
        try:
            with pipe:
                while (line := self.lines.get()) is not None:
                    print(line, file=pipe, flush=True)
        except BrokenPipeError:  # the program has ended: what is left is for nobody
            while self.lines.get() is not None:
                self.dropped += 1


def serve(
    model: edgecnn.Model, source: str, write: Callable[[edgecnn.Output], None], min_score: float
) -> None:
    """Hand over what was found until the source ends."""
    sent = 0
    with edgecnn.Pipeline(source, model) as pipeline:
        for output in pipeline:
            if found_something(output, min_score):
                write(output)
                sent += 1
        print(f"{sent} of {pipeline.stats.frames} frames told")


def main() -> None:
    """Serve until the video ends, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model that edgecnn built")
    parser.add_argument("source", help="camera number, stream or video")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", help="mqtt://host/topic, or a file ending in .jsonl")
    where.add_argument("--run", help="a command, which gets a JSON line a frame on its standard input")
    parser.add_argument("--min-score", type=float, default=0.5)
    arguments = parser.parse_args()

    with edgecnn.load(arguments.model) as model:
        if arguments.to:
            with open_sink(arguments.to) as sink:
                serve(model, arguments.source, sink.write, arguments.min_score)
            return
        feeder = Feeder(arguments.run)
        try:
            serve(model, arguments.source, feeder.write, arguments.min_score)
        finally:
            code = feeder.close()
            print(f"the command ended with {code}; {feeder.dropped} results dropped")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
