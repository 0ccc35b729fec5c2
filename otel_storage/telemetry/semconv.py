"""OpenTelemetry's names for pipelines: https://opentelemetry.io/docs/specs/semconv/cicd/.

The names are release candidates, which the Python package keeps under ``_incubating``; no other module imports from
there.
"""

from __future__ import annotations

from opentelemetry.semconv._incubating.attributes.cicd_attributes import (
    CICD_PIPELINE_ACTION_NAME,
    CICD_PIPELINE_NAME,
    CICD_PIPELINE_RESULT,
    CICD_PIPELINE_RUN_ID,
    CICD_PIPELINE_RUN_STATE,
    CICD_PIPELINE_RUN_URL_FULL,
    CICD_PIPELINE_TASK_NAME,
    CICD_PIPELINE_TASK_RUN_ID,
    CICD_PIPELINE_TASK_RUN_RESULT,
    CicdPipelineActionNameValues,
    CicdPipelineResultValues,
    CicdPipelineRunStateValues,
)
from opentelemetry.semconv._incubating.metrics.cicd_metrics import (
    CICD_PIPELINE_RUN_ACTIVE,
    CICD_PIPELINE_RUN_DURATION,
    CICD_PIPELINE_RUN_ERRORS,
)

__all__ = [
    "CICD_PIPELINE_ACTION_NAME",
    "CICD_PIPELINE_NAME",
    "CICD_PIPELINE_RESULT",
    "CICD_PIPELINE_RUN_ACTIVE",
    "CICD_PIPELINE_RUN_DURATION",
    "CICD_PIPELINE_RUN_ERRORS",
    "CICD_PIPELINE_RUN_ID",
    "CICD_PIPELINE_RUN_STATE",
    "CICD_PIPELINE_RUN_URL_FULL",
    "CICD_PIPELINE_TASK_NAME",
    "CICD_PIPELINE_TASK_RUN_ID",
    "CICD_PIPELINE_TASK_RUN_RESULT",
    "CicdPipelineActionNameValues",
    "CicdPipelineResultValues",
    "CicdPipelineRunStateValues",
]
