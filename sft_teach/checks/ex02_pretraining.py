"""To be written."""

TASKS = {}
