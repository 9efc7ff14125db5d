"""Outputs of tools that are larger than an agent wants its model to read. Pure."""

from typing import Any

import msgspec

from sessile.wire import codec
from sessile.wire.agents import ToolOutputOffloading
from sessile.wire.events import ArtifactReference

CHARS_PER_TOKEN = 4
"""How many bytes of an output a token of the window stands for, as the Agents v2 contract estimates."""
DEFAULT_PERCENTAGE = 0.25
DEFAULT_HEADROOM = 0.7
MIN_BYTES, MAX_BYTES = 1_024, 256 * 1024
"""Between these lies the threshold, unless the agent sets other bounds."""
_OFFLOADED = "The output was too large; all of it is the artifact %s of this session. %d of its %d bytes are shown."
_ALONE = "The output was too large and was cut here; its first %d bytes are shown."
_REMARK = "The output was too large and was cut here; %d of its %d bytes are shown."


def threshold(configuration: ToolOutputOffloading | None, context_window: int) -> int | None:
    """How many bytes an output may have, or None when the agent sets no bound."""
    if configuration is None or not configuration.enabled:
        return None
    share = configuration.context_percentage or DEFAULT_PERCENTAGE
    least = configuration.min_threshold_bytes or MIN_BYTES
    most = configuration.max_threshold_bytes or max(MAX_BYTES, least)
    return max(min(int(context_window * CHARS_PER_TOKEN * share), most), least)


def headroom(configuration: ToolOutputOffloading | None) -> float:
    """What share of the threshold is kept of an output that passes it."""
    return (configuration.headroom_percentage if configuration else None) or DEFAULT_HEADROOM


def fitted(result: dict[str, Any], limit: int | None, kept_share: float = DEFAULT_HEADROOM) -> dict[str, Any]:
    """The result, or the start of its JSON with a remark when it has more than `limit` bytes."""
    if limit is None:
        return result
    encoded = codec.encode(result)
    if len(encoded) <= limit:
        return result
    kept = encoded[: int(limit * kept_share)].decode("utf-8", "ignore")
    return {"truncated": True, "remark": _REMARK % (len(kept.encode()), len(encoded)), "content": kept}


def as_file(result: dict[str, Any]) -> tuple[str, bytes]:
    """The end of a file name, and all of a result for the file: JSON in lines, or the text when that is all it has."""
    (text, *others) = result.values()
    if isinstance(text, str) and not others:
        return ".txt", text.encode()
    return ".json", msgspec.json.format(codec.encode(result), indent=1)


def referring(cut: dict[str, Any], artifact: ArtifactReference) -> dict[str, Any]:
    """What was cut, with the file that holds all of it."""
    shown, size = len(cut["content"].encode()), artifact.size_bytes
    return {
        "truncated": True,
        "remark": _OFFLOADED % (artifact.artifact_id, shown, size),
        "artifact": msgspec.to_builtins(artifact),
        "content": cut["content"],
    }


def refers(output: Any) -> bool:
    """Whether an output is one that `referring` has made."""
    return isinstance(output, dict) and output.keys() == {"truncated", "remark", "artifact", "content"}


def alone(output: dict[str, Any]) -> dict[str, Any]:
    """The same without the file, which cannot be kept."""
    return {"truncated": True, "remark": _ALONE % len(output["content"].encode()), "content": output["content"]}
