//! Which texts may become a part of a path.

/// Whether a text is safe as a part of a file name: nothing that a path, a shell or an option could be.
pub(crate) fn is_safe_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte))
}
