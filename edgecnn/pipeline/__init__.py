"""From cameras to results: capture → preprocess → infer → postprocess → sinks, all at the same time."""

from __future__ import annotations

from edgecnn.pipeline.cascade import Cascade, RegionResults
from edgecnn.pipeline.delivery import Failure
from edgecnn.pipeline.output import Latency, Output
from edgecnn.pipeline.pipeline import Pipeline
from edgecnn.pipeline.statistics import STAGES, PipelineStats, SinkStats, SourceStats

__all__ = [
    "STAGES",
    "Cascade",
    "Failure",
    "Latency",
    "Output",
    "Pipeline",
    "PipelineStats",
    "RegionResults",
    "SinkStats",
    "SourceStats",
]
