import pytest

from sessile.domain.large_outputs import as_file, fitted, headroom, referring, threshold
from sessile.wire import codec
from sessile.wire.agents import ToolOutputOffloading
from sessile.wire.events import ArtifactReference


def test_without_a_bound_nothing_is_cut() -> None:
    result = {"content": "x" * 1_000_000}
    for configuration in (None, ToolOutputOffloading(), ToolOutputOffloading(enabled=False)):
        limit = threshold(configuration, 1000)
        assert limit is None
        assert fitted(result, limit) is result


@pytest.mark.parametrize(
    ("given", "window", "bytes"),
    [
        ({}, 8_000, 8_000),
        ({}, 1_000_000, 262_144),
        ({}, 256, 1_024),
        ({"context_percentage": 1.0}, 8_000, 32_000),
        ({"max_threshold_bytes": 2_000}, 8_000, 2_000),
        ({"min_threshold_bytes": 50_000}, 8_000, 50_000),
        ({"min_threshold_bytes": 500_000}, 8_000, 500_000),
    ],
)
def test_the_threshold(given: dict[str, float], window: int, bytes: int) -> None:
    configuration = codec.convert({"enabled": True, **given}, ToolOutputOffloading)
    assert threshold(configuration, window) == bytes


def test_what_is_larger_is_cut_and_says_so() -> None:
    result = {"content": "\u20ac" * 1_000}
    size = len(codec.encode(result))
    assert fitted(result, size) is result
    cut = fitted(result, size - 1, 0.5)
    assert cut["truncated"] is True
    assert str(size) in cut["remark"]
    assert len(cut["content"].encode()) <= size / 2
    assert codec.encode(result).decode().startswith(cut["content"])
    assert len(codec.encode(fitted({"x": '"' * 5_000}, 2_000))) < 5_000


def test_the_share_that_is_kept() -> None:
    assert headroom(None) == 0.7
    assert headroom(ToolOutputOffloading(enabled=True)) == 0.7
    assert headroom(codec.convert({"headroom_percentage": 0.2}, ToolOutputOffloading)) == 0.2


def test_all_of_an_output_as_a_file() -> None:
    assert as_file({"result": "one\ntwo"}) == (".txt", b"one\ntwo")
    assert as_file({"a": "x", "b": [1]}) == (".json", b'{\n "a": "x",\n "b": [\n  1\n ]\n}')
    assert as_file({"n": 1}) == (".json", b'{\n "n": 1\n}')


def test_what_is_cut_names_its_file() -> None:
    cut = fitted({"result": "x" * 5_000}, 1_000)
    file = ArtifactReference(artifact_id="art_1", filename="a.txt", mime_type="text/plain", size_bytes=5_000)
    told = referring(cut, file)
    assert told["artifact"]["artifact_id"] == "art_1"
    assert told["content"] == cut["content"]
    assert "art_1" in told["remark"]
