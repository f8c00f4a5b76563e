"""Which files are chosen, and which listings are refused."""

import pytest
from pagoda.fetch.errors import FetchError
from pagoda.fetch.plan import is_safe, make_plan, repository, wanted
from pagoda.fetch.report import FailureReason

from tests.hub import sibling

SHA = "a" * 40


def listing(*names: str, **changes: object) -> dict[str, object]:
    return {"sha": SHA, "siblings": [sibling(name, b"x") for name in names]} | changes


def chosen(*names: str) -> set[str]:
    return set(wanted(names))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "spiece.model",
        "merges.txt",
        "vocab.txt",
        "qwen.tiktoken",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "model.safetensors.index.json",
    ],
)
def test_needed(name):
    assert chosen(name) == {name}


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE.txt",
        "requirements.txt",
        "figure.png",
        ".gitattributes",
        ".hidden.json",
        ".cache/config.json",
        "modeling_llama.py",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.pt",
        "training_args.pth",
        "model-q4.gguf",
        "original/params.json",
        "original/model.safetensors",
        "onnx/config.json",
        "metal/model.safetensors",
        "tf_model.h5",
        "flax_model.msgpack",
    ],
)
def test_not_needed(name):
    assert chosen(name) == set()


def test_consolidated_weights_only_when_there_are_no_others():
    sharded = "model-00001-of-00002.safetensors"
    assert chosen("consolidated.safetensors", sharded) == {sharded}
    assert chosen("consolidated.safetensors", "model.safetensors") == {"model.safetensors"}
    assert chosen("consolidated.safetensors") == {"consolidated.safetensors"}
    inner = ("consolidated.safetensors", "2_Dense/model.safetensors")
    assert chosen(*inner) == set(inner)


def test_small_files_come_first():
    assert wanted(["a.safetensors", "z.json", "b.json"]) == ["b.json", "z.json", "a.safetensors"]


def test_plan_has_sizes_and_both_kinds_of_checksums():
    plan = make_plan("o/n", listing("config.json", "model.safetensors"))
    assert plan.sha == SHA
    assert plan.size == 2
    assert [len(file.checksum.digest) for file in plan.files] == [40, 64]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["config.json", "pytorch_model.bin"], "only as pickles"),
        (["config.json", "consolidated.00.pth"], "only as pickles"),
        (["model.gguf"], "only as GGUF"),
        (["config.json"], "has no weights"),
        ([], "has no weights"),
    ],
)
def test_without_safetensors(names, words):
    with pytest.raises(FetchError, match=words) as error:
        make_plan("o/n", listing(*names))
    assert error.value.failure.reason == FailureReason.MODEL_FORMAT_UNSUPPORTED
    assert "pvc://" in error.value.failure.message


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"sha": SHA},
        listing("model.safetensors", sha="main"),
        {"sha": SHA, "siblings": None},
        {"sha": SHA, "siblings": ["model.safetensors"]},
        {"sha": SHA, "siblings": [{"rfilename": "model.safetensors"}]},
        {"sha": SHA, "siblings": [{"rfilename": "m.safetensors", "size": 1, "blobId": "short"}]},
        {"sha": SHA, "siblings": [{"rfilename": "m.safetensors", "size": -1, "blobId": SHA}]},
        {"sha": SHA, "siblings": [{"rfilename": "m.safetensors", "blobId": SHA, "lfs": "x"}]},
    ],
)
def test_listing_that_cannot_be_used(broken):
    with pytest.raises(FetchError, match="cannot be used") as error:
        make_plan("o/n", broken)
    assert error.value.failure.reason == FailureReason.FETCH_FAILED


@pytest.mark.parametrize(
    "name",
    ["../a.json", "/a.json", "a/../b.json", "a//b.json", "./a.json", "a\\b.json", "a\0.json",
     "a\n.json", "a\ud800.json", "x.incomplete", "é" * 101 + ".json"],
)  # fmt: skip
def test_unsafe_names(name):
    assert not is_safe(name)


@pytest.mark.parametrize("name", ["a.json", "a/b c+d%.json", "..a.json", "é.json"])
def test_safe_names(name):
    assert is_safe(name)


@pytest.mark.parametrize(
    "name", ["../m.safetensors", "a/../../m.safetensors", "/etc/m.safetensors", "a\\m.json"]
)
def test_unsafe_name_is_refused_not_left_out(name):
    with pytest.raises(FetchError, match="could leave"):
        make_plan("o/n", listing("model.safetensors", name))


def test_uri():
    assert repository("hf://Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "hf://one",
        "hf://a/b/c",
        "hf://a/b?x",
        "hf://a/..",
        "hf://../b",
        "pvc://a/b",
        "hf://a/b ",
    ],
)
def test_what_is_no_uri(uri):
    with pytest.raises(ValueError, match="is not hf://ORG/NAME"):
        repository(uri)
