"""The server around the pages: which scripts it sends, whom it answers, who is there."""
