"""How far a start is, from the engine's tensors to the probe's words."""

from pagoda_runtime.engine.progress import LoadProgress
from pagoda_runtime.model.spec import parse_spec
from pagoda_runtime.server import ipc
from pagoda_runtime.server.startup import StartPhase, Startup

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_weights_are_told_from_none_to_all() -> None:
    spec = parse_spec(CONFIG)
    told: list[tuple[int, int]] = []
    progress = LoadProgress(spec, "bfloat16", lambda *counts: told.append(counts))
    tensors = [(name, None) for name in spec.tensor_shapes()]
    assert list(progress.watch(tensors)) == tensors, "they pass unchanged"
    total = progress.total
    assert total > 2 * 64 * 16
    assert (told[0], told[-1]) == ((0, total), (total, total))
    assert told == sorted(told)


def test_phases_and_their_seconds() -> None:
    clock, ended = Clock(), list[tuple[str, float]]()
    startup = Startup(lambda phase, seconds: ended.append((phase, seconds)), clock)
    clock.now += 2
    assert startup.progress() == {"phase": "engine", "elapsed_seconds": 2.0}
    for loaded in (0, 30):
        startup.on_loading(ipc.Progress(loaded, 90))
        clock.now += 1
    assert startup.progress() == {
        "phase": "weights",
        "loaded_bytes": 30,
        "total_bytes": 90,
        "elapsed_seconds": 4.0,
    }
    startup.on_loading(ipc.Warming())
    clock.now += 1
    assert startup.phases() == {"engine": 2, "weights": 2, "self_test": 1}
    startup.finish()
    clock.now += 50
    assert startup.phase is StartPhase.DONE
    assert startup.elapsed == 5
    assert ended == [("engine", 2), ("weights", 2), ("self_test", 1), ("total", 5)]
    assert startup.phases() == dict(ended)
