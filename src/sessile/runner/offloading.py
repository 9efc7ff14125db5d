"""Large outputs of tools as files of the session: the model reads the beginning, and the rest where it asks for it."""

from typing import Any

import structlog

from sessile.domain import artifacts as rules
from sessile.domain import large_outputs
from sessile.ports import Files, Store, ToolContext
from sessile.rows import NewArtifact
from sessile.runner.dispatch import PreparedCall
from sessile.runner.plan import Plan
from sessile.wire import ids
from sessile.wire.errors import SessileError
from sessile.wire.limits import MAX_SESSION_FILE_BYTES, MAX_SESSION_FILES

_READERS = frozenset({"artifact_read", "artifact_grep"})
"""Tools whose outputs are in files already."""
_log = structlog.get_logger("sessile.runner")


class Offloading:
    """Cuts outputs as an agent wants it."""

    def __init__(self, store: Store, files: Files | None, plan: Plan) -> None:
        self._store = store
        self._files = files
        self._plan = plan

    async def fitted(self, call: PreparedCall, result: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """The result, or its beginning, with the name of the file that holds all of it if the agent wants one.

        When the file cannot be kept, or the session has no room for it, the output is only cut.
        """
        limit, share = self._plan.output_limit, self._plan.output_share
        cut = large_outputs.fitted(result, limit, share)
        if cut is result or not self._plan.offloads or self._files is None or call.tool_name in _READERS:
            return cut
        suffix, content = large_outputs.as_file(result)
        try:
            artifact = await self._kept(self._files, f"{call.configuration_name}{suffix}", content, context)
        except SessileError as error:
            _log.warning("output_not_offloaded", reason=error.message)
            return cut
        if artifact is None:
            return cut
        context.add_artifact(artifact)
        return large_outputs.referring(cut, artifact.reference())

    async def _kept(self, files: Files, name: str, content: bytes, context: ToolContext) -> NewArtifact | None:
        count, size = await self._store.count_artifacts(context.session.id)
        if count >= MAX_SESSION_FILES or size + len(content) > MAX_SESSION_FILE_BYTES:
            return None
        upload, name = files.create(context.session.tenant_id), rules.safe_name(name)
        try:
            await upload.write(content)
            held = await upload.keep()
        finally:
            await upload.discard()
        return NewArtifact(
            artifact_id=ids.artifact_id(),
            name=name,
            content_type=rules.media_type(None, name, content[: rules.HEAD_BYTES]),
            size=len(content),
            sha256=held.name.sha256,
            held=held,
        )
