//! [`Escape`]: makes what a workload printed safe for the operator's terminal.
//!
//! A terminal obeys control characters: it can be renamed, made to type, or shown something else than was printed. What
//! goes to a file or a pipe is left as it is; on a terminal everything but line ends, tabs and colours is shown as text.

/// The longest colour sequence that is waited for, in bytes.
const LONGEST: usize = 32;

/// Escapes one stream, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    /// The beginning of a sequence whose end has not come yet.
    begun: Vec<u8>,
}

impl Escape {
    /// The next piece, as it may be shown. An unfinished sequence at its end is kept for the next one.
    pub(crate) fn piece(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.begun.is_empty() {
                match byte {
                    0x1B => self.begun.push(*byte),
                    byte => show(*byte, &mut shown),
                }
                continue;
            }
            self.begun.push(*byte);
            match (self.begun.len(), byte) {
                (2, b'[') => {}
                (3.., b'0'..=b'9' | b';') if self.begun.len() < LONGEST => {}
                // A colour.
                (3.., b'm') => shown.append(&mut self.begun),
                _ => {
                    let other = std::mem::take(&mut self.begun);
                    other.into_iter().for_each(|byte| show(byte, &mut shown));
                }
            }
        }
        shown
    }
}

/// Shows a byte; a control character in caret notation. UTF-8 keeps its bytes: none of them is a control character
/// here, but for the C1 set, which terminals that understand UTF-8 take only as a character of two bytes.
fn show(byte: u8, shown: &mut Vec<u8>) {
    match byte {
        b'\n' | b'\t' => shown.push(byte),
        0x7F => shown.extend(b"^?"),
        0..=0x1F => shown.extend([b'^', byte + 0x40]),
        _ => shown.push(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &[&str]) -> String {
        let mut escape = Escape::default();
        pieces.iter().map(|piece| String::from_utf8(escape.piece(piece.as_bytes())).unwrap()).collect()
    }

    #[test]
    fn text_and_colours_pass() {
        assert_eq!(all(&["ünï\t🐟\n", "\u{1b}[1;31mred\u{1b}[0m\n"]), "ünï\t🐟\n\u{1b}[1;31mred\u{1b}[0m\n");
        assert_eq!(all(&["\u{1b}", "[3", "1mx"]), "\u{1b}[31mx", "also in pieces");
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(all(&["\u{1b}]0;title\u{7}"]), "^[]0;title^G");
        assert_eq!(all(&["\u{1b}[2J\u{1b}[6n\rover\u{8}"]), "^[[2J^[[6n^Mover^H");
        assert_eq!(all(&["\u{0}\u{7f}"]), "^@^?");
        let long = format!("\u{1b}[{}m", "1;".repeat(40));
        assert!(all(&[&long]).starts_with("^[[1;1;"));
    }
}
