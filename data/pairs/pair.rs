//! One pair, on its way into a shard.

/// One row of a shard.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// `dim` numbers.
    pub vector: &'a [f32],
    /// What the vector was made from, without its prompt.
    pub text: &'a str,
    /// Name of the corpus.
    pub source: &'a str,
    /// Domain of the text.
    pub domain: &'a str,
    /// `train`, `dev` or `test`.
    pub split: &'a str,
    /// Name of the prompt that the vector was made under.
    pub prompt: &'a str,
}
