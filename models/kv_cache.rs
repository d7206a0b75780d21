//! Keys and values of the positions that were computed already, preallocated for a whole generation.
#![allow(non_snake_case)]

use crate::decoder::DecoderConfig;
use tch::{Device, Kind, Tensor};

/// Keys and values of one layer: (B, K, capacity, D) each, of which the first `len` positions are filled.
#[derive(Debug)]
pub struct LayerCache {
    keys: Tensor,
    values: Tensor,
    len: i64,
}

impl LayerCache {
    /// Room for `capacity` positions of `batch` rows.
    pub fn new(batch: i64, kv_heads: i64, capacity: i64, head_dim: i64, kind: Kind, device: Device) -> Self {
        let empty = || Tensor::empty([batch, kv_heads, capacity, head_dim], (kind, device));
        Self { keys: empty(), values: empty(), len: 0 }
    }

    /// Number of filled positions.
    pub fn len(&self) -> i64 {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the next positions, (B, K, T, D) each, and returns all that are filled (views).
    pub fn append(&mut self, k_BKTD: &Tensor, v_BKTD: &Tensor) -> (Tensor, Tensor) {
        let length = k_BKTD.size()[2];
        self.keys.narrow(2, self.len, length).copy_(k_BKTD);
        self.values.narrow(2, self.len, length).copy_(v_BKTD);
        self.len += length;
        (self.keys.narrow(2, 0, self.len), self.values.narrow(2, 0, self.len))
    }

    /// Keeps the given rows (i64 indices, repeats allowed), in their order. Only filled positions are copied.
    pub fn select(&mut self, rows: &Tensor) {
        for tensor in [&mut self.keys, &mut self.values] {
            let mut shape = tensor.size();
            shape[0] = rows.size()[0];
            let kept = Tensor::empty(&shape, (tensor.kind(), tensor.device()));
            kept.narrow(2, 0, self.len).copy_(&tensor.narrow(2, 0, self.len).index_select(0, rows));
            *tensor = kept;
        }
    }

    /// Rearranges rows in place from position `start` on: row i takes what row `rows[i]` had. Before `start` the
    /// rows that change places must be equal (the beams of one vector share their prefix).
    pub fn permute(&mut self, rows: &Tensor, start: i64) {
        let length = self.len - start;
        if length <= 0 {
            return;
        }
        for tensor in [&mut self.keys, &mut self.values] {
            let mut filled = tensor.narrow(2, start, length);
            filled.copy_(&filled.index_select(0, rows));
        }
    }
}

/// The caches of all layers.
#[derive(Debug)]
pub struct KvCache(Vec<LayerCache>);

impl KvCache {
    /// Room for `capacity` positions of `rows` texts.
    pub fn new(config: &DecoderConfig, rows: i64, capacity: i64, kind: Kind, device: Device) -> Self {
        let layer = |_| LayerCache::new(rows, config.kv_heads, capacity, config.head_dim, kind, device);
        Self((0..config.layers).map(layer).collect())
    }

    /// One cache a layer, first layer first.
    pub fn layers(&mut self) -> &mut [LayerCache] {
        &mut self.0
    }

    /// [`LayerCache::select`] in every layer.
    pub fn select(&mut self, rows: &Tensor) {
        self.0.iter_mut().for_each(|layer| layer.select(rows));
    }

    /// [`LayerCache::permute`] in every layer.
    pub fn permute(&mut self, rows: &Tensor, start: i64) {
        self.0.iter_mut().for_each(|layer| layer.permute(rows, start));
    }
}
