//! How many documents each filter dropped.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::config::CurationConfig;

/// A reason to drop a document. The order is that in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// Nothing but white space and control characters.
    Empty,
    /// It holds U+FFFD: somebody decoded it wrongly.
    BrokenCharacters,
    /// Fewer words than `min_words`.
    MinWords,
    /// More words than `max_words`.
    MaxWords,
    /// A smaller share of letters than `min_letters`.
    Letters,
    /// A run of one character longer than `max_repeated_characters`.
    RepeatedCharacters,
    /// Words over and over, see `max_repeated_words`.
    RepeatedWords,
    /// Lines over and over, see `max_repeated_lines`.
    RepeatedLines,
    /// A licence, a copyright line, a bare link and the like.
    Boilerplate,
    /// It stands in an evaluation file.
    Excluded,
    /// Fewer tokens than `min_tokens`.
    MinTokens,
    /// More tokens than `max_tokens` or than the encoder reads.
    MaxTokens,
    /// Equal to an earlier document.
    Duplicate,
    /// Nearly equal to another document.
    NearDuplicate,
}

impl Filter {
    /// All filters, in their order.
    pub const ALL: [Filter; 14] = [
        Filter::Empty,
        Filter::BrokenCharacters,
        Filter::MinWords,
        Filter::MaxWords,
        Filter::Letters,
        Filter::RepeatedCharacters,
        Filter::RepeatedWords,
        Filter::RepeatedLines,
        Filter::Boilerplate,
        Filter::Excluded,
        Filter::MinTokens,
        Filter::MaxTokens,
        Filter::Duplicate,
        Filter::NearDuplicate,
    ];

    /// Its name on screen and in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Filter::Empty => "empty",
            Filter::BrokenCharacters => "broken_characters",
            Filter::MinWords => "min_words",
            Filter::MaxWords => "max_words",
            Filter::Letters => "letters",
            Filter::RepeatedCharacters => "repeated_characters",
            Filter::RepeatedWords => "repeated_words",
            Filter::RepeatedLines => "repeated_lines",
            Filter::Boilerplate => "boilerplate",
            Filter::Excluded => "excluded",
            Filter::MinTokens => "min_tokens",
            Filter::MaxTokens => "max_tokens",
            Filter::Duplicate => "duplicate",
            Filter::NearDuplicate => "near_duplicate",
        }
    }

    /// Whether a curation tries it at all.
    fn is_active(self, config: &CurationConfig) -> bool {
        match self {
            Filter::MaxWords => config.max_words.is_some(),
            Filter::Boilerplate => config.boilerplate,
            Filter::Duplicate => config.exact_duplicates,
            Filter::NearDuplicate => config.near_duplicates.is_some(),
            _ => true,
        }
    }
}

/// Examples kept of what a filter dropped.
const EXAMPLES: usize = 3;
const EXAMPLE_CHARACTERS: usize = 120;

/// Documents dropped, by filter, in the order of the filters; as JSON an object of name to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    count: u64,
    examples: Vec<String>,
}

impl Drops {
    /// Zero for each filter that the curation tries.
    pub fn new(config: &CurationConfig) -> Drops {
        let active = Filter::ALL.into_iter().filter(|filter| filter.is_active(config));
        Drops { entries: active.map(|filter| Entry::new(filter.name())).collect() }
    }

    /// Counts a dropped text, and keeps the first few of each filter.
    pub fn add(&mut self, filter: Filter, text: &str) {
        let entry = self.entry(filter.name());
        entry.count += 1;
        if entry.examples.len() < EXAMPLES {
            let short: String = text.chars().take(EXAMPLE_CHARACTERS).collect();
            entry.examples.push(if short.len() < text.len() { short + "…" } else { short });
        }
    }

    /// Adds `count` to a filter without a text at hand.
    pub fn add_count(&mut self, filter: Filter, count: u64) {
        self.entry(filter.name()).count += count;
    }

    /// Adds those of another part of the corpora.
    pub fn merge(&mut self, other: &Drops) {
        for from in &other.entries {
            let entry = self.entry(&from.name);
            entry.count += from.count;
            let room = EXAMPLES.saturating_sub(entry.examples.len());
            entry.examples.extend(from.examples.iter().take(room).cloned());
        }
    }

    /// Documents that a filter dropped.
    pub fn get(&self, filter: Filter) -> u64 {
        self.entries.iter().find(|entry| entry.name == filter.name()).map_or(0, |entry| entry.count)
    }

    /// Documents that all filters dropped.
    pub fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.count).sum()
    }

    /// Name and count of each filter, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), entry.count))
    }

    /// The first few texts that a filter dropped, shortened.
    pub fn examples(&self, filter: Filter) -> &[String] {
        self.entries.iter().find(|entry| entry.name == filter.name()).map_or(&[], |entry| &entry.examples)
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        let rank =
            |name: &str| Filter::ALL.iter().position(|filter| filter.name() == name).unwrap_or(usize::MAX);
        let at = match self.entries.iter().position(|entry| entry.name == name) {
            Some(at) => at,
            None => {
                let at = self.entries.partition_point(|entry| rank(&entry.name) < rank(name));
                self.entries.insert(at, Entry::new(name));
                at
            }
        };
        &mut self.entries[at]
    }
}

impl Entry {
    fn new(name: &str) -> Entry {
        Entry { name: name.to_owned(), count: 0, examples: Vec::new() }
    }
}

impl fmt::Display for Drops {
    /// `letters 12, duplicate 7`, without the zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some: Vec<String> = self
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        f.write_str(if some.is_empty() { "none" } else { "" })?;
        f.write_str(&some.join(", "))
    }
}

impl Serialize for Drops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries.len()))?;
        for entry in &self.entries {
            map.serialize_entry(&entry.name, &entry.count)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Drops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Drops, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Drops;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of filter to count")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Drops, A::Error> {
                let mut drops = Drops::default();
                while let Some((name, count)) = map.next_entry::<String, u64>()? {
                    drops.entries.push(Entry { name, count, examples: Vec::new() });
                }
                Ok(drops)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_the_order_of_the_filters() {
        let config = CurationConfig { exact_duplicates: false, ..CurationConfig::default() };
        let mut drops = Drops::new(&config);
        drops.add_count(Filter::Duplicate, 4);
        for i in 0..5 {
            drops.add(Filter::Letters, &format!("{i}{}", "x".repeat(200)));
        }
        assert_eq!((drops.get(Filter::Letters), drops.total()), (5, 9));
        assert_eq!(drops.examples(Filter::Letters).len(), EXAMPLES);
        assert!(drops.examples(Filter::Letters)[0].ends_with('…'));
        let json = serde_json::to_string(&drops).unwrap();
        let names = drops.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(names.last().unwrap(), "duplicate");
        assert!(json.starts_with(r#"{"empty":0,"#) && json.ends_with(r#""duplicate":4}"#), "{json}");
        let read: Drops = serde_json::from_str(&json).unwrap();
        assert!(read.iter().eq(drops.iter()));
        assert_eq!(drops.to_string(), "letters 5, duplicate 4");
    }
}
