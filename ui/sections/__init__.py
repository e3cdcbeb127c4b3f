"""Parts of pages that choose, ask and draw like a page, each under its own heading."""
