//! Edge cases: short texts of one difficulty each, with a check of what must come back.
//!
//! The cases were written for this project (`edge_cases.jsonl`). A check asks for the one thing that the text is there
//! for: whether the number is the same number, the formula the same formula; the rest of the sentence may differ.

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::journey::Traveller;
use super::scored::{Scored, scored};
use crate::Result;
use crate::bootstrap::Bootstrap;
use crate::metrics::exact_match::normalise;
use crate::metrics::facts::{denies, numbers as numbers_of};
use crate::metrics::token_f1::token_f1;
use crate::round_trip::Progress;
use crate::score::cosines;

/// A text and what must come back of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EdgeCase {
    /// Its name, of category and number.
    pub id: String,
    /// The difficulty.
    pub category: String,
    /// What goes in.
    pub text: String,
    /// What must come back.
    pub expect: Expect,
}

/// What must come back of a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Formulas, but for white space.
    Formula(Vec<String>),
    /// Code, but for white space.
    Code(Vec<String>),
    /// Words, in any form of upper and lower case.
    Terms(Vec<String>),
    /// Numbers, but for the commas between thousands.
    Numbers(Vec<String>),
    /// Numbers with their units.
    Units(Vec<[String; 2]>),
    /// Names, letter by letter.
    Names(Vec<String>),
    /// That something is denied, and of these words each stands near the word that denies.
    Negation(Vec<String>),
    /// The whole text, but for Unicode form, white space and case.
    Exact(bool),
    /// At least this F1 of the words.
    MinShare(f64),
    /// Emoji, each as often as it is named.
    Emoji(Vec<String>),
    /// Words in this order, and not the other way round by a passive ("by").
    Order(Vec<String>),
}

impl EdgeCase {
    /// The cases that are part of the program.
    ///
    /// # Errors
    /// None, as the tests read them.
    pub fn all() -> serde_json::Result<Vec<EdgeCase>> {
        include_str!("edge_cases.jsonl").lines().map(serde_json::from_str).collect()
    }

    /// Whether what must come back has come back.
    pub fn passes(&self, hypothesis: &str) -> bool {
        let lower = hypothesis.to_lowercase();
        match &self.expect {
            Expect::Formula(parts) | Expect::Code(parts) => {
                parts.iter().all(|part| stands_in(hypothesis, part))
            }
            Expect::Terms(terms) => terms.iter().all(|term| place_of(&lower, term).is_some()),
            Expect::Numbers(numbers) => {
                let mut found = numbers_of(hypothesis);
                numbers.iter().all(|number| {
                    let at = found.iter().position(|(other, _)| other == number);
                    at.map(|at| found.swap_remove(at)).is_some()
                })
            }
            Expect::Units(units) => units.iter().all(|[number, unit]| has_unit(hypothesis, number, unit)),
            Expect::Names(names) => names.iter().all(|name| place_of(hypothesis, name).is_some()),
            Expect::Negation(words) => {
                words.iter().all(|word| denials_of(&lower).iter().any(|near| place_of(near, word).is_some()))
            }
            Expect::Exact(_) => normalise(hypothesis) == normalise(&self.text),
            Expect::MinShare(share) => token_f1(&self.text, hypothesis)[0] >= *share,
            Expect::Emoji(emoji) => emoji.iter().all(|one| {
                let wanted = emoji.iter().filter(|other| *other == one).count();
                hypothesis.matches(one.as_str()).count() >= wanted
            }),
            Expect::Order(words) => {
                let places: Vec<Option<usize>> =
                    words.iter().map(|word| place_of(&lower, &word.to_lowercase())).collect();
                let turned = place_of(&lower, "by").is_some() && place_of(&self.text, "by").is_none();
                places.iter().all(Option::is_some) && places.is_sorted() && !turned
            }
        }
    }
}

/// Whether `part` stands in a text but for white space, and not as a piece of a longer word or number.
fn stands_in(text: &str, part: &str) -> bool {
    let part: Vec<char> = part.chars().filter(|c| !c.is_whitespace()).collect();
    // characters, and where white space stands before one
    let mut letters: Vec<char> = Vec::with_capacity(text.len());
    let mut spaces = HashSet::new();
    for c in text.chars() {
        if c.is_whitespace() {
            spaces.insert(letters.len());
        } else {
            letters.push(c)
        }
    }
    let digit = |at: usize| letters.get(at).is_some_and(char::is_ascii_digit);
    let point = |at: usize| letters.get(at).is_some_and(|c| ['.', ','].contains(c));
    // whether what stands at `at` belongs to what stands before it
    let joined = |at: usize| {
        let Some(before) = at.checked_sub(1) else { return false };
        let word = |at: usize| letters.get(at).is_some_and(|c| c.is_alphanumeric());
        let fraction = |point_at: usize| {
            point(point_at)
                && point_at > 0
                && digit(point_at - 1)
                && digit(point_at + 1)
                && !spaces.contains(&(point_at + 1))
        };
        !spaces.contains(&at) && (word(before) && word(at) || fraction(at) || fraction(before))
    };
    let places = letters.len().checked_sub(part.len()).map_or(0..0, |last| 0..last + 1);
    places.into_iter().any(|at| letters[at..].starts_with(&part) && !joined(at) && !joined(at + part.len()))
}

