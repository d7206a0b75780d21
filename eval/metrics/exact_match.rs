//! Exact match: the whole text came back, as it was or but for form.

use unicode_normalization::UnicodeNormalization as _;

use super::whitespace::words;

/// `[as it is, normalised]` of one row, each 0 or 1.
pub(crate) fn exact_match(reference: &str, hypothesis: &str) -> [f64; 2] {
    let raw = reference == hypothesis;
    let normalised = raw || normalise(reference) == normalise(hypothesis);
    [f64::from(u8::from(raw)), f64::from(u8::from(normalised))]
}

/// The text in Unicode form NFC, in lower case, its words separated by single spaces.
pub fn normalise(text: &str) -> String {
    // lower-casing can leave decomposed letters, hence the second NFC
    let lower: String = text.nfc().collect::<String>().to_lowercase().nfc().collect();
    words(&lower).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_and_case_do_not_count_when_normalised() {
        assert_eq!(exact_match("Caf\u{e9}  au\nlait ", "cafe\u{301} au lait"), [0.0, 1.0]);
        assert_eq!(exact_match("a", "a"), [1.0, 1.0]);
        assert_eq!(exact_match("a.", "a"), [0.0, 0.0]);
        assert_eq!(exact_match("", ""), [1.0, 1.0]);
    }
}
