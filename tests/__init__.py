"""The tests mirror the rooms; each folder is a package, so that two rooms may have files of one name."""
