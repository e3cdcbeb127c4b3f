"""What a way to another page carries, by a link or by the browser's Back.

Streamlit 1.67 drops of the new page's parameters every one to which a control of the page that is left is bound: model,
layer and text, which all pages have, and what two pages call the same. Behind a link the browser sends the parameters
of the page that it leaves, then the link's, so ours begin with a mark: what stands behind it was asked for. Where there
is none, as on the way back, all was.
"""

from __future__ import annotations

from functools import wraps

from streamlit.runtime.state.query_params import QueryParams

MARK = "go"  # taken off the address by the page that is opened


def follow_links() -> None:
    """Let the ways between this server's pages carry what they say; once."""
    usual = QueryParams.populate_from_query_string
    if hasattr(usual, "__wrapped__"):
        return

    @wraps(usual)
    def populate(self: QueryParams, query_string: str, valid_script_hashes: set[str] | None = None) -> None:
        if valid_script_hashes is None:  # a visitor arrives
            usual(self, query_string)
            return
        for binding in list(self._bindings_by_widget.values()):
            if binding.script_hash not in valid_script_hashes:
                self.unbind_widget(binding.widget_id)
        asked = f"&{query_string}&".rpartition(f"&{MARK}=1&")[2]
        usual(self, asked.strip("&"), valid_script_hashes)
        self._send_query_param_msg()

    QueryParams.populate_from_query_string = populate  # type: ignore[method-assign]
