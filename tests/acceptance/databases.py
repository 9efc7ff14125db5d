"""Every kind of database a server can run on: a module that imports the fixture `database` is run on each."""

import pytest


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str | None:
    """The server's database; None is a file in its data folder."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("module_database")
    return url
