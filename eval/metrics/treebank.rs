//! NLTK's word tokenizer (`nltk.word_tokenize`), whose tokens token F1 counts.
//!
//! [`tokenize`] is `NLTKWordTokenizer`, NLTK's improved Penn Treebank tokenizer (`nltk/tokenize/destructive.py`,
//! after Robert MacIntyre's sed script), rule for rule. [`word_tokenize`] puts the sentence split of
//! [`sentences`] before it, which approximates NLTK's.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

use super::pattern;
use super::sentences::sentences;
use super::whitespace::{is_space, words};

/// The word tokens of a text, split into sentences first.
pub fn word_tokenize(text: &str) -> Vec<String> {
    sentences(text).into_iter().flat_map(tokenize).collect()
}

/// The word tokens of one sentence, as `nltk.word_tokenize(sentence, preserve_line=True)` gives them.
pub fn tokenize(sentence: &str) -> Vec<String> {
    let mut text = apply(sentence.to_owned(), &STARTING_QUOTES);
    if let Cow::Owned(replaced) = APOSTROPHE.replace_all(&text, opening_apostrophe) {
        text = replaced;
    }
    text = apply(text, &PUNCTUATION);
    text = apply(format!(" {text} "), &ENDING_QUOTES);
    let text = split_contractions(&text);
    let text = split_tis(&text);
    words(&text).map(str::to_owned).collect()
}

type Rules = Vec<(Regex, &'static str)>;

fn apply(mut text: String, rules: &Rules) -> String {
    for (rule, replacement) in rules {
        if let Cow::Owned(replaced) = rule.replace_all(&text, *replacement) {
            text = replaced;
        }
    }
    text
}

fn rules(list: &[(&str, &'static str)]) -> Rules {
    list.iter().map(|&(rule, replacement)| (pattern(rule), replacement)).collect()
}

static STARTING_QUOTES: LazyLock<Rules> = LazyLock::new(|| {
    rules(&[("([«“‘„]|[`]+)", " $1 "), ("^\"", "``"), ("(``)", " $1 "), (r#"([ (\[{<])("|'{2})"#, "$1 `` ")])
});

// with the brackets and the double dash, which NLTK replaces between its PUNCTUATION and ENDING_QUOTES
static PUNCTUATION: LazyLock<Rules> = LazyLock::new(|| {
    rules(&[
        (r#"([^.])(\.)([\])}>"'»”’ ]*)\s*$"#, "$1 $2 $3 "),
        (r"([:,])([^\d])", " $1 $2"),
        (r"([:,])(\n?)$", " $1 $2"),
        (r"\.{2,}", " $0 "),
        (r"[;@#$%&]", " $0 "),
        (r"[\x{2012}-\x{2015}]", " $0 "),
        (r#"([^.])(\.)([\])}>"']*)\s*$"#, "$1 $2$3 "),
        (r"[?!]", " $0 "),
        (r"([^'])' ", "$1 ' "),
        (r"[*]", " $0 "),
        (r"[\]\[(){}<>]", " $0 "),
        (r"--", " -- "),
    ])
});

static ENDING_QUOTES: LazyLock<Rules> = LazyLock::new(|| {
    rules(&[
        ("([»”’])", " $1 "),
        ("''", " '' "),
        ("\"", " '' "),
        (r"\s+", " "),
        (r"([^' ])('[sS]|'[mM]|'[dD]|') ", "$1 $2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
    ])
});

/// An apostrophe before a word and not within one; with the whole word after it, which stands for NLTK's look-ahead.
static APOSTROPHE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(^|\W)'(\w+)"));

/// Splits an opening quote off its word, unless the word is a clitic.
fn opening_apostrophe(found: &Captures<'_>) -> String {
    let (before, word) = (&found[1], &found[2]);
    let folded = word.to_lowercase().replace('ſ', "s");
    let clitic = matches!(folded.as_str(), "re" | "ve" | "ll" | "m" | "t" | "s" | "d" | "n");
    format!("{before}'{}{word}", if clitic { "" } else { " " })
}

static CONTRACTIONS: LazyLock<Regex> = LazyLock::new(|| {
    pattern("(?i)(?:(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n)|(wan)(na))")
});

/// "cannot" becomes "can not", where it is a word of its own.
fn split_contractions(text: &str) -> Cow<'_, str> {
    separate(text, &CONTRACTIONS, |first, before, after| {
        let ends = match first.eq_ignore_ascii_case("wan") {
            true => after.is_some_and(is_space),
            false => !after.is_some_and(is_python_word),
        };
        ends && !before.is_some_and(is_python_word)
    })
}

static TIS: LazyLock<Regex> = LazyLock::new(|| pattern("(?i) ('t)(is|was)"));

/// "'tis" becomes "'t is"; but an apostrophe that begins a word has been split off by then, as in NLTK.
fn split_tis(text: &str) -> Cow<'_, str> {
    separate(text, &TIS, |_, _, after| !after.is_some_and(is_python_word))
}

/// Puts spaces round the two groups of every match whose first group and neighbouring characters pass `allowed`.
fn separate<'t>(
    text: &'t str,
    rule: &Regex,
    allowed: impl Fn(&str, Option<char>, Option<char>) -> bool,
) -> Cow<'t, str> {
    let mut separated = String::new();
    let mut copied = 0;
    for found in rule.captures_iter(text) {
        let whole = found.get_match();
        let mut groups = found.iter().skip(1).flatten().map(|group| group.as_str());
        let (first, second) = (groups.next().unwrap_or_default(), groups.next().unwrap_or_default());
        let before = text[..whole.start()].chars().next_back();
        let after = text[whole.end()..].chars().next();
        if allowed(first, before, after) {
            separated.push_str(&text[copied..whole.start()]);
            separated.extend([" ", first, " ", second, " "]);
            copied = whole.end();
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    separated.push_str(&text[copied..]);
    Cow::Owned(separated)
}

/// `\w` of Python's `re`: letters, numbers of all kinds and the underscore, but no combining marks.
fn is_python_word(c: char) -> bool {
    c == '_'
        || matches!(c.general_category_group(), GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_nltk() {
        let text = "Good muffins cost $3.88\nin New York.  Please buy me\ntwo of them.\n\nThanks.";
        let tokens = "Good muffins cost $ 3.88 in New York. Please buy me two of them. Thanks .";
        assert_eq!(tokenize(text).join(" "), tokens);
        let split = "Good muffins cost $ 3.88 in New York . Please buy me two of them . Thanks .";
        assert_eq!(word_tokenize(text).join(" "), split);
    }

    #[test]
    fn contractions() {
        assert_eq!(tokenize("I cannot, 'tis wanna").join("|"), "I|can|not|,|'|tis|wan|na");
        assert_eq!(tokenize("scannot cannots 'Tisn").join("|"), "scannot|cannots|'|Tisn");
    }
}
