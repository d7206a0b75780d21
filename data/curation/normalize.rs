//! How a text is written before anything looks at it.

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::config::Whitespace;

/// Unicode NFC; control characters, byte order marks and zero-width spaces removed; white space collapsed.
///
/// Zero-width joiners stay: scripts and emoji need them.
pub fn normalize(text: &str, whitespace: Whitespace) -> String {
    // characters between a letter and its accent may go, so composing comes last
    let clean = match whitespace {
        Whitespace::Collapse => collapse(text),
        Whitespace::KeepLines => {
            let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).map(collapse);
            lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
        }
    };
    if is_nfc(&clean) { clean } else { clean.nfc().collect() }
}

fn collapse(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut space = false;
    for c in text.chars() {
        if c.is_whitespace() {
            space = true;
        } else if !is_invisible(c) {
            if space && !out.is_empty() {
                out.push(' ');
            }
            space = false;
            out.push(c);
        }
    }
    out
}

fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{feff}' | '\u{200b}' | '\u{2060}' | '\u{ad}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_accents_have_one_form() {
        let one_line = |text| normalize(text, Whitespace::Collapse);
        assert_eq!(one_line("  a\u{a0}\t b \r\n c "), "a b c");
        assert_eq!(one_line("cafe\u{301}"), "caf\u{e9}");
        assert_eq!(one_line("e\u{200b}\u{301}\0x"), "\u{e9}x");
        assert_eq!(normalize(" a  b \n\n c ", Whitespace::KeepLines), "a b\nc");
        assert_eq!(one_line(" \u{feff}\u{7}\n"), "");
    }
}
