//! The only program of fish-native that runs as root.
