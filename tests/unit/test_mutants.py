"""Every mutant breaks the source as it is today: `make mutants` shows that a test notices."""

import pytest
from checks.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_names_tests(mutant: Mutant) -> None:
    source = (ROOT / "src/sessile" / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert (ROOT / mutant.tests.split(" ", 1)[0].split("::", 1)[0]).exists()
