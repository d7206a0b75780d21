//! Muon: steps of orthogonalized momentum, for matrices.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use models::{ParamStore, Weights};
use tch::{Device, Kind, Tensor};
use torch_ext::{Reduce, World};

use super::{Owner, orthogonalize};
use crate::Result;
use crate::checkpoint::tensor_of;

/// Constants of Muon (Jordan et al., 2024; scaled as by Liu et al., arXiv 2502.16982).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MuonConfig {
    /// Decay of the running mean of gradients, which is looked ahead of (Nesterov).
    pub momentum: f64,
    /// Newton-Schulz iterations.
    pub iterations: usize,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The root mean square of an AdamW update, about: a step times this is as long as one of AdamW's, so that both have one
/// learning rate (arXiv 2502.16982, section 2.2).
const UPDATE_RMS: f64 = 0.2;

/// Numbers that are orthogonalized at once, at most: what bounds the memory for it.
const BATCH_NUMBERS: i64 = 1 << 25;

/// Running means of gradients. What is several tensors on disk and one in memory (query, key and value) is several
/// matrices here.
#[derive(Debug)]
pub(super) struct Muon {
    config: MuonConfig,
    /// In which the iterations compute.
    kind: Kind,
    device: Device,
    owners: Vec<Owner>,
    matrices: Vec<Matrix>,
    /// What this rank updates.
    batches: Vec<MatrixBatch>,
}

/// Some rows of a parameter: a matrix of its own.
#[derive(Debug, Clone, Copy)]
struct Matrix {
    /// Number of the parameter's owner.
    owner: usize,
    /// Number of the parameter in the store.
    param: usize,
    start: i64,
    rows: i64,
    columns: i64,
    /// The rank that updates it.
    rank: usize,
}

/// Matrices of one shape, orthogonalized by one batched product.
#[derive(Debug)]
struct MatrixBatch {
    /// Their numbers.
    matrices: Vec<usize>,
    /// (B, rows, columns) f32.
    momentum: Tensor,
}

impl Matrix {
    fn of(&self, tensors: &[Tensor]) -> Result<Tensor> {
        self.rows_of(&tensors[self.param])
    }

    fn rows_of(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.f_narrow(0, self.start, self.rows)?)
    }

    fn shape(&self) -> [i64; 2] {
        [self.rows, self.columns]
    }

    /// Operations of an iteration, up to a factor.
    fn work(&self) -> i128 {
        let [short, long] = [self.rows.min(self.columns), self.rows.max(self.columns)].map(i128::from);
        short * short * (2 * long + short)
    }
}

impl Muon {
    /// At rest for the parameters of these numbers, which are matrices.
    pub(super) fn new(
        config: MuonConfig,
        store: &ParamStore,
        params: &[usize],
        world: &Arc<World>,
    ) -> Result<Self> {
        let owners: Vec<Owner> = params.iter().map(|&param| Owner::of(store, param)).collect();
        let mut matrices = Vec::new();
        for (owner, found) in owners.iter().enumerate() {
            let (param, columns) = (found.param, found.shape[1]);
            let mut start = 0;
            for part in &store.params()[param].parts {
                matrices.push(Matrix { owner, param, start, rows: part.rows, columns, rank: 0 });
                start += part.rows;
            }
        }
        assign(&mut matrices, world.size());
        let (mut batches, kind) = (Vec::new(), Kind::Float);
        for numbers in batches_of(&matrices, world.rank()) {
            let [rows, columns] = matrices[numbers[0]].shape();
            let momentum = Tensor::f_zeros([numbers.len() as i64, rows, columns], (kind, store.device()))?;
            batches.push(MatrixBatch { matrices: numbers, momentum });
        }
        Ok(Self { config, kind: store.compute_kind(), device: store.device(), owners, matrices, batches })
    }

    /// One update of this rank's matrices among the masters.
    pub(super) fn step(
        &mut self,
        masters: &[Tensor],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<()> {
        let MuonConfig { momentum, iterations, weight_decay } = self.config;
        for batch in &mut self.batches {
            let of = |tensors: &[Tensor]| -> Result<Vec<Tensor>> {
                batch.matrices.iter().map(|&number| self.matrices[number].of(tensors)).collect()
            };
            let gradient = Tensor::f_stack(&of(gradients)?, 0)?;
            let _ = batch.momentum.f_lerp_(&gradient, 1.0 - momentum)?;
            let ahead = gradient.f_lerp(&batch.momentum, momentum)?;
            let update = orthogonalize(&ahead, iterations, self.kind)?.f_to_kind(Kind::Float)?;
            let size = update.size();
            let factor = -learning_rate * UPDATE_RMS * (size[1].max(size[2]) as f64).sqrt();
            for (mut master, update) in of(masters)?.into_iter().zip(update.f_unbind(0)?) {
                let _ = master.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
                let _ = master.f_add_(&update.f_mul_scalar(factor)?)?;
            }
        }
        Ok(())
    }

    /// What each rank has updated of the masters.
    pub(super) fn shares(&self, masters: &[Tensor]) -> Result<Vec<(usize, Tensor)>> {
        self.matrices.iter().map(|matrix| Ok((matrix.rank, matrix.of(masters)?))).collect()
    }

    /// Names of the whole state.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.owners.iter().map(name_of)
    }

