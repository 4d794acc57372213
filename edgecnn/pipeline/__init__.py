"""From cameras to results: capture → preprocess → infer → postprocess → sinks."""

from __future__ import annotations

from edgecnn.pipeline.output import Latency, Output
from edgecnn.pipeline.pipeline import Pipeline
from edgecnn.pipeline.statistics import STAGES, PipelineStats, SinkStats, SourceStats

__all__ = ["STAGES", "Latency", "Output", "Pipeline", "PipelineStats", "SinkStats", "SourceStats"]
