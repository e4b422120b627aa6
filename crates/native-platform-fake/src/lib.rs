//! A host in memory with scripted faults, for tests.
