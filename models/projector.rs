//! The projector: vectors become the input embeddings of the prefix.
#![allow(non_snake_case)]

use crate::Result;
use crate::condition::Condition;
use crate::decoder_config::{Activation, DecoderConfig};
use crate::params::{Group, Init, ParamStore};
use tch::{Kind, Tensor};

/// Whether prefix embeddings come out of a parameter: a last layer's, or the stand-in for a target.
pub(crate) fn is_output(parameter: &str) -> bool {
    let rest = parameter.strip_prefix("projector.").unwrap_or_default();
    rest.ends_with("fc2.weight") || rest.ends_with("fc2.bias") || rest == "nothing"
}

/// Condition -> prefix: (B, dim) -> (B, P, H) for a first guess, (B, 3 P, H) for a refinement.
#[derive(Debug)]
pub struct Projector {
    target: Network,
    /// mean and scale per input number, where the recipe asked for them
    input: Option<(Tensor, Tensor)>,
    refining: Option<Refining>,
    /// (M): how the noise enters the target's middle layer
    level_M: Option<Tensor>,
    /// (M): how the text's length does
    length_M: Option<Tensor>,
    /// (P, H): what stands in the place of a target that is withheld
    nothing_PH: Option<Tensor>,
    input_scale: f64,
    kind: Kind,
}

/// What a refinement's prefix has besides the target: a network for the hypothesis' vector, one for the difference.
#[derive(Debug)]
struct Refining {
    hypothesis: Network,
    difference: Network,
    /// (M): how the distance enters the difference's middle layer
    distance_M: Tensor,
}

/// Two linear layers with an activation between: (B, dim) -> (B, P, H).
#[derive(Debug)]
struct Network {
    fc1: (Tensor, Tensor),
    fc2: (Tensor, Tensor),
    activation: Activation,
    prefix_tokens: i64,
    hidden: i64,
}

/// Noise below this level is next to none: on a vector of 1024 numbers it has a length of 0.003.
const FAINTEST: f64 = 1e-4;

/// A text of one token.
const SHORTEST: f64 = 1.0;

/// Distances are told apart down to this one: two unit vectors of cosine 1 - 5e-7.
const NEAREST: f64 = 1e-3;

impl Projector {
    /// Parameters `projector.fc1.weight` (projector_hidden, dim), `projector.fc2.weight` (P H, projector_hidden),
    /// their biases, and where the configuration says so the buffers `projector.input.mean` and
    /// `projector.input.scale` (dim). A decoder that refines has the same layers again under `projector.hypothesis`
    /// and `projector.difference`, and `projector.difference.distance` (projector_hidden); one that knows noise
    /// `projector.level` (projector_hidden), lengths `projector.length` (projector_hidden), one that guides
    /// `projector.nothing` (P, H).
    ///
    /// # Errors
    /// A parameter name that is taken.
    pub fn new(config: &DecoderConfig, store: &mut ParamStore) -> Result<Self> {
        let target = Network::new("projector", config, store)?;
        let input = if config.input_normalization {
            let mean = store.buffer("projector.input.mean", &[config.dim], Init::Zeros)?;
            Some((mean, store.buffer("projector.input.scale", &[config.dim], Init::Ones)?))
        } else {
            None
        };
        let refining = if config.refines { Some(Refining::new(config, store)?) } else { None };
        let mut optional = |wanted: bool, name: &str, shape: &[i64], scale: f64| -> Result<Option<Tensor>> {
            if !wanted {
                return Ok(None);
            }
            Ok(Some(store.tensor(name, shape, Init::Normal(scale), Group::Gain)?))
        };
        let level_M = optional(config.knows_noise, "projector.level", &[config.projector_hidden], 0.1)?;
        let length_M = optional(config.knows_length, "projector.length", &[config.projector_hidden], 0.1)?;
        let of_prefix = [config.prefix_tokens, config.hidden];
        let nothing_PH = optional(config.guides, "projector.nothing", &of_prefix, 0.02)?;
        let (input_scale, kind) = (config.input_scale, store.compute_kind());
        Ok(Self { target, input, refining, level_M, length_M, nothing_PH, input_scale, kind })
    }

    /// The prefix in the compute type: (B, P, H), or (B, 3 P, H) where there are hypotheses: target, hypothesis,
    /// difference.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotRefine`] for hypotheses where the decoder has no networks for them,
    /// [`crate::Error::DoesNotGuide`] for a target that is withheld where it has nothing in its place; libtorch's own
    /// (out of memory).
    pub fn forward(&self, condition: &Condition) -> Result<Tensor> {
        let told_BM = self.told(condition)?;
        let target_BPH = self.target.forward(&self.input(&condition.v_BD)?, told_BM.as_ref())?;
        let target_BPH = self.withhold(target_BPH, condition)?;
        let Some(hypothesis_BD) = &condition.hypothesis_BD else { return Ok(target_BPH) };
        let refining = self.refining.as_ref().ok_or(crate::Error::DoesNotRefine)?;
        let hypothesis_BPH = refining.hypothesis.forward(&self.input(hypothesis_BD)?, None)?;
        let difference_BPH = self.difference(refining, &condition.v_BD, hypothesis_BD)?;
        // it would give the target away
        let difference_BPH = self.withhold(difference_BPH, condition)?;
        Ok(Tensor::f_cat(&[target_BPH, hypothesis_BPH, difference_BPH], 1)?)
    }