    /// The whole state on rank 0.
    pub(super) fn state(&self, world: &World) -> Result<Vec<(String, Tensor)>> {
        let mut named = Vec::new();
        for (number, owner) in self.owners.iter().enumerate() {
            let whole = Tensor::f_zeros(owner.shape.as_slice(), (Kind::Float, self.device))?;
            for (matrix, momentum) in self.own(number) {
                matrix.rows_of(&whole)?.f_copy_(&momentum?)?;
            }
            // no two ranks have a matrix in common: their sum joins them
            world.all_reduce(&whole, Reduce::Sum)?;
            if world.is_first() {
                named.push((name_of(owner), whole.f_to_device(Device::Cpu)?));
            }
        }
        Ok(named)
    }

    /// Reads this rank's share back.
    pub(super) fn load(&mut self, weights: &Weights, path: &Path) -> Result<()> {
        for (number, owner) in self.owners.iter().enumerate() {
            let saved = tensor_of(weights, path, &name_of(owner), &owner.shape, Kind::Float)?;
            for (matrix, momentum) in self.own(number) {
                momentum?.f_copy_(&matrix.rows_of(&saved)?)?;
            }
        }
        Ok(())
    }

    /// This rank's matrices of one parameter, each with its momentum.
    fn own(&self, owner: usize) -> impl Iterator<Item = (Matrix, Result<Tensor>)> {
        let all = self.batches.iter().flat_map(|batch| {
            batch.matrices.iter().enumerate().map(|(place, &number)| {
                let momentum = batch.momentum.f_get(place as i64).map_err(crate::Error::from);
                (self.matrices[number], momentum)
            })
        });
        all.filter(move |(matrix, _)| matrix.owner == owner)
    }
}

fn name_of(owner: &Owner) -> String {
    format!("momentum.{}", owner.name)
}

/// Gives each matrix to a rank, the most work first, each to the rank that has the least so far.
fn assign(matrices: &mut [Matrix], ranks: usize) {
    let mut order: Vec<usize> = (0..matrices.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(matrices[number].work()));
    let mut loads = vec![0i128; ranks];
    for number in order {
        let least = (0..ranks).min_by_key(|&rank| loads[rank]).unwrap_or(0);
        matrices[number].rank = least;
        loads[least] += matrices[number].work();
    }
}

/// The numbers of a rank's matrices, those of one shape together.
fn batches_of(matrices: &[Matrix], rank: usize) -> Vec<Vec<usize>> {
    let mut by_shape: BTreeMap<[i64; 2], Vec<usize>> = BTreeMap::new();
    for (number, matrix) in matrices.iter().enumerate().filter(|(_, matrix)| matrix.rank == rank) {
        by_shape.entry(matrix.shape()).or_default().push(number);
    }
    let mut batches = Vec::new();
    for ([rows, columns], numbers) in by_shape {
        let most = (BATCH_NUMBERS / (rows * columns).max(1)).max(1);
        batches.extend(numbers.chunks(most as usize).map(<[usize]>::to_vec));
    }
    batches
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matrix(rows: i64, columns: i64) -> Matrix {
        Matrix { owner: 0, param: 0, start: 0, rows, columns, rank: 0 }
    }

    #[test]
    fn ranks_have_like_work_and_every_matrix_has_one() {
        let mut all: Vec<Matrix> = (0..24).map(|_| matrix(384, 384)).collect();
        all.extend((0..18).map(|i| if i % 3 == 0 { matrix(384, 1024) } else { matrix(1024, 384) }));
        for ranks in [1, 2, 4, 7] {
            assign(&mut all, ranks);
            let load = |rank| all.iter().filter(|m| m.rank == rank).map(Matrix::work).sum::<i128>();
            let loads: Vec<i128> = (0..ranks).map(load).collect();
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            assert!(most - least <= matrix(384, 1024).work(), "{loads:?}");
            let mut seen: Vec<usize> = (0..ranks).flat_map(|rank| batches_of(&all, rank).concat()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..all.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_matrices_come_in_several_batches() {
        let all = [matrix(4096, 4096); 5];
        assert_eq!(batches_of(&all, 0), [vec![0, 1], vec![2, 3], vec![4]]);
    }
}
