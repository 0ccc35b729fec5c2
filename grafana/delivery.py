"""The dashboard *Delivery*: do spans arrive, and if not, what waits, since when, and who sends."""

from __future__ import annotations

from grafana.alerts import DELIVERY_UID, WAITING_STATES
from grafana.limits import BACKLOG_AGE, BACKLOG_ENTRIES, seconds
from grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    JAEGER,
    JOB_VARIABLE,
    METRICS_VARIABLE,
    ORANGE,
    PURPLE,
    RED,
    TEMPO,
    Dashboard,
    Panel,
    Query,
    by_name,
    graph,
    row,
    stat,
)

CHOSEN = 'job=~"$job"'
STATE = "otel_storage_outbox_state"
AGE = f"max by (job) (otel_storage_outbox_oldest_age_seconds{{{CHOSEN}}})"
NO_COLLECTOR = "the collector's own metrics: there where Prometheus scrapes its port 8888"

BAD = ((None, GREEN), (1, RED))


def entries(states: str, by: str = "") -> str:
    """How many entries of the outbox are in the states."""
    inner = f'max by (job, {STATE}) (otel_storage_outbox_entries{{{CHOSEN}, {STATE}=~"{states}"}})'
    return f"sum by ({by}) ({inner})" if by else f"sum ({inner})"


def _stats() -> list[list[Panel]]:
    return [
        [
            stat(
                "Oldest that waits",
                f"How long the oldest span has waited to be sent. An alert fires after {BACKLOG_AGE}.",
                Query(expr=f"max ({AGE})"),
                width=6,
                unit="s",
                decimals=0,
                graph=True,
                steps=((None, GREEN), (60, ORANGE), (seconds(BACKLOG_AGE), RED)),
            ),
            stat(
                "Waiting",
                "Spans that are due, are tried again, or are being sent just now.",
                Query(expr=entries(WAITING_STATES)),
                width=6,
                unit="short",
                decimals=0,
                graph=True,
                steps=((None, GREEN), (BACKLOG_ENTRIES, ORANGE)),
            ),
            stat(
                "Set aside",
                "Spans that the endpoint refused for good. `otel-storage status` says why, `replay` sends them again.",
                Query(expr=entries("refused")),
                width=6,
                unit="short",
                decimals=0,
                steps=BAD,
            ),
            stat(
                "Expired",
                "Spans that became too old to be sent. `otel-storage replay` sends them again.",
                Query(expr=entries("expired")),
                width=6,
                unit="short",
                decimals=0,
                steps=BAD,
            ),
        ],
        [
            stat(
                "Last accepted",
                "When an endpoint last accepted spans. Old is bad only while something waits.",
                Query(
                    expr=f"1000 * max (otel_storage_delivery_last_success_seconds{{{CHOSEN}}})",
                    when_empty="nothing was ever accepted, where there is no collector",
                ),
                width=6,
                unit="dateTimeFromNow",
                steps=((None, BLUE),),
                no_value="never",
            ),
            stat(
                "Last failure",
                "When spans were last sent in vain. `otel-storage status` says why.",
                Query(
                    expr=f"1000 * max (otel_storage_delivery_last_failure_seconds{{{CHOSEN}}})",
                    when_empty="nothing was ever sent in vain, where there is a collector",
                ),
                width=6,
                unit="dateTimeFromNow",
                steps=((None, BLUE),),
                no_value="never",
            ),
            stat(
                "Senders that watch",
                "Processes of `otel-storage deliver --watch` that were seen in the last five minutes. Without one, "
                "processes that run pipelines send, while they live.",
                Query(
                    expr=f'sum (max by (job) (otel_storage_senders{{{CHOSEN}, otel_storage_sender_watching="true"}}))'
                ),
                width=6,
                unit="short",
                decimals=0,
                steps=((None, ORANGE), (1, GREEN)),
            ),
            stat(
                "Other senders",
                "Processes that run pipelines and send besides, seen in the last five minutes.",
                Query(
                    expr=f'sum (max by (job) (otel_storage_senders{{{CHOSEN}, otel_storage_sender_watching="false"}}))'
                ),
                width=6,
                unit="short",
                decimals=0,
                steps=((None, BLUE),),
            ),
        ],
    ]


