//! Facts of a text that a paraphrase must keep: its numbers, its names, and whether it denies something.
//!
//! Each is a recall: the share of the references' facts that stand in the hypotheses too. They are found by form, with no
//! model of language: a name is a word with a capital that does not begin a sentence.

use std::sync::LazyLock;

use regex::Regex;
use unicode_segmentation::UnicodeSegmentation as _;

use super::pattern;
use super::sentences::sentences;

/// Columns: facts that came back, facts of the reference.
pub(crate) const COLUMNS: usize = 2;

/// A number, with what dates, times, fractions and versions have between digits.
static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?:^|[^\w.,:/-])(-?\d+(?:,\d{3})*(?:[.:/-]\d+)*)"));

static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)\b(?:not|no|never|none|nobody|nothing|nowhere|neither|nor|without|cannot)\b|n['’]t\b")
});

/// The numbers of a text, without the commas between thousands, each with the place behind it.
pub(crate) fn numbers(text: &str) -> Vec<(String, usize)> {
    let number = |found: regex::Captures<'_>| Some((found[1].replace(',', ""), found.get(1)?.end()));
    NUMBER.captures_iter(text).filter_map(number).collect()
}

/// The names of a text, word by word.
pub(crate) fn names(text: &str) -> Vec<&str> {
    let of_sentence = |sentence: &str| -> Vec<usize> {
        let words = sentence.unicode_word_indices().skip(1);
        let is_i = |word: &str| word == "I" || word.starts_with("I'") || word.starts_with("I’");
        let is_name = |word: &str| word.starts_with(char::is_uppercase) && !is_i(word);
        words.filter(|(_, word)| is_name(word)).map(|(at, _)| at).collect()
    };
    let name = |sentence: &&'_ str| -> Vec<(usize, usize)> {
        let start = sentence.as_ptr() as usize - text.as_ptr() as usize;
        let of = of_sentence(sentence).into_iter().filter_map(|at| {
            let word = sentence[at..].unicode_words().next()?;
            Some((start + at, start + at + word.len()))
        });
        of.collect()
    };
    sentences(text).iter().flat_map(name).map(|(start, end)| &text[start..end]).collect()
}

/// Whether a text denies something.
pub(crate) fn denies(text: &str) -> bool {
    NEGATION.is_match(text)
}

/// Numbers, names, negations of one row: those that came back, those that there were.
pub(crate) fn statistics(reference: &str, hypothesis: &str) -> [[f64; COLUMNS]; 3] {
    let of = |text: &str| numbers(text).into_iter().map(|(number, _)| number).collect::<Vec<String>>();
    let words = |text: &str| names(text).into_iter().map(str::to_owned).collect::<Vec<String>>();
    // a name may begin a sentence of the hypothesis
    let all_words = |text: &str| text.unicode_words().map(str::to_owned).collect::<Vec<String>>();
    let denied = f64::from(u8::from(denies(reference)));
    let kept = f64::from(u8::from(denies(hypothesis)));
    [
        kept_of(of(reference), of(hypothesis)),
        kept_of(words(reference), all_words(hypothesis)),
        [denied * kept, denied],
    ]
}

fn kept_of(reference: Vec<String>, mut hypothesis: Vec<String>) -> [f64; COLUMNS] {
    let there = reference.len();
    let came_back = reference.into_iter().filter(|fact| {
        let at = hypothesis.iter().position(|other| other == fact);
        at.map(|at| hypothesis.swap_remove(at)).is_some()
    });
    [came_back.count() as f64, there as f64]
}

/// The recall from summed [`statistics`]; not a number where the references have no such fact.
pub(crate) fn recall(sums: &[f64]) -> f64 {
    sums[0] / sums[1]
}

/// The facts of the references, from summed [`statistics`].
pub(crate) fn there(sums: &[f64]) -> usize {
    sums[1] as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers() {
        let found: Vec<String> = numbers("In 1999, 48,500 of 1/2 at 6:45 (-40), v2.11.0; 3.5.")
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(found, ["1999", "48500", "1/2", "6:45", "-40", "3.5"]);
    }

    #[test]
    fn names_have_capitals_within_sentences() {
        assert_eq!(
            names("Yesterday Anna met Dr. Brown in Paris. She said I was right."),
            ["Anna", "Dr", "Brown", "Paris"]
        );
        assert!(names("The dog runs. A cat sits. Now I'm here, and I’ve slept.").is_empty());
        assert_eq!(names("In Zürich, Émile waits."), ["Zürich", "Émile"]);
    }

    #[test]
    fn facts_come_back_once_each() {
        let [numbers, names, negations] =
            statistics("Anna and Bob do not have 3 and 3 dogs in Rome.", "Bob has 3 dogs. Rome is not far.");
        assert_eq!((numbers, names, negations), ([1.0, 2.0], [2.0, 2.0], [1.0, 1.0]));
        let [_, _, none] = statistics("He sings.", "He does not sing.");
        assert!(recall(&none).is_nan());
    }
}