/// Where a word or several first stand in a text by themselves; a word with `*` at its end may go on.
fn place_of(text: &str, words: &str) -> Option<usize> {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (words, goes_on) = words.strip_suffix('*').map_or((words, false), |beginning| (beginning, true));
    text.match_indices(words).map(|(at, _)| at).find(|&at| {
        let ends = goes_on || !is_part(text[at + words.len()..].chars().next());
        !is_part(text[..at].chars().next_back()) && ends
    })
}

/// Words on both sides of one that denies: what is denied is mostly among them.
const NEAR: usize = 5;

/// What stands around each word of a text that denies something.
fn denials_of(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let near =
        |(at, _): (usize, &&str)| words[at.saturating_sub(NEAR)..words.len().min(at + NEAR + 1)].join(" ");
    words.iter().enumerate().filter(|(_, word)| denies(word)).map(near).collect()
}

/// Whether a text has this number with this unit behind it.
fn has_unit(text: &str, number: &str, unit: &str) -> bool {
    numbers_of(text).iter().filter(|(found, _)| found == number).any(|&(_, end)| {
        let behind = text[end..].trim_start();
        behind.strip_prefix(unit).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    })
}

/// How one case came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeRow {
    /// The case.
    pub id: String,
    /// Its category.
    pub category: String,
    /// What went in.
    pub reference: String,
    /// What came back.
    pub hypothesis: String,
    /// Whether what must come back did.
    pub passed: bool,
    /// Of what came back to the vector that went in.
    pub cosine: f64,
}

/// Cases of one category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeCategory {
    /// The difficulty.
    pub category: String,
    /// Cases.
    pub n: usize,
    /// Share of the cases that passed.
    pub passed: Scored,
    /// Mean cosine.
    pub cosine: Scored,
}

/// What the edge cases say of a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeResult {
    /// Share of all cases that passed.
    pub passed: Scored,
    /// Each category, the worst first.
    pub categories: Vec<EdgeCategory>,
    /// Every case.
    pub rows: Vec<EdgeRow>,
}

/// Takes cases there and back and checks what came back.
///
/// # Errors
/// What the encoder or the decoder says.
pub fn edge_cases(
    traveller: &Traveller<'_>,
    cases: &[EdgeCase],
    bootstrap: &Bootstrap,
    progress: &mut Progress<'_>,
) -> Result<EdgeResult> {
    let texts: Vec<String> = cases.iter().map(|case| case.text.clone()).collect();
    let way = traveller.travel(&texts, progress)?;
    let cosines = cosines(&way.from_ND, &way.to_ND)?;
    let row = |((case, hypothesis), cosine): ((&EdgeCase, String), f64)| EdgeRow {
        id: case.id.clone(),
        category: case.category.clone(),
        reference: case.text.clone(),
        passed: case.passes(&hypothesis),
        hypothesis,
        cosine,
    };
    let rows: Vec<EdgeRow> = cases.iter().zip(way.texts).zip(cosines).map(row).collect();
    let mut by_category: BTreeMap<&str, Vec<&EdgeRow>> = BTreeMap::new();
    rows.iter().for_each(|row| by_category.entry(&row.category).or_default().push(row));
    let category = |(category, rows): (&str, Vec<&EdgeRow>)| {
        let [passed, cosine] = shares(&rows, bootstrap);
        EdgeCategory { category: category.to_owned(), n: rows.len(), passed, cosine }
    };
    let mut categories: Vec<EdgeCategory> = by_category.into_iter().map(category).collect();
    categories.sort_by(|a, b| a.passed.value.unwrap_or(0.0).total_cmp(&b.passed.value.unwrap_or(0.0)));
    let [passed, _] = shares(&rows.iter().collect::<Vec<_>>(), bootstrap);
    Ok(EdgeResult { passed, categories, rows })
}

