"""The page about the command line is what the commands say of themselves."""

from checks.cli_reference import PAGE, page


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m checks.cli_reference"
