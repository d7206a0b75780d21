//! Splitting at white space as Python's `str.split()` does, on which the reference programs rest.

/// Whether Python's `str.isspace` holds: Unicode white space and the four ASCII separators U+001C..U+001F,
/// which Rust's [`char::is_whitespace`] leaves out.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The words of `text` between runs of white space, as Python's `text.split()` gives them.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `text` without trailing white space, as Python's `text.rstrip()` gives it.
pub fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_where_python_does() {
        let split: Vec<_> = words(" a\u{1c}b\u{a0}c\n\td\u{200b}e ").collect();
        assert_eq!(split, ["a", "b", "c", "d\u{200b}e"]);
        assert_eq!(words(" \n").count(), 0);
        assert_eq!(trim_end(" a \u{1f}\n"), " a");
    }
}
