"""Schedules written down step by step, to be read as examples and to notice any change.

A line is one step: the chunks `request[start:end]` in order, `*` where a token is sampled, then who
waits and how many blocks are free. Blocks hold 4 tokens.
"""

from collections.abc import Mapping
from textwrap import dedent

from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.engine.scheduler import Scheduler


def request(name: str, prompt: str, answer: int, priority: int = 0) -> Request:
    params = SamplingParams(max_tokens=answer, priority=priority)
    return Request(name, [ord(letter) for letter in prompt], params)


def record(
    arrivals: Mapping[int, list[Request]], *, blocks: int, seqs: int = 8, budget: int = 16
) -> str:
    """Run until nothing is left; arrivals are by step."""
    s = Scheduler(
        BlockPool(blocks, 4),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=4 * blocks,
    )
    lines, step = [], 1
    while s.has_work or step <= max(arrivals):
        for new in arrivals.get(step, []):
            s.add(new)
        chunks = s.schedule()
        computed = [f"{c.request.id}[{c.start}:{c.end}]{'*' if c.samples else ''}" for c in chunks]
        waiting = ",".join(r.id for r in s.waiting) or "-"
        lines.append(
            f"{step:<2} {' '.join(computed)} | waiting {waiting} | free {s.kv.pool.num_free}"
        )
        s.update(chunks, {c.request.id: ord("x") for c in chunks if c.samples})
        step += 1
    return "\n".join(lines)


def expected(text: str) -> str:
    return dedent(text).strip()


def test_decodes_first_and_prompts_in_chunks() -> None:
    arrivals = {
        1: [request("a", "a" * 5, 6)],
        2: [request("b", "b" * 20, 2), request("c", "c" * 3, 2)],
    }
    assert record(arrivals, blocks=32, budget=8) == expected("""
        1  a[0:5]* | waiting - | free 30
        2  a[5:6]* b[0:7] | waiting c | free 25
        3  a[6:7]* b[7:14] | waiting c | free 25
        4  a[7:8]* b[14:20]* c[0:1] | waiting - | free 24
        5  a[8:9]* b[20:21]* c[1:3]* | waiting - | free 22
        6  a[9:10]* c[3:4]* | waiting - | free 28
    """)


def test_three_answers_to_one_prompt() -> None:
    arrivals = {1: [request(name, "one prompt of 22 chars", 3) for name in ("n0", "n1", "n2")]}
    assert record(arrivals, blocks=32) == expected("""
        1  n0[0:16] | waiting n1,n2 | free 26
        2  n0[16:22]* n1[20:22]* n2[20:22]* | waiting - | free 24
        3  n0[22:23]* n1[22:23]* n2[22:23]* | waiting - | free 24
        4  n0[23:24]* n1[23:24]* n2[23:24]* | waiting - | free 24
    """)


def test_preempted_and_resumed_from_the_cache() -> None:
    arrivals = {1: [request("old", "o" * 8, 7), request("new", "n" * 8, 7)]}
    assert record(arrivals, blocks=6) == expected("""
        1  old[0:8]* new[0:8]* | waiting - | free 2
        2  old[8:9]* new[8:9]* | waiting - | free 0
        3  old[9:10]* new[9:10]* | waiting - | free 0
        4  old[10:11]* new[10:11]* | waiting - | free 0
        5  old[11:12]* new[11:12]* | waiting - | free 0
        6  old[12:13]* | waiting new | free 2
        7  old[13:14]* | waiting new | free 2
        8  new[8:13]* | waiting - | free 2
        9  new[13:14]* | waiting - | free 2
    """)


def test_an_urgent_request_beside_a_long_prompt() -> None:
    arrivals = {
        1: [request("long", "l" * 40, 2, priority=1)],
        2: [request("urgent", "u" * 10, 3)],
    }
    assert record(arrivals, blocks=32, budget=8) == expected("""
        1  long[0:8] | waiting - | free 22
        2  urgent[0:8] | waiting - | free 19
        3  urgent[8:10]* long[8:14] | waiting - | free 19
        4  urgent[10:11]* long[14:21] | waiting - | free 19
        5  urgent[11:12]* long[21:28] | waiting - | free 19
        6  long[28:36] | waiting - | free 22
        7  long[36:40]* | waiting - | free 22
        8  long[40:41]* | waiting - | free 21
    """)


def test_a_conversation_finds_its_last_turn() -> None:
    arrivals = {
        1: [request("turn1", "q" * 10, 4)],
        6: [request("turn2", "q" * 10 + "xxxx" + "r" * 5, 2)],
    }
    assert record(arrivals, blocks=32) == expected("""
        1  turn1[0:10]* | waiting - | free 29
        2  turn1[10:11]* | waiting - | free 29
        3  turn1[11:12]* | waiting - | free 29
        4  turn1[12:13]* | waiting - | free 28
        5   | waiting - | free 32
        6  turn2[12:19]* | waiting - | free 27
        7  turn2[19:20]* | waiting - | free 27
    """)
