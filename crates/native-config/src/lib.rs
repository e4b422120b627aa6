//! What people write: driver config and label definitions, from text to typed values or errors with a place and a hint.
