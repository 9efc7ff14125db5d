"""`import sessile` is light, and has everything that it promises."""

import subprocess
import sys

import pytest

import sessile
import sessile.client


def modules(statement: str) -> set[str]:
    """What a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_sessile_loads_next_to_nothing() -> None:
    plain = modules("")
    loaded = modules("import sessile") - plain
    assert "sessile" in loaded
    assert {name for name in loaded if name.startswith("sessile.")} == set()
    assert not loaded & {"asyncio", "msgspec", "aiohttp", "sqlite3", "starlette"}


def test_the_client_loads_http_only_when_it_needs_it() -> None:
    loaded = modules("import sessile.client\nsessile.Client\nsessile.NotFound")
    assert "sessile.client.sync" in loaded
    assert not loaded & {"aiohttp", "sqlite3", "starlette", "sessile.library", "sessile.ports", "sessile.domain"}
    assert "aiohttp" in modules("import sessile\nsessile.AsyncClient()")


def test_every_promised_name_is_there() -> None:
    for name in [*sessile.__all__, "open"]:
        assert getattr(sessile, name).__name__ == name
        assert name in dir(sessile)
    for name in sessile.client.__all__:
        assert getattr(sessile.client, name) is not None
    assert "open" not in sessile.__all__, "a star import would hide the built-in function"


def test_every_error_that_a_client_can_raise_is_a_name_of_sessile() -> None:
    from sessile.client.errors import KINDS

    assert {kind.__name__ for kind in KINDS.values()} <= set(sessile.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sessile.nothing  # type: ignore[attr-defined]
