"""The gateway, its jobs and its workers."""
