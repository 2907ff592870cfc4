"""Pictures and tables of what was evaluated."""
