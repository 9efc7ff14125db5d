"""The Model contract, held by the offline model as far as it fits one that neither thinks aloud nor calls tools."""

from collections.abc import AsyncIterator

import pytest

from sessile.config import ModelConfig
from sessile.models import local
from sessile.ports import Model
from sessile.testing.model_contract import ModelContract

pytestmark = pytest.mark.skipif(not local.installed(), reason=f"the offline model is not installed: {local.INSTALL}")


class TestLocal(ModelContract):
    test_thinks_before_it_speaks = None  # type: ignore[assignment]
    test_yields_a_tool_call_whole_after_the_deltas = None  # type: ignore[assignment]

    @pytest.fixture
    async def answering(self) -> AsyncIterator[Model]:
        provider = local.LocalModels()
        yield provider.model("local", ModelConfig(provider="local"))
        await provider.close()
