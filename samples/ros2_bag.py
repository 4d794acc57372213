"""Record for ROS 2: pictures and results in a bag that `ros2 bag play` takes, then list what is in it.

No ROS is needed to write or read it. Boxes are vision_msgs/Detection2DArray, classes
vision_msgs/Classification, anything else JSON; the time of each message is that of capture.
(pip install 'edgecnn[ros]')

python samples/ros2_bag.py model.onnx 0 drive.rosbag --seconds 30
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import monotonic

from rosbags.rosbag2 import Reader

import edgecnn
from edgecnn.tracking import ByteTrack


def main() -> None:
    """Record until the video ends, the time is up, or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model that edgecnn built")
    parser.add_argument("source", help="camera number, stream or video")
    parser.add_argument("bag", type=Path, help="folder to write; its name ends in .rosbag")
    parser.add_argument("--seconds", type=float, help="record for so long")
    parser.add_argument("--track", action="store_true", help="objects get ids (pip install 'edgecnn[track]')")
    parser.add_argument("--force", action="store_true", help="replace a bag that is there")
    arguments = parser.parse_args()

    tracker = ByteTrack if arguments.track else None
    end_s = None if arguments.seconds is None else monotonic() + arguments.seconds
    try:
        with (
            edgecnn.load(arguments.model) as model,
            edgecnn.Pipeline(
                arguments.source, model, sinks=[arguments.bag], tracker=tracker, force=arguments.force
            ) as pipeline,
        ):
            for _ in pipeline:
                if end_s is not None and monotonic() >= end_s:
                    break
    except KeyboardInterrupt:
        print("stopped; the bag is whole")  # closing the pipeline has finished it

    with Reader(arguments.bag) as bag:
        print(f"{arguments.bag}: {bag.duration / 1e9:.1f} s, {bag.message_count} messages")
        for topic in bag.connections:
            print(f"{topic.topic}  {topic.msgtype}  {topic.msgcount}")


if __name__ == "__main__":
    main()
