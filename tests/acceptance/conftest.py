"""One server a module: a module says what it needs by overriding `settings`, `tools` and `decide`."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from acceptance.stage import WAIT_SECONDS, Stage, model_config
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Decide, Upstream


@pytest.fixture(scope="module")
def settings() -> str:
    """Plain settings of the server, as lines of its configuration."""
    return ""


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    """Tool modules in the server's folder: name and source."""
    return {}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    """The `[tools.NAME]` tables of the configuration."""
    return ""


@pytest.fixture(scope="module")
def decide() -> Decide | None:
    """How the model answers; without it, the tests fill its queue."""
    return None


@pytest.fixture(scope="module")
def database() -> str | None:
    """The server's database; None is a file in its data folder. `acceptance.databases` has one of every kind."""
    return None


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(
    tmp_path_factory: pytest.TempPathFactory,
    settings: str,
    tools: dict[str, str],
    tool_settings: str,
    decide: Decide | None,
    database: str | None,
) -> AsyncIterator[Stage]:
    """The server of this module. At the end its log must not hold a traceback."""
    folder = tmp_path_factory.mktemp("server")
    for name, source in tools.items():
        (folder / f"{name}.py").write_text(source)
    async with Upstream(decide) as upstream:
        config = "\n".join([settings, model_config(upstream), tool_settings])
        with ServerProcess(folder, config, env={"SESSILE_DATABASE": database}) as server:
            async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
                stage = Stage(server, upstream, client)
                yield stage
                server.terminate()
                assert stage.defects() == []


@pytest.fixture
def upstream(stage: Stage) -> Upstream:
    """The model of this module's server, without what an earlier test has left."""
    stage.upstream.reset()
    return stage.upstream
