"""Page of the metrics."""

from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from rossmann.documentation.reference.markdown import code, page, section, sentence, table
from rossmann.serving.observability.metrics import LABELS, Metrics


def metric_pages() -> dict[str, str]:
    """``metrics.md``."""
    introduction = (
        "Use this page to look up a metric for a query, a panel or an alert. `GET /metrics`"
        " returns them in Prometheus' text format, without a key, as the sum of all workers."
        " [Observability](../deployment/observability.md) shows how to scrape them."
    )
    metrics = sorted(all_metrics().items())
    rows = [(code(name), _kind(metric), _labels(metric), _help(metric)) for name, metric in metrics]
    labels = [(code(name), sentence(text)) for name, text in LABELS.items()]
    curl = "```bash\ncurl -sf http://127.0.0.1:8000/metrics\n```"
    text = (
        "No label has a value that callers can choose. Gauges are refreshed once a second. A"
        " histogram has the series `_bucket`, `_sum` and `_count`, with buckets from 0.25 ms to"
        " 30 s."
    )
    page_text = page(
        "Metrics",
        introduction,
        curl,
        section("List of metrics", table(("name", "type", "labels", "meaning"), rows)),
        section("Labels", text, table(("label", "meaning"), labels)),
    )
    return {"metrics.md": page_text}


def all_metrics() -> dict[str, MetricWrapperBase]:
    """Every metric by its name in a query."""
    found = {}
    for metric in _registered(Metrics()):
        name = f"{metric._name}{'_total' if isinstance(metric, Counter) else ''}"
        found[name] = metric
    return found


def _registered(metrics: Metrics) -> set[MetricWrapperBase]:
    collectors = list(metrics.registry._collector_to_names)
    return {metric for metric in collectors if isinstance(metric, MetricWrapperBase)}


def _kind(metric: MetricWrapperBase) -> str:
    if isinstance(metric, Counter):
        return "counter"
    return "histogram" if isinstance(metric, Histogram) else "gauge"


def _labels(metric: MetricWrapperBase) -> str:
    return ", ".join(map(code, metric._labelnames))


def _help(metric: MetricWrapperBase) -> str:
    return sentence(metric._documentation)
