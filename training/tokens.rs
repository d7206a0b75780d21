//! The target tokens of all training texts, made once and kept as compact numbers.

use data::pairs::PairSet;
use models::Vocabulary;

use crate::{Error, Result};

/// Token ids of many texts, one after the other, each ended by EOS: two bytes a token where the vocabulary allows.
#[derive(Debug)]
pub struct Tokens {
    ids: Ids,
    /// Where each text begins, and the end of the last.
    starts: Vec<u64>,
    /// Row of the pair set that each text is, in the order in which they were given: rising where they are trained on.
    rows: Vec<u32>,
    /// Texts left out because they have more tokens than the decoder reads.
    pub too_long: usize,
}

#[derive(Debug)]
enum Ids {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

/// Texts that one thread turns into tokens at a time.
const CHUNK: usize = 4096;

impl Tokens {
    /// Tokenizes `rows` of a pair set on `threads` threads. Texts of more than `max_tokens` (EOS included) are left out: a decoder that
    /// learns from cut texts writes cut texts.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn new(
        pairs: &PairSet,
        rows: &[u32],
        vocabulary: &Vocabulary,
        max_tokens: usize,
        threads: usize,
    ) -> Result<Self> {
        let narrow = vocabulary.size() <= 1 << 16;
        let ids = if narrow { Ids::Narrow(Vec::new()) } else { Ids::Wide(Vec::new()) };
        let mut tokens = Self { ids, starts: vec![0], rows: Vec::new(), too_long: 0 };
        for group in rows.chunks(CHUNK * threads.max(1)) {
            for (chunk, encoded) in group.chunks(CHUNK).zip(encode(pairs, group, vocabulary)?) {
                for (&row, ids) in chunk.iter().zip(encoded) {
                    tokens.push(row, &ids, vocabulary.eos, max_tokens);
                }
            }
        }
        Ok(tokens)
    }

    fn push(&mut self, row: u32, ids: &[u32], eos: u32, max_tokens: usize) {
        if ids.is_empty() || ids.len() + 1 > max_tokens {
            self.too_long += usize::from(!ids.is_empty());
            return;
        }
        let all = ids.iter().copied().chain([eos]);
        match &mut self.ids {
            Ids::Narrow(narrow) => narrow.extend(all.map(|id| id as u16)),
            Ids::Wide(wide) => wide.extend(all),
        }
        self.starts.push(self.starts[self.starts.len() - 1] + ids.len() as u64 + 1);
        self.rows.push(row);
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Number of tokens of all texts.
    pub fn total(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Row of the pair set that text `i` is.
    pub fn row(&self, i: u32) -> u32 {
        self.rows[i as usize]
    }

    /// The text that a row of the pair set is, where it is trained on. It is looked for among rising rows, which those that
    /// are evaluated on are not.
    pub fn text_of(&self, row: u32) -> Option<u32> {
        self.rows.binary_search(&row).ok().map(|text| text as u32)
    }

    /// Number of tokens of each text, EOS included.
    pub fn lengths(&self) -> Vec<u32> {
        self.starts.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect()
    }

    /// The tokens of text `i`, EOS included.
    pub fn targets(&self, i: u32) -> impl Iterator<Item = i64> {
        let range = self.starts[i as usize] as usize..self.starts[i as usize + 1] as usize;
        let (narrow, wide): (&[u16], &[u32]) = match &self.ids {
            Ids::Narrow(ids) => (&ids[range], &[]),
            Ids::Wide(ids) => (&[], &ids[range]),
        };
        narrow.iter().map(|&id| i64::from(id)).chain(wide.iter().map(|&id| i64::from(id)))
    }
}

/// Tokens of the texts of `rows`, in chunks of [`CHUNK`], each on a thread of its own.
fn encode(pairs: &PairSet, rows: &[u32], vocabulary: &Vocabulary) -> Result<Vec<Vec<Vec<u32>>>> {
    let of_chunk = |chunk: &[u32]| -> Result<Vec<Vec<u32>>> {
        let mut encoded: Vec<Vec<u32>> = Vec::with_capacity(chunk.len());
        let mut before = None;
        for &row in chunk {
            let text = pairs.text(row as usize);
            // a text's rows under several prompts stand together
            match encoded.last().filter(|_| before == Some(text)) {
                Some(same) => encoded.push(same.clone()),
                None => encoded.push(vocabulary.encode(text)?),
            }
            before = Some(text);
        }
        Ok(encoded)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = rows.chunks(CHUNK).map(|chunk| scope.spawn(move || of_chunk(chunk))).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().map_err(|_| Error::Loader { reason: "tokenizing panicked".into() })?
            })
            .collect()
    })
}
