"""The Model contract, held by every adapter."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sessile.models.demo import Demo
from sessile.models.openai_chat import OpenAIChat
from sessile.ports import Model
from sessile.testing.model_contract import ModelContract, ScriptedModelContract
from sessile.testing.script import Step
from sessile.testing.scripted_model import WAIT_SECONDS, ScriptedModel
from sessile.testing.upstream import Upstream


class TestDemo(ModelContract):
    @pytest.fixture
    def answering(self) -> Model:
        return Demo(word_delay=0)

    @pytest.fixture
    def calling(self) -> Model:
        return Demo(word_delay=0)


class _InProcess:
    def __init__(self) -> None:
        self.model = ScriptedModel()

    def play(self, *steps: Step) -> Model:
        return self.model.add(*steps)

    async def reader_gone(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await self.model.calls[-1].closed.wait()


class TestScriptedModel(ScriptedModelContract):
    @pytest.fixture
    def harness(self) -> _InProcess:
        return _InProcess()


class _OverHttp:
    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.model = OpenAIChat("chat", model="test-model", base_url=upstream.base_url)

    def play(self, *steps: Step) -> Model:
        self.upstream.add(*steps)
        return self.model

    async def reader_gone(self) -> None:
        await self.upstream.requests[-1].gone()


class TestOpenAIChat(ScriptedModelContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[_OverHttp]:
        async with Upstream() as upstream:
            harness = _OverHttp(upstream)
            yield harness
            await harness.model.close()