    /// What noise and length add to the target's middle layer, (B, M): nothing for a clean vector and an open length, so
    /// that a plain reader of the projector, which knows of neither, decodes such vectors right.
    fn told(&self, condition: &Condition) -> Result<Option<Tensor>> {
        let all =
            [(&self.level_M, &condition.noise_B, FAINTEST), (&self.length_M, &condition.length_B, SHORTEST)];
        let mut told_BM: Option<Tensor> = None;
        for (weight_M, number_B, unit) in all {
            let (Some(weight_M), Some(number_B)) = (weight_M, number_B) else { continue };
            let number_B1 = number_B.f_div_scalar(unit)?.f_log1p()?.f_unsqueeze(1)?.f_to_kind(self.kind)?;
            let own_BM = number_B1.f_mul(weight_M)?;
            told_BM = Some(match told_BM {
                Some(other_BM) => other_BM.f_add(&own_BM)?,
                None => own_BM,
            });
        }
        Ok(told_BM)
    }

    fn withhold(&self, prefix_BPH: Tensor, condition: &Condition) -> Result<Tensor> {
        let Some(withheld_B) = &condition.withheld_B else { return Ok(prefix_BPH) };
        let nothing_PH = self.nothing_PH.as_ref().ok_or(crate::Error::DoesNotGuide)?;
        let withheld_B11 = withheld_B.f_view([-1, 1, 1])?;
        Ok(nothing_PH.f_unsqueeze(0)?.f_where_self(&withheld_B11, &prefix_BPH)?)
    }

    /// The difference enters as direction and distance: near the target, where it is short, its direction still says
    /// as much as at the start.
    fn difference(&self, refining: &Refining, v_BD: &Tensor, hypothesis_BD: &Tensor) -> Result<Tensor> {
        let length = |x_BD: &Tensor| -> Result<Tensor> {
            let squares_B1 = x_BD.f_mul(x_BD)?.f_sum_dim_intlist([1].as_slice(), true, Kind::Float)?;
            Ok(squares_B1.f_sqrt()?)
        };
        let difference_BD = v_BD.f_sub(hypothesis_BD)?;
        let length_B1 = length(&difference_BD)?;
        // where each number has a scale of its own, so has that of a difference; the means are gone
        let scaled_BD = match &self.input {
            Some((_, scale)) => difference_BD.f_mul(scale)?,
            None => difference_BD,
        };
        let direction_BD = scaled_BD.f_div(&length(&scaled_BD)?.f_clamp_min(1e-6)?)?;
        let x_BD = direction_BD.f_mul_scalar(self.input_scale)?.f_to_kind(self.kind)?;
        let distance_B1 = length_B1.f_clamp_min(NEAREST)?.f_log()?.f_to_kind(self.kind)?;
        refining.difference.forward(&x_BD, Some(&distance_B1.f_mul(&refining.distance_M)?))
    }

    /// Vectors as the networks read them: (B, dim) f32 -> (B, dim) in the compute type.
    fn input(&self, v_BD: &Tensor) -> Result<Tensor> {
        let x_BD = match &self.input {
            Some((mean, scale)) => v_BD.f_sub(mean)?.f_mul(scale)?,
            None => v_BD.f_mul_scalar(self.input_scale)?,
        };
        Ok(x_BD.f_to_kind(self.kind)?)
    }
}

impl Refining {
    fn new(config: &DecoderConfig, store: &mut ParamStore) -> Result<Self> {
        let middle = [config.projector_hidden];
        Ok(Self {
            hypothesis: Network::new("projector.hypothesis", config, store)?,
            difference: Network::new("projector.difference", config, store)?,
            distance_M: store.tensor(
                "projector.difference.distance",
                &middle,
                Init::Normal(0.1),
                Group::Gain,
            )?,
        })
    }
}

impl Network {
    fn new(name: &str, config: &DecoderConfig, store: &mut ParamStore) -> Result<Self> {
        let (middle, out) = (config.projector_hidden, config.prefix_tokens * config.hidden);
        let mut layer = |layer: &str, rows: i64, columns: i64| -> Result<(Tensor, Tensor)> {
            let weight = format!("{name}.{layer}.weight");
            let weight = store.tensor(&weight, &[rows, columns], Init::Normal(0.02), Group::Matrix)?;
            let bias = store.tensor(&format!("{name}.{layer}.bias"), &[rows], Init::Zeros, Group::Gain)?;
            Ok((weight, bias))
        };
        Ok(Self {
            fc1: layer("fc1", middle, config.dim)?,
            fc2: layer("fc2", out, middle)?,
            activation: config.activation,
            prefix_tokens: config.prefix_tokens,
            hidden: config.hidden,
        })
    }

    /// (B, dim) -> (B, P, H); `extra_BM` is added to the middle layer before its activation.
    fn forward(&self, x_BD: &Tensor, extra_BM: Option<&Tensor>) -> Result<Tensor> {
        let mut x_BM = x_BD.f_linear(&self.fc1.0, Some(&self.fc1.1))?;
        if let Some(extra_BM) = extra_BM {
            x_BM = x_BM.f_add(extra_BM)?;
        }
        let x_BM = match self.activation {
            Activation::Gelu => x_BM.f_gelu("none")?,
            Activation::Silu => x_BM.f_silu()?,
        };
        let x = x_BM.f_linear(&self.fc2.0, Some(&self.fc2.1))?;
        Ok(x.f_view([-1, self.prefix_tokens, self.hidden])?)
    }
}