def _graphs() -> list[list[Panel]]:
    colors = {"due": BLUE, "retrying": ORANGE, "leased": GREEN, "held": GREY, "open": PURPLE}
    return [
        [
            graph(
                "Backlog by state",
                "due: to be sent now; retrying: to be tried again; leased: in the hands of a sender; held: waits for "
                "the records below it; open: of runs that are not finished.",
                [Query(expr=entries("due|retrying|leased|held|open", STATE), legend=f"{{{{{STATE}}}}}")],
                unit="short",
                bars=True,
                decimals=0,
                overrides=[by_name(s, color={"mode": "fixed", "fixedColor": c}) for s, c in colors.items()],
            ),
            graph(
                "Oldest that waits",
                "How long the oldest span of each installation has waited to be sent; dashed are the limits.",
                [Query(expr=AGE, legend="{{job}}")],
                unit="s",
                steps=((None, GREEN), (60, ORANGE), (seconds(BACKLOG_AGE), RED)),
            ),
        ],
        [
            graph(
                "Set aside and expired",
                "What needs a person. `otel-storage replay` sends it again.",
                [Query(expr=entries("refused|expired", STATE), legend=f"{{{{{STATE}}}}}")],
                unit="short",
                decimals=0,
                overrides=[
                    by_name("refused", color={"mode": "fixed", "fixedColor": RED}),
                    by_name("expired", color={"mode": "fixed", "fixedColor": ORANGE}),
                ],
            ),
            graph(
                "Senders",
                "Processes that send, seen in the last five minutes.",
                [
                    Query(
                        expr="sum by (otel_storage_sender_watching) (max by (job, otel_storage_sender_watching) "
                        f"(otel_storage_senders{{{CHOSEN}}}))",
                        legend="watching: {{otel_storage_sender_watching}}",
                    )
                ],
                unit="short",
                decimals=0,
            ),
        ],
    ]


def _collector() -> list[Panel]:
    def rate(name: str, by: str) -> str:
        return f'sum by ({by}) (rate({{__name__=~"{name}(_total)?"}}[$__rate_interval]))'

    def query(expr: str, legend: str) -> Query:
        return Query(expr=expr, legend=legend, when_empty=NO_COLLECTOR)

    return [
        graph(
            "The collector's queue",
            "How full the sending queue of each exporter is. A full one refuses spans, which wait here then.",
            [
                query(
                    "max by (exporter) (otelcol_exporter_queue_size) "
                    "/ max by (exporter) (otelcol_exporter_queue_capacity)",
                    "{{exporter}}",
                )
            ],
            unit="percentunit",
            max_value=1,
            steps=((None, GREEN), (0.5, ORANGE), (0.9, RED)),
            no_value=NO_COLLECTOR,
        ),
        graph(
            "The collector's spans",
            "Spans a second that the collector took in, passed on, and failed to pass on, which it tries again.",
            [
                query(rate("otelcol_receiver_accepted_spans", "receiver"), "accepted by {{receiver}}"),
                query(rate("otelcol_receiver_refused_spans", "receiver"), "refused by {{receiver}}"),
                query(rate("otelcol_exporter_sent_spans", "exporter"), "sent by {{exporter}}"),
                query(rate("otelcol_exporter_send_failed_spans", "exporter"), "failed in {{exporter}}"),
            ],
            unit="cps",
            no_value=NO_COLLECTOR,
        ),
    ]


def dashboard() -> Dashboard:
    """The dashboard; it asks no trace store."""
    return Dashboard(
        uid=DELIVERY_UID,
        file="delivery.json",
        title="Delivery",
        description="Whether spans arrive. What is not delivered waits in the database, and is not lost.",
        tags=[JAEGER.tag, TEMPO.tag],
        link_tags=[JAEGER.tag, TEMPO.tag],
        time_from="now-6h",
        variables=[METRICS_VARIABLE, JOB_VARIABLE],
        lines=[
            *_stats(),
            row("Over time"),
            *_graphs(),
            row("The collector, where Prometheus scrapes it"),
            _collector(),
        ],
    )
