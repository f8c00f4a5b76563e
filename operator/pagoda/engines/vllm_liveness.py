"""Is vLLM's engine moving? The liveness probe of its container: `python3 -c THIS PORT`.

vLLM's /health stays 200 while its engine hangs: it tells only that no engine has died. So this
looks at the engine's own figures, which change with every step: the probe fails when requests run
and no figure has moved for PAGODA_HANG_SECONDS. Steps that only read a long prompt move the use of
the KV cache, so the time-out bounds one step, not one prompt.

The figures come with finished steps. An idle engine that hangs in the first step of a new request
still reports none running; the API server's count of open requests shows that one. The count can
leak, so it convicts nobody alone: the engine is also asked for one token, and does not answer.

What is not known is no hang: an API server busy with its requests may answer late. It fails only
when it has been silent for as long as an engine may be.

The text runs in vLLM's image, so it uses the standard library only. Samples are kept in /tmp.
"""

import http.client
import json
import os
import re
import sys
import time
from typing import Any

LIMIT = float(os.environ.get("PAGODA_HANG_SECONDS", "120"))
STATE = os.environ.get("PAGODA_LIVENESS_STATE", "/tmp/pagoda-liveness.json")
# The kubelet shows what is in this file when the container ends, and reads it before the log.
TERMINATION_LOG = os.environ.get("PAGODA_TERMINATION_LOG", "/dev/termination-log")
HUNG = "engine hung:"
ANSWER_SECONDS = 2  # four questions stay below the probe's time-out
RUNNING = "num_requests_running"
FIGURES = (
    RUNNING,
    "num_requests_waiting",
    "generation_tokens_total",
    "prompt_tokens_total",
    "kv_cache_usage_perc",
    "gpu_cache_usage_perc",  # its name before vLLM 0.10
    "num_preemptions_total",
)

Figures = dict[str, dict[str, float]]  # of each engine; several with data parallelism


def judge(
    state: dict[str, Any], engines: Figures, open_requests: int, now: float
) -> tuple[dict[str, Any], str | None, bool]:
    """Compare figures with those of earlier probes.

    Args:
        state: what the probe before returned; empty at first.
        engines: the figures of each engine.
        open_requests: requests that the API server has not answered yet.
        now: seconds of a clock that never goes back.

    Returns:
        The state for the next probe; which engine hangs, if one does; and whether one may hang
        that reports nothing running, so that it has to be asked.
    """
    known, since, hung = state.get("engines", {}), {}, None
    for name, figures in engines.items():
        before, busy = known.get(name, {}), figures.get(RUNNING, 0) > 0
        since[name] = before["since"] if busy and before.get("figures") == figures else now
        if now - since[name] >= LIMIT:
            hung = (
                f"{figures[RUNNING]:.0f} requests are running and no figure of engine {name} has "
                f"moved for {now - since[name]:.0f} s"
            )
    moved = {name: at["figures"] for name, at in known.items()} != engines
    open_since = None
    if open_requests and not any(figures.get(RUNNING) for figures in engines.values()):
        open_since = now if moved else state.get("open_since") or now
    kept = {
        "heard": now,
        "open_since": open_since,
        "engines": {name: {"figures": engines[name], "since": since[name]} for name in engines},
    }
    return kept, hung, open_since is not None and now - open_since >= LIMIT


def parse(metrics: str) -> Figures:
    """Pick the figures out of a page in Prometheus' text format."""
    engines: Figures = {}
    for name, labels, value in re.findall(r"^vllm:(\w+)\{(.*)\} (\S+)", metrics, re.MULTILINE):
        if name in FIGURES:
            engine = re.search(r'\bengine="([^"]*)"', labels)
            engines.setdefault(engine[1] if engine else "0", {})[name] = float(value)
    return engines


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Send one request; raises OSError or HTTPException when there is no whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            headers = {"Content-Type": "application/json"}
            if key := os.environ.get("VLLM_API_KEY"):
                headers["Authorization"] = f"Bearer {key}"
            connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def gives_no_token(port: int) -> bool:
    """Ask the engine for one token. Any answer counts for it, also a refusal by the API server."""
    try:
        ask(port, "/v1/completions", {"prompt": ".", "max_tokens": 1})
    except TimeoutError:
        return True
    except (OSError, http.client.HTTPException):
        pass
    return False


def check(port: int, state: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Probe once; returns the state to keep, and what is wrong."""
    now = time.monotonic()
    try:
        status, _ = ask(port, "/health")
        if status != http.client.OK:
            return state, f"engine dead: /health answers {status}"
        _, metrics = ask(port, "/metrics")
        engines = parse(metrics)
        status, load = ask(port, "/load")
        open_requests = json.loads(load)["server_load"] if status == http.client.OK else 0
    except ConnectionRefusedError:
        return state, "engine dead: nobody listens"
    except (OSError, ValueError, http.client.HTTPException):
        heard = state.get("heard", now)
        silent = now - heard >= LIMIT
        text = f"{HUNG} its API server has not answered for {now - heard:.0f} s"
        return state | {"heard": heard}, text if silent else None
    kept, hung, suspicious = judge(state, engines, open_requests, now)
    if hung is None and suspicious and gives_no_token(port):
        seconds = now - kept["open_since"]
        hung = f"{open_requests} requests are open and no step has ended for {seconds:.0f} s"
    return kept, hung and f"{HUNG} {hung}"


def process_identity() -> str:
    """Name the engine's process, the first in the container: samples of another are no use."""
    with open("/proc/1/stat") as file:
        return file.read().rpartition(")")[2].split()[19]  # its start, in ticks since boot


def load_state(identity: str) -> dict[str, Any]:
    """Read what the probe before kept, if it was of the same process."""
    try:
        with open(STATE) as file:
            state: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return {}
    return state if state.get("process") == identity else {}


def tell(wrong: str | None) -> None:
    """Say what is wrong, or take back what an earlier probe said."""
    if wrong is not None:
        print(wrong)
    try:
        if wrong is None:
            with open(TERMINATION_LOG) as file:
                if not file.read(len(HUNG)).startswith(HUNG):
                    return
        with open(TERMINATION_LOG, "w") as file:
            file.write(wrong or "")
    except OSError:
        pass  # not in a pod


def main() -> int:
    """Return the exit code: 0 alive, 1 not."""
    identity = process_identity()
    state, wrong = check(int(sys.argv[1]), load_state(identity))
    try:
        with open(f"{STATE}.new", "w") as file:
            json.dump(state | {"process": identity}, file)
        os.replace(f"{STATE}.new", STATE)
    except OSError as error:
        print(f"cannot keep samples, so no hang will be seen: {error}")
    tell(wrong)
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main())
