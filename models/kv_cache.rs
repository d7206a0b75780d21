//! Keys and values of the positions that were computed already, preallocated for a whole generation.
#![allow(non_snake_case)]

use crate::Result;
use crate::decoder_config::DecoderConfig;
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
    ///
    /// # Errors
    /// libtorch's own (out of memory), here and in all that follows.
    pub fn new(
        batch: i64,
        kv_heads: i64,
        capacity: i64,
        head_dim: i64,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let empty = || Tensor::f_empty([batch, kv_heads, capacity, head_dim], (kind, device));
        Ok(Self { keys: empty()?, values: empty()?, len: 0 })
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
    ///
    /// # Errors
    /// libtorch's own.
    pub fn append(&mut self, k_BKTD: &Tensor, v_BKTD: &Tensor) -> Result<(Tensor, Tensor)> {
        let length = k_BKTD.size()[2];
        self.keys.f_narrow(2, self.len, length)?.f_copy_(k_BKTD)?;
        self.values.f_narrow(2, self.len, length)?.f_copy_(v_BKTD)?;
        self.len += length;
        Ok((self.keys.f_narrow(2, 0, self.len)?, self.values.f_narrow(2, 0, self.len)?))
    }

    /// Keeps the given rows (i64 indices, repeats allowed), in their order. Only filled positions are copied.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn select(&mut self, rows: &Tensor) -> Result<()> {
        for tensor in [&mut self.keys, &mut self.values] {
            let mut shape = tensor.size();
            shape[0] = rows.size()[0];
            let kept = Tensor::f_empty(&shape, (tensor.kind(), tensor.device()))?;
            let filled = tensor.f_narrow(2, 0, self.len)?.f_index_select(0, rows)?;
            kept.f_narrow(2, 0, self.len)?.f_copy_(&filled)?;
            *tensor = kept;
        }
        Ok(())
    }

    /// Rearranges rows in place from position `start` on: row i takes what row `rows[i]` had. Before `start` the
    /// rows that change places must be equal (the beams of one vector share their prefix).
    ///
    /// # Errors
    /// libtorch's own.
    pub fn permute(&mut self, rows: &Tensor, start: i64) -> Result<()> {
        let length = self.len - start;
        if length <= 0 {
            return Ok(());
        }
        for tensor in [&mut self.keys, &mut self.values] {
            let mut filled = tensor.f_narrow(2, start, length)?;
            filled.f_copy_(&filled.f_index_select(0, rows)?)?;
        }
        Ok(())
    }
}

/// The caches of all layers.
#[derive(Debug)]
pub struct KvCache(Vec<LayerCache>);

impl KvCache {
    /// Room for `capacity` positions of `rows` texts.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn new(config: &DecoderConfig, rows: i64, capacity: i64, kind: Kind, device: Device) -> Result<Self> {
        let layer = |_| LayerCache::new(rows, config.kv_heads, capacity, config.head_dim, kind, device);
        Ok(Self((0..config.layers).map(layer).collect::<Result<_>>()?))
    }

    /// One cache a layer, first layer first.
    pub fn layers(&mut self) -> &mut [LayerCache] {
        &mut self.0
    }

    /// [`LayerCache::select`] in every layer.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn select(&mut self, rows: &Tensor) -> Result<()> {
        self.0.iter_mut().try_for_each(|layer| layer.select(rows))
    }

    /// [`LayerCache::permute`] in every layer.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn permute(&mut self, rows: &Tensor, start: i64) -> Result<()> {
        self.0.iter_mut().try_for_each(|layer| layer.permute(rows, start))
    }
}
