"""The report: its door, its studies, its page."""
