//! Plan, journal, execute, supervise, revert: the Native driver of Aquarium Fish.
