"""How much of the machine the engine takes: threads, memory, KV blocks."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from pagoda_runtime import cgroup
from pagoda_runtime.cli import main
from pagoda_runtime.config import ConfigError, EngineConfig
from pagoda_runtime.engine.kv_size import room_for_cache, size_kv_cache, weight_bytes
from pagoda_runtime.model.spec import DecoderSpec, DType, parse_spec

MIB = 1 << 20


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "quota", "memory"),
    [
        pytest.param({}, None, None, id="no-cgroup"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/",
                "sys/fs/cgroup/cpu.max": "150000 100000",
                "sys/fs/cgroup/memory.max": str(64 * MIB),
            },
            1.5,
            64 * MIB,
            id="v2-container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/pods/pod/box",
                "sys/fs/cgroup/pods/pod/cpu.max": "50000 100000",
                "sys/fs/cgroup/pods/pod/box/cpu.max": "max 100000",
                "sys/fs/cgroup/pods/memory.max": str(32 * MIB),
                "sys/fs/cgroup/pods/pod/box/memory.max": "max",
            },
            0.5,
            32 * MIB,
            id="v2-limit-on-a-parent",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/host/path\n7:memory:/host/path\n1:name=systemd:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(16 * MIB),
            },
            3.0,
            16 * MIB,
            id="v1-container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu:/\n7:memory:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            None,
            None,
            id="v1-unlimited",
        ),
        pytest.param(
            {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB"},
            None,
            5000 * 1024,
            id="machine-in-use",
        ),
    ],
)
def test_cgroups(
    tmp_path: Path, files: dict[str, str], quota: float | None, memory: int | None
) -> None:
    root = tree(tmp_path, files)
    assert cgroup.cpu_quota(root) == quota
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert cgroup.memory_limit(root) == (memory or machine)


@pytest.mark.parametrize(
    ("quota", "threads"), [("50000", 1), ("199000", 1), ("250000", 2), ("max", 4)]
)
def test_threads_are_the_quota_rounded_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    root = tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": f"{quota} 100000"})
    assert cgroup.thread_count(root) == threads


# One block of 16 tokens is 2 · 1 layer · 16 wide · 16 tokens · 4 bytes = 2048 bytes.
BLOCK_BYTES = 2048


def spec(**changes: bool) -> DecoderSpec:
    return parse_spec(
        changes
        | {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 32,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 160,
        }
    )


def config(**changes: int) -> EngineConfig:
    return EngineConfig("x", block_size=16, max_num_seqs=4, **changes)


def test_default_is_what_full_length_requests_need() -> None:
    size = size_kv_cache(config(), spec(), "float32", memory_limit=1 << 40)
    assert (size.num_blocks, size.max_model_len) == (4 * 10, 160)


@pytest.mark.parametrize(
    ("file", "text", "kills"),
    [
        ("sys/fs/cgroup/pod/memory.events", "low 1\noom 5\noom_kill 3\noom_group_kill 0", 3),
        ("sys/fs/cgroup/pod/memory.oom_control", "under_oom 0\noom_kill 2", 2),
        ("sys/fs/cgroup/pod/memory.max", "max", 0),
    ],
    ids=["v2", "v1", "untold"],
)
def test_the_kernel_s_kills_are_counted(tmp_path: Path, file: str, text: str, kills: int) -> None:
    for name, content in {file: text, "proc/self/cgroup": "0::/pod"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cgroup.oom_kills(tmp_path) == kills


def test_default_is_at_most_what_the_memory_leaves() -> None:
    limit = 15 * BLOCK_BYTES * 16  # So little that the least share counts, a sixteenth.
    size = size_kv_cache(config(), spec(), "float32", memory_limit=limit)
    assert (size.num_blocks, size.max_model_len) == (15, 160)


# Numbers in the model's matrices: embedding and head 512 each, attention 4 · 256, MLP 3 · 384, and
# three norms of 16.
@pytest.mark.parametrize(
    ("changes", "dtype", "quantization", "expected"),
    [
        ({}, "float32", None, 4 * 3248),
        ({}, "bfloat16", None, 2 * 3248),
        ({"tie_word_embeddings": True}, "bfloat16", None, 2 * 3248),
        ({}, "bfloat16", "int8", 2 * 512 + 2736),
    ],
)
def test_weights_are_counted(
    changes: dict[str, bool], dtype: DType, quantization: str | None, expected: int
) -> None:
    assert weight_bytes(spec(**changes), dtype, quantization) == expected


def test_weights_activations_and_processes_are_taken_from_the_limit() -> None:
    limit = 4 << 30
    room = room_for_cache(config(), spec(), "float32", limit)
    activations = 4 * (256 * (3 * 16 + 3 * 16 + 4 * 16 + 3 * 24) + 5 * 16 * 32)
    assert room == int(limit * 0.92) - 512 * MIB - 4 * 3248 - activations
    more = replace(config(), max_num_batched_tokens=512)
    assert room - room_for_cache(more, spec(), "float32", limit) == 4 * 256 * 232


def test_the_context_shrinks_to_what_fits() -> None:
    size = size_kv_cache(config(kv_cache_memory_bytes=3 * BLOCK_BYTES + 5), spec(), "float32")
    assert (size.num_blocks, size.max_model_len) == (3, 48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_model_len": 100, "kv_cache_memory_bytes": 3 * BLOCK_BYTES},
            "needs 14336 bytes of KV cache",
        ),
        ({"max_model_len": 161}, "above the model's 160 positions"),
        ({"kv_cache_memory_bytes": 7}, "there are 0"),
    ],
)
def test_what_cannot_be_honoured_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        size_kv_cache(config(**changes), spec(), "float32")


@pytest.mark.parametrize(
    "flags",
    [
        ["--max-num-seqs", "300"],
        ["--block-size", "0"],
        ["--max-model-len", "1"],
        ["--max-num-queued-reqs", "-1"],
        ["--max-num", "3"],
    ],
)
def test_flags_that_cannot_work_end_with_usage(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", "--model", "x", *flags])
    assert end.value.code == 2
