"""What the core API means, in tests that know no engine: they run on Atoll and, unchanged, on Ray."""
