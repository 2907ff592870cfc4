"""Tests of bundles, and what they share."""
