"""Results as ROS 2 messages: which topic gets what. The types are vision_msgs 4's, of Humble and later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgecnn.results import Classification, Detections, Result

__all__ = ["VISION_MSGS", "messages_of"]

# no part of the messages that rosbags knows
VISION_MSGS = {
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/Classification": "std_msgs/Header header\nvision_msgs/ObjectHypothesis[] results\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y\n",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id\n"
    ),
    "vision_msgs/msg/Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
}


def messages_of(types: Any, header: Any, result: Result) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The messages of one result.

    Args:
        types: the type store's, by name, with `VISION_MSGS` in it.
        header: std_msgs/msg/Header of the frame.
        result: what a model found.

    Yields:
        End of the topic's name, type, and fields without the header.
    """
    if isinstance(result, Classification):
        hypothesis = types["vision_msgs/msg/ObjectHypothesis"]
        likely = [hypothesis(class_id=entry.label, score=entry.score) for entry in result.top(5)]
        yield "classification", "vision_msgs/msg/Classification", {"results": likely}
        return
    if isinstance(result, Detections):
        found = [_detection(types, header, result, index) for index in range(len(result))]
        yield "detections", "vision_msgs/msg/Detection2DArray", {"detections": found}
        if all(more is None for more in (result.masks, result.keypoints_xys, result.corners_xy)):
            return
    import msgspec

    yield "result", "std_msgs/msg/String", {"data": msgspec.json.encode(result.to_dict()).decode()}


def _detection(types: Any, header: Any, found: Detections, index: int) -> Any:
    def make(name: str, **fields: Any) -> Any:
        return types[f"vision_msgs/msg/{name}"](**fields)

    x1, y1, x2, y2 = (float(edge) for edge in found.boxes_xyxy[index])
    centre = make("Pose2D", position=make("Point2D", x=(x1 + x2) / 2, y=(y1 + y2) / 2), theta=0.0)
    hypothesis = make("ObjectHypothesis", class_id=found.class_names[index], score=float(found.scores[index]))
    track = -1 if found.track_ids is None else int(found.track_ids[index])
    return make(
        "Detection2D",
        header=header,
        results=[make("ObjectHypothesisWithPose", hypothesis=hypothesis, pose=_no_pose(types))],
        bbox=make("BoundingBox2D", center=centre, size_x=x2 - x1, size_y=y2 - y1),
        id=str(track) if track >= 0 else "",
    )


def _no_pose(types: Any) -> Any:
    """Where the object is in space: a camera alone does not know."""
    point = types["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0)
    turn = types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    pose = types["geometry_msgs/msg/Pose"](position=point, orientation=turn)
    return types["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36))
