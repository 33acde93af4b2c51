"""The card of a synthetic set: what was measured, its tables and its page."""
