//! A text into its sentences, by rules.

/// Words after which a full stop does not end a sentence.
const ABBREVIATIONS: [&str; 34] = [
    "e.g", "i.e", "eg", "ie", "vs", "cf", "viz", "resp", "approx", "mr", "mrs", "ms", "dr", "prof", "st",
    "fig", "figs", "eq", "eqs", "sec", "ch", "no", "nos", "vol", "pp", "al", "ref", "refs", "dept", "gen",
    "gov", "sen", "rep", "u.s",
];

/// Cuts after `.`, `!` or `?` (and closing quotes or brackets) where white space and then a capital, a digit or an opening quote or
/// bracket follow, but not after an abbreviation, an initial, or the number of a list. White space between sentences goes.
pub fn sentences(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        if !matches!(c, '.' | '!' | '?' | '…') {
            continue;
        }
        let before = &text[start..at];
        let mut end = at + c.len_utf8();
        while let Some(&(at, next)) = characters.peek()
            && is_closing(next)
        {
            end = at + next.len_utf8();
            characters.next();
        }
        if ends_here(before, c, &text[end..]) {
            push(&mut found, &text[start..end]);
            start = end;
        }
    }
    push(&mut found, &text[start..]);
    found
}

fn push(found: &mut Vec<String>, sentence: &str) {
    let sentence = sentence.trim();
    if !sentence.is_empty() {
        found.push(sentence.to_owned());
    }
}

fn is_closing(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '"' | '\'' | ')' | ']' | '}' | '\u{201d}' | '\u{2019}' | '»')
}

fn ends_here(before: &str, mark: char, after: &str) -> bool {
    let next = after.trim_start();
    if next.len() == after.len() {
        return false;
    }
    let opens = |c: char| matches!(c, '"' | '\'' | '(' | '[' | '\u{201c}' | '\u{2018}' | '«');
    let begins = next.chars().next().is_some_and(|c| c.is_uppercase() || c.is_numeric() || opens(c));
    if !begins {
        return false;
    }
    if mark != '.' {
        return true;
    }
    let word = before.rsplit(char::is_whitespace).next().unwrap_or_default().trim_start_matches(opens);
    let mut characters = word.chars();
    let initial = characters.next().is_some_and(char::is_uppercase) && characters.next().is_none();
    let list_number =
        word.len() == before.trim_start().len() && !word.is_empty() && word.chars().all(char::is_numeric);
    !(initial || list_number || ABBREVIATIONS.contains(&word.to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_readers_end_them() {
        for (text, expected) in [
            ("One. Two! Three? four.", vec!["One.", "Two!", "Three? four."]),
            (
                "Mr. J. Smith of the U.S. Navy came. \"Why?\" he asked.",
                vec!["Mr. J. Smith of the U.S. Navy came.", "\"Why?\" he asked."],
            ),
            (
                "Use it, e.g. Vec, at 3.14 or v1.0. Then stop",
                vec!["Use it, e.g. Vec, at 3.14 or v1.0.", "Then stop"],
            ),
            ("He left (at last.) The end...  ", vec!["He left (at last.)", "The end..."]),
            ("1. First thing. 2 things", vec!["1. First thing.", "2 things"]),
            ("", vec![]),
        ] {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }
}
