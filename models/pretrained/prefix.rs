//! A new projector before pre-trained blocks: its embeddings made as large as those of tokens.
//!
//! A norm stands before every layer, so attention and feed-forward layers see prefix embeddings of any size alike. What
//! they give is added to the embedding itself, though: a prefix ten times as large as a token would drown it, one a tenth
//! as large would be drowned, and the pre-trained layers know neither. The usual initialisation gives numbers of about
//! 0.1, whatever the model; tokens have from 0.01 to 1.
#![allow(non_snake_case)]

use tch::{Kind, Tensor};

use crate::projector::is_output;
use crate::{Condition, Decoder, ParamStore, Result};

/// The factor by which prefix embeddings of these vectors, (B, dim) f32 on the decoder's device, would have the root mean
/// square of the token embeddings; 1 where either is zero or no number.
///
/// # Errors
/// libtorch's own.
pub fn prefix_factor(decoder: &Decoder, v_BD: &Tensor) -> Result<f64> {
    tch::no_grad(|| {
        let factor = rms(&decoder.embedding)? / rms(&decoder.prefix(&Condition::first(v_BD))?)?;
        Ok(if factor.is_finite() && factor > 0.0 { factor } else { 1.0 })
    })
}

/// Multiplies all prefix embeddings by a factor: the weights and biases of the projector's last layer.
///
/// # Errors
/// libtorch's own.
pub fn scale_prefix(store: &ParamStore, factor: f64) -> Result<()> {
    tch::no_grad(|| -> Result<()> {
        for param in store.params().iter().filter(|param| is_output(&param.name)) {
            let _ = param.master.shallow_clone().f_mul_scalar_(factor)?;
        }
        Ok(())
    })?;
    store.refresh()
}

fn rms(x: &Tensor) -> Result<f64> {
    let squares = x.detach().f_to_kind(Kind::Float)?.f_square()?;
    Ok(squares.f_mean(Kind::Double)?.f_double_value(&[])?.sqrt())
}
