"""The scheduler: core, policies, journal, server."""
