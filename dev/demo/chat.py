"""Asks the model a question with curl and prints the answer as it arrives."""

import json
import shlex
import shutil
import subprocess
import time

from dev.demo.console import Console, StuckError

QUESTION = "What are you?"
MAX_TOKENS = 200


def command(address: str, model: str) -> str:
    """The curl command, ready to be copied."""
    return shlex.join(_arguments(address, model))


def ask(console: Console, address: str, model: str) -> str:
    """Prints the question, then each piece of the answer as it comes; returns the answer.

    Raises:
        StuckError: no answer, or one that does not end as a stream should.
    """
    if shutil.which("curl") is None:
        raise StuckError("there is no curl on the PATH to ask the question with: install it")
    console.show(f"\n$ {command(address, model)}\n")
    # kube-proxy may not have heard of the pod yet.
    patient = ["--silent", "--show-error", "--fail-with-body", "--max-time", "120"]
    patient += ["--retry", "10", "--retry-delay", "1", "--retry-connrefused"]
    curl, *arguments = _arguments(address, model)
    pieces: list[str] = []
    begun, first = time.monotonic(), 0.0
    rest: list[str] = []
    finished = False
    with subprocess.Popen(
        [curl, *patient, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            data = line.removeprefix("data: ").strip()
            if data == "[DONE]":
                finished = True
            elif line.startswith("data: "):
                piece = _text(data)
                first = first or time.monotonic()
                pieces.append(piece)
                console.stream(piece)
            elif data:
                rest.append(data)
    console.show("\n")
    answer = "".join(pieces)
    if process.returncode != 0 or not finished or not answer:
        raise StuckError(f"no complete answer, curl ended with {process.returncode}: {rest[-5:]}")
    seconds = time.monotonic() - begun
    console.say(f"{len(pieces)} events in {seconds:.1f} s, the first after {first - begun:.2f} s")
    return answer


def _arguments(address: str, model: str) -> list[str]:
    question = [{"role": "user", "content": QUESTION}]
    body = {"model": model, "messages": question, "max_tokens": MAX_TOKENS, "stream": True}
    url = f"http://{address}/v1/chat/completions"
    return ["curl", "-N", url, "-H", "Content-Type: application/json", "-d", json.dumps(body)]


def _text(data: str) -> str:
    choices = json.loads(data).get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or "")
