//! The encoders of a recipe: one model, loaded once, under each of its prompts.

use models::{Embed as _, Encoder, EncoderOptions};

use crate::Result;
use crate::recipe::Recipe;

impl Recipe {
    /// How to open the encoder under its prompt, or the first of its prompts.
    pub fn encoder_options(&self) -> EncoderOptions {
        let encoder = &self.encoder;
        let first = encoder.prompts.as_ref().and_then(|prompts| prompts.first());
        EncoderOptions {
            device: encoder.device,
            dtype: encoder.dtype,
            prompt: first.or(encoder.prompt.as_ref()).cloned(),
            batch_tokens: encoder.batch_tokens,
            max_tokens: encoder.max_tokens,
            normalize: Some(encoder.normalize),
            dim: encoder.dim,
            attention: encoder.attention,
        }
    }

    /// Opens the encoder under its prompt, or the first of its prompts.
    ///
    /// # Errors
    /// Those of [`Encoder::open`].
    pub fn open_encoder(&self) -> Result<Encoder> {
        Ok(Encoder::open(&self.encoder.source, &self.encoder_options())?)
    }

    /// Opens the encoder under each of its prompts, in the recipe's order. The weights are loaded once.
    ///
    /// # Errors
    /// Those of [`Encoder::open`] and [`Encoder::under`]; [`data::Error::Setting`] for two names of one prompt.
    pub fn open_encoders(&self) -> Result<Vec<Encoder>> {
        let names = self.encoder.prompts.as_deref().unwrap_or_default();
        let mut encoders = vec![self.open_encoder()?];
        for (index, name) in names.iter().enumerate().skip(1) {
            let encoder = encoders[0].under(name)?;
            let text = &encoder.space().prompt.text;
            if let Some(first) = encoders.iter().position(|other| other.space().prompt.text == *text) {
                return Err(same_prompt(names, first, index));
            }
            encoders.push(encoder);
        }
        Ok(encoders)
    }
}

fn same_prompt(names: &[String], first: usize, second: usize) -> crate::Error {
    let error = data::Error::Setting {
        key: "encoder.prompts".into(),
        value: format!("{names:?}"),
        reason: format!("{:?} and {:?} are the same prompt", names[first], names[second]),
    };
    error.into()
}
