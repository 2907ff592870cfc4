"""Properties that every registered thing must have."""
