//! From hidden states to a vector: pooling, dense heads, normalisation, all in f32.
#![allow(non_snake_case)]

use tch::{Device, Kind, Tensor};

use super::activation::Activation;
use super::checks::Checks;
use super::folder::DenseFolder;
use crate::error::Result;
use crate::space::Pooling;
use crate::weights::Weights;

/// A dense head in f32.
pub(super) struct Dense {
    weight: Tensor,
    bias: Option<Tensor>,
    activation: Activation,
}

impl Dense {
    /// Loads a head that takes `inputs` numbers.
    pub(super) fn load(folder: &DenseFolder, weights: &Weights, inputs: i64, device: Device) -> Result<Self> {
        let config = &folder.config;
        let checks = Checks(&folder.config_path);
        if config.in_features != inputs {
            let reason = format!("what comes before it gives {inputs} numbers");
            return Err(checks.bad("in_features", config.in_features, reason));
        }
        if config.use_residual {
            let reason = "a residual around a dense head is not supported";
            return Err(checks.bad("use_residual", true, reason));
        }
        // sentence-transformers' default
        let name = config.activation_function.as_deref().unwrap_or("torch.nn.modules.activation.Tanh");
        let outputs = config.out_features;
        let load = |name: &str, shape: &[i64]| weights.load(name, shape, Kind::Float, device);
        Ok(Self {
            weight: load("linear.weight", &[outputs, inputs])?,
            bias: config.bias.then(|| load("linear.bias", &[outputs])).transpose()?,
            activation: Activation::parse(&folder.config_path, name)?,
        })
    }

    /// `[B, in]` to `[B, out]`.
    pub(super) fn forward(&self, x_BI: &Tensor) -> Result<Tensor> {
        self.activation.apply(x_BI.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// One vector a row, `[B, H]` in f32, from states `[B, T, H]` padded on the right; the mask (bool, true for tokens) is given
/// only where some row is padded.
pub(super) fn pool(pooling: Pooling, states_BTH: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
    let (_, length, _) = states_BTH.size3()?;
    match (pooling, mask_BT) {
        (Pooling::Cls, _) => Ok(states_BTH.f_select(1, 0)?.f_to_kind(Kind::Float)?),
        (Pooling::LastToken, None) => Ok(states_BTH.f_select(1, length - 1)?.f_to_kind(Kind::Float)?),
        (Pooling::LastToken, Some(mask_BT)) => {
            let (rows, _, hidden) = states_BTH.size3()?;
            let last_B = mask_BT.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Int64)?.f_sub_scalar(1)?;
            let index_B1H = last_B.f_view([rows, 1, 1])?.f_expand([rows, 1, hidden], false)?;
            Ok(states_BTH.f_gather(1, &index_B1H, false)?.f_squeeze_dim(1)?.f_to_kind(Kind::Float)?)
        }
        (Pooling::Mean, None) => Ok(states_BTH.f_mean_dim([1i64].as_slice(), false, Kind::Float)?),
        (Pooling::Mean, Some(mask_BT)) => {
            let mask_B1T = mask_BT.f_to_kind(Kind::Float)?.f_unsqueeze(1)?;
            let sums_BH = mask_B1T.f_bmm(&states_BTH.f_to_kind(Kind::Float)?)?.f_squeeze_dim(1)?;
            Ok(sums_BH.f_div(&mask_B1T.f_sum_dim_intlist([2i64].as_slice(), false, Kind::Float)?)?)
        }
    }
}

/// Rows scaled to length 1, as `torch.nn.functional.normalize` does it: a length under 1e-12 counts as 1e-12.
pub(super) fn normalize(x_BD: &Tensor) -> Result<Tensor> {
    Ok(x_BD.f_div(&x_BD.f_norm_scalaropt_dim(2, [1i64].as_slice(), true)?.f_clamp_min(1e-12)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn padding_changes_no_pooled_vector() {
        tch::manual_seed(0);
        let padded = Tensor::randn([2, 5, 4], (Kind::Float, Device::Cpu));
        let mask = Tensor::from_slice2(&[[true; 5], [true, true, true, false, false]]);
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::LastToken] {
            let both = pool(pooling, &padded, Some(&mask)).unwrap();
            let alone = pool(pooling, &padded.narrow(0, 1, 1).narrow(1, 0, 3), None).unwrap();
            assert!(both.narrow(0, 1, 1).allclose(&alone, 1e-6, 1e-7, false), "{pooling:?}");
        }
    }

    #[test]
    fn a_zero_row_stays_zero() {
        let rows = Tensor::from_slice2(&[[3f32, 4.0], [0.0, 0.0]]);
        let expected = Tensor::from_slice2(&[[0.6f32, 0.8], [0.0, 0.0]]);
        assert!(normalize(&rows).unwrap().allclose(&expected, 1e-6, 1e-7, false));
    }
}
