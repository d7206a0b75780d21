//! Rotary positions (RoFormer, arXiv 2104.09864), rotate-half form, as `modeling_llama.py` of transformers has them.
#![allow(non_snake_case)]

use crate::Result;
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

/// Tables of the rotary position embedding, rotate-half form.
#[derive(Debug)]
pub(crate) struct Rope {
    /// Radians a position, (D/2) f32 on the CPU.
    frequencies: Tensor,
    kind: Kind,
    device: Device,
    /// Grown on demand.
    tables: RefCell<Rotation>,
}

/// The rotation of some positions.
#[derive(Debug)]
pub(crate) struct Rotation {
    /// cos and signed sin, (T, 1, D) in the type of what is turned.
    cos: Tensor,
    sin: Tensor,
    /// cos and sin, (T, D/2) f32, for kernels.
    pub(crate) half: [Tensor; 2],
}

impl Rope {
    /// Tables for the [`frequencies`] of heads, in the type and on the device of what will be turned.
    ///
    /// # Errors
    /// libtorch's own.
    pub(crate) fn new(frequencies: Tensor, kind: Kind, device: Device) -> Result<Self> {
        let tables = RefCell::new(Self::table(&frequencies, 64, kind, device)?);
        Ok(Self { frequencies, kind, device, tables })
    }

    fn table(frequencies: &Tensor, positions: i64, kind: Kind, device: Device) -> Result<Rotation> {
        // f32 angles, as transformers computes them
        let angles = Tensor::f_arange(positions, (Kind::Float, Device::Cpu))?.f_outer(frequencies)?;
        Rotation::of_half([angles.f_cos()?.f_to_device(device)?, angles.f_sin()?.f_to_device(device)?], kind)
    }

    /// cos and sin of the first `positions` positions' angles, (positions, D/2) f32 each.
    ///
    /// # Errors
    /// libtorch's own.
    pub(crate) fn half_angles(&self, positions: i64) -> Result<[Tensor; 2]> {
        let angles = Tensor::f_arange(positions, (Kind::Float, Device::Cpu))?.f_outer(&self.frequencies)?;
        Ok([angles.f_cos()?, angles.f_sin()?])
    }

    /// The rotation of `length` positions from `start` on; the tables grow where they are too short.
    ///
    /// # Errors
    /// libtorch's own.
    pub(crate) fn at(&self, start: i64, length: i64) -> Result<Rotation> {
        let mut tables = self.tables.borrow_mut();
        let have = tables.cos.size()[0];
        if start + length > have {
            let positions = (start + length).max(2 * have);
            *tables = tch::no_grad(|| Self::table(&self.frequencies, positions, self.kind, self.device))?;
        }
        let rows = |table: &Tensor| table.f_narrow(0, start, length);
        let [cos, sin] = &tables.half;
        Ok(Rotation { cos: rows(&tables.cos)?, sin: rows(&tables.sin)?, half: [rows(cos)?, rows(sin)?] })
    }
}

/// The frequencies of heads of an even width D: theta^(-2i/D), (D/2) f32.
///
/// # Errors
/// libtorch's own.
pub(crate) fn frequencies(head_dim: i64, theta: f64) -> Result<Tensor> {
    let even = Tensor::f_arange_start_step(0, head_dim, 2, (Kind::Double, Device::Cpu))?;
    Ok(even.f_mul_scalar(-theta.ln() / head_dim as f64)?.f_exp()?.f_to_kind(Kind::Float)?)
}

impl Rotation {
    /// Of cos and sin, (T, D/2) f32, for what is of `kind`.
    ///
    /// # Errors
    /// libtorch's own.
    pub(crate) fn of_half([cos, sin]: [Tensor; 2], kind: Kind) -> Result<Self> {
        let finish = |left: &Tensor, right: &Tensor| -> Result<Tensor> {
            Ok(Tensor::f_cat(&[left, right], -1)?.f_unsqueeze(1)?.f_to_kind(kind)?)
        };
        // the sign of rotate-half lies in the sine, so that the rotation of x is x * cos + roll(x) * sin
        Ok(Self { cos: finish(&cos, &cos)?, sin: finish(&sin.f_neg()?, &sin)?, half: [cos, sin] })
    }

    /// (B, T, heads, D) -> the same, each pair (i, i + D/2) turned by its position's angle.
    ///
    /// # Errors
    /// libtorch's own.
    pub(crate) fn apply(&self, x_BTND: &Tensor) -> Result<Tensor> {
        turned(x_BTND, &self.cos, &self.sin)
    }
}

/// (B, T, heads, D) turned by cos and signed sin of any shape (…, T, 1, D).
///
/// # Errors
/// libtorch's own.
pub(crate) fn turned(x_BTND: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x_BTND.size()[3] / 2;
    Ok(x_BTND.f_mul(cos)?.f_addcmul(&x_BTND.f_roll([half], [-1])?, sin)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_depends_on_distance_only() {
        let rope = Rope::new(frequencies(8, 1e4).unwrap(), Kind::Float, Device::Cpu).unwrap();
        let x = Tensor::randn([1, 1, 1, 8], (Kind::Float, Device::Cpu));
        let y = Tensor::randn([1, 1, 1, 8], (Kind::Float, Device::Cpu));
        let turned = |x: &Tensor, position| rope.at(position, 1).unwrap().apply(x).unwrap();
        let dot = |p: i64, q: i64| (turned(&x, p) * turned(&y, q)).sum(Kind::Float).double_value(&[]);
        assert!((dot(3, 1) - dot(203, 201)).abs() < 1e-4);
        assert!((turned(&x, 0) - &x).abs().max().double_value(&[]) < 1e-7);
    }
}
