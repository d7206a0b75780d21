//! An encoder that costs nothing: hashes for vectors, words for tokens, and faults on demand.

use std::cell::Cell;

use models::space::{Pooling, Prompt};
use models::{Embed, Space};
use tch::Tensor;
use tokenizers::Tokenizer;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;

/// What the encoder does wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Fails on this call of `embed`, counted from 0.
    Fail(usize),
    /// Panics on this call.
    Panic(usize),
    /// Gives NaN for texts that contain this.
    NotANumber(&'static str),
    /// Gives one number too few.
    Narrow,
}

pub struct HashEncoder {
    space: Space,
    tokenizer: Tokenizer,
    pub fault: Fault,
    pub calls: Cell<usize>,
}

impl HashEncoder {
    pub fn new(dim: usize) -> HashEncoder {
        HashEncoder::with_fault(dim, Fault::None)
    }

    pub fn with_fault(dim: usize, fault: Fault) -> HashEncoder {
        let model = WordLevel::builder()
            .vocab([("[UNK]".to_owned(), 0u32)].into_iter().collect())
            .unk_token("[UNK]".into())
            .build()
            .unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
        let space = Space {
            encoder: "hash".into(),
            revision: None,
            weights_digest: format!("blake3:{dim}"),
            prompt: Prompt::none(),
            other_prompts: vec![],
            special_tokens: None,
            attention: models::space::Attention::Bidirectional,
            pooling: Pooling::Mean,
            dense: None,
            dim,
            normalize: true,
            max_tokens: 64,
        };
        HashEncoder { space, tokenizer, fault, calls: Cell::new(0) }
    }

    /// The same under another prompt, which stands before every text.
    pub fn under(mut self, name: &str) -> HashEncoder {
        self.space.prompt = match name {
            "none" => Prompt::none(),
            name => Prompt { name: name.into(), text: format!("Instruct: {name} of these. Query: ") },
        };
        self
    }

    /// The vector of `text` in a batch of `n`: it depends on the batch a little, as it does in half precision.
    fn vector(&self, text: &str, n: usize) -> Vec<f32> {
        let mut bytes = vec![0u8; 2 * self.space.dim];
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.space.prompt.text.as_bytes()).update(text.as_bytes()).update(&n.to_le_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        let numbers = bytes.chunks(2).map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) + 0.5);
        let mut numbers: Vec<f32> = numbers.collect();
        let norm = numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
        numbers.iter_mut().for_each(|x| *x /= norm);
        match self.fault {
            Fault::NotANumber(word) if text.contains(word) => numbers[1] = f32::NAN,
            Fault::Narrow => drop(numbers.pop()),
            _ => {}
        }
        numbers
    }
}

impl Embed for HashEncoder {
    fn space(&self) -> &Space {
        &self.space
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_tokens(&self) -> usize {
        self.space.max_tokens
    }

    fn embed(&self, texts: &[&str]) -> models::Result<Tensor> {
        let call = self.calls.replace(self.calls.get() + 1);
        match self.fault {
            Fault::Fail(at) if at == call => Err(std::io::Error::other("the encoder broke"))?,
            Fault::Panic(at) if at == call => panic!("the encoder panicked"),
            _ => {}
        }
        let numbers: Vec<f32> = texts.iter().flat_map(|text| self.vector(text, texts.len())).collect();
        Ok(Tensor::from_slice(&numbers).view([texts.len() as i64, -1]))
    }
}