/// Share that passed, and mean cosine.
fn shares(rows: &[&EdgeRow], bootstrap: &Bootstrap) -> [Scored; 2] {
    let [passed, cosine] = scored(rows.len(), bootstrap, |chosen: &[usize]| {
        let mean = |number: &dyn Fn(&EdgeRow) -> f64| {
            chosen.iter().map(|&row| number(rows[row])).sum::<f64>() / chosen.len().max(1) as f64
        };
        [mean(&|row| f64::from(u8::from(row.passed))), mean(&|row| row.cosine)]
    });
    [passed.as_share_of(rows.len(), bootstrap), cosine]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn passes(expect: Expect, hypothesis: &str) -> bool {
        EdgeCase { id: String::new(), category: String::new(), text: "Stop it, now!".into(), expect }
            .passes(hypothesis)
    }

    fn list(of: &[&str]) -> Vec<String> {
        of.iter().map(|&one| one.to_owned()).collect()
    }

    #[test]
    fn every_case_passes_its_own_check_and_fails_another_text() {
        let cases = EdgeCase::all().unwrap();
        assert!(cases.len() >= 300, "{}", cases.len());
        let ids: std::collections::BTreeSet<&str> = cases.iter().map(|case| case.id.as_str()).collect();
        assert_eq!(ids.len(), cases.len());
        for case in &cases {
            assert!(case.passes(&case.text), "{case:?}");
            assert!(!case.passes("A woman plays a guitar in front of a crowd"), "{case:?}");
            assert!(!case.passes(""), "{case:?}");
        }
    }

    #[test]
    fn a_number_counts_as_often_as_it_stands_there() {
        assert!(passes(Expect::Numbers(list(&["3", "3"])), "3 and 3"));
        assert!(!passes(Expect::Numbers(list(&["3", "3"])), "only 3"));
        assert!(!passes(Expect::Numbers(list(&["3"])), "33"));
    }

    #[test]
    fn units_belong_to_their_numbers() {
        let unit = || Expect::Units(vec![["12".into(), "m".into()]]);
        assert!(passes(unit(), "a rope of 12m") && passes(unit(), "12 m, it was"));
        assert!(!passes(unit(), "12 mm") && !passes(unit(), "112 m") && !passes(unit(), "12 and 3 m"));
    }

    #[test]
    fn the_rest_may_differ() {
        assert!(passes(Expect::Formula(list(&["E = mc^2"])), "we know E=mc^2 well"));
        for (part, other) in [
            ("E = mc^2", "E = mc^25"),
            ("E = mc^2", "2E = mc^2"),
            ("\\alpha = 0.05", "\\alpha = 0.055 and"),
            ("y = 2x + 3", "y = 2x + 3.5"),
            ("cos(x)", "acos(x)"),
            ("F = ma", "F = max"),
        ] {
            assert!(!passes(Expect::Formula(list(&[part])), other), "{part}: {other}");
        }
        assert!(passes(Expect::Formula(list(&["F = ma"])), "F = m a and so on"));
        assert!(passes(Expect::Code(list(&["numpy==1.26.4"])), "pip install numpy==1.26.4."));
        assert!(
            passes(Expect::Names(list(&["Bob"])), "ask Bob.")
                && !passes(Expect::Names(list(&["Bob"])), "Bobby")
        );
        assert!(
            passes(Expect::Terms(list(&["tcp"])), "The TCP window")
                && !passes(Expect::Terms(list(&["tcp"])), "mtcps")
        );
        let denied = || Expect::Negation(list(&["support*"]));
        assert!(passes(denied(), "The data doesn't support it") && passes(denied(), "Not supported."));
        assert!(!passes(denied(), "The data supports it") && !passes(denied(), "There is no data"));
        assert!(!passes(denied(), "It is supported by data that are of no use to anyone"), "too far");
        assert!(passes(Expect::Exact(true), "stop it,  NOW!") && !passes(Expect::Exact(true), "stop it"));
        assert!(passes(Expect::Order(list(&["dog", "man"])), "A dog bites the man"));
        assert!(!passes(Expect::Order(list(&["dog", "man"])), "A man bites the dog"));
        assert!(!passes(Expect::Order(list(&["dog", "b*", "man"])), "The dog was bitten by the man"));
        assert!(!passes(Expect::Order(list(&["dog", "bit*", "man"])), "The dog and the man"));
        assert!(
            passes(Expect::Emoji(list(&["😂", "😂"])), "ha 😂😂")
                && !passes(Expect::Emoji(list(&["😂", "😂"])), "😂")
        );
    }
}
