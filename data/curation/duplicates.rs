//! When two texts are the same: equal but for case, punctuation and white space.

use unicode_normalization::UnicodeNormalization;

/// The form in which texts are compared: NFKC, lower case, the runs of letters and digits with one space between.
///
/// A text without any letter or digit is its own form, white space removed.
pub fn normal_form(text: &str) -> String {
    let mut form = String::with_capacity(text.len());
    let mut gap = false;
    let mut add = |c: char| {
        if is_word_character(c) {
            if std::mem::take(&mut gap) && !form.is_empty() {
                form.push(' ');
            }
            form.push(c);
        } else if !is_apostrophe(c) {
            gap = true;
        }
    };
    if text.is_ascii() {
        text.chars().for_each(|c| add(c.to_ascii_lowercase()));
    } else {
        // compatibility forms such as full-width letters have lower cases of their own
        text.nfkc().flat_map(char::to_lowercase).nfkc().for_each(add);
    }
    if form.is_empty() { text.split_whitespace().collect() } else { form }
}

/// Letters, digits and marks: a mark apart from its letter would be lost in many scripts.
fn is_word_character(c: char) -> bool {
    use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};
    c.is_alphanumeric() || (!c.is_ascii() && c.general_category_group() == GeneralCategoryGroup::Mark)
}

/// "don't" and "dont" are one word; so are the ways of writing the apostrophe.
fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}')
}

/// The first 128 bits of BLAKE3 of the [`normal_form`]: equal for equal texts. By the birthday bound, unequal ones
/// share it with probability below 1e-20 in 10^9 texts.
pub fn fingerprint(text: &str) -> u128 {
    let hash = blake3::hash(normal_form(text).as_bytes());
    hash.as_bytes()[..16].iter().fold(0, |key, &byte| key << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_and_spaces_do_not_count() {
        assert_eq!(normal_form("  A man's \u{201c}DOG\u{201d} , running!\n"), "a mans dog running");
        assert_eq!(fingerprint("He said , hello ."), fingerprint("he said, HELLO"));
        assert_ne!(fingerprint("a man"), fingerprint("aman"));
        assert_ne!(fingerprint("version 1"), fingerprint("version 2"));
    }

    #[test]
    fn other_scripts_keep_their_letters() {
        assert_eq!(normal_form("\u{ff21}\u{ff22} \u{c9}t\u{e9}"), "ab \u{e9}t\u{e9}");
        assert_eq!(normal_form("\u{4f60}\u{597d}\u{ff01}"), "\u{4f60}\u{597d}");
        assert_ne!(fingerprint("\u{915}\u{93f}"), fingerprint("\u{915}\u{940}"));
    }

    #[test]
    fn a_text_of_signs_alone_is_not_empty() {
        assert_eq!(normal_form(" := ;"), ":=;");
        assert_ne!(fingerprint("!!"), fingerprint("??"));
    }
}
