"""Metrics of the control loop, under controller-runtime's names so that its dashboards work."""

from prometheus_client import Counter, Gauge, Histogram

CONTROLLER = "llmdeployment"

RECONCILES = Counter(
    "controller_runtime_reconcile_total", "Passes by result.", ["controller", "result"]
)
ERRORS = Counter(
    "controller_runtime_reconcile_errors_total", "Passes that failed.", ["controller"]
).labels(CONTROLLER)
TERMINAL_ERRORS = Counter(
    "controller_runtime_terminal_reconcile_errors_total",
    "Passes that ended in a state only a person can change.",
    ["controller"],
).labels(CONTROLLER)
SECONDS = Histogram(
    "controller_runtime_reconcile_time_seconds", "Time of one pass.", ["controller"]
).labels(CONTROLLER)
ACTIVE_WORKERS = Gauge(
    "controller_runtime_active_workers", "Workers in a pass.", ["controller"]
).labels(CONTROLLER)
MAX_WORKERS = Gauge(
    "controller_runtime_max_concurrent_reconciles", "Workers there are.", ["controller"]
).labels(CONTROLLER)
WATCH_SILENT = Gauge(
    "pagoda_watch_silent",
    "1 when a re-list found changes that the kind's watch had not reported.",
    ["kind"],
)
DEPLOYMENTS = Gauge("pagoda_llmdeployments", "LLMDeployments known.")
