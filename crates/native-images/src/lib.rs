//! Fetch, verify, unpack and cache image archives.
