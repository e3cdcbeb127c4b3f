"""From page to page in one visit: what a control of another page was set to is not this page's."""

from tests.apptest_helpers import page


def test_a_page_opens_on_its_own_numbers_and_on_its_own_alone() -> None:
    """Start here and GPTQ step by step both call a control `bits`; a page between them has none of that name."""
    at = page("", bits=2).run()
    at.query_params.clear()
    for name in ("1_Number_formats", "6_GPTQ_step_by_step"):
        at.switch_page(f"pages/{name}.py").run()
    assert at.slider(key="bits").value == 3
    assert "bits" not in at.query_params

    at.slider(key="bits").set_value(5).run()
    at.query_params.clear()
    for name in ("1_Number_formats", "6_GPTQ_step_by_step"):
        at.switch_page(f"pages/{name}.py").run()
    assert at.slider(key="bits").value == 5  # what was set here is kept
