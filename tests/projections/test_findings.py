"""Findings of verifying, as people read them."""

from __future__ import annotations

from projections.integrity.findings import Finding, Findings, folded


def found(*problems: str) -> Findings:
    """A finding about each entry in turn."""
    made = Findings()
    for number, problem in enumerate(problems, 1):
        made.find("altered", b"%d-0" % number, number, problem)
    return made


def test_equal_findings_in_a_row_are_one() -> None:
    """The first of them has their number and the last entry; the others stay as they are."""
    findings = found("is wrong", "is wrong", "is wrong", "is odd", "is wrong")
    messages = [one.message for one in folded(findings)]
    assert messages == ["Entry 1-0 is wrong; 3 such entries, the last is 3-0", "Entry 4-0 is odd", "Entry 5-0 is wrong"]


def test_findings_of_different_kinds_are_not_equal() -> None:
    """Two kinds in turn stay two lines each."""
    altered, forged = found("is wrong"), [Finding("forged", "2-0", 2, "Entry 2-0 is wrong")]
    assert [*folded([*altered, *forged])] == [*altered, *forged]
