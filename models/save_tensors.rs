//! Writing weights: safetensors files that come out the same for the same tensors.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::files;

/// Writes tensors as a safetensors file, atomically. The bytes depend on the names, the values, the metadata and the order
/// alone, so equal models make equal files (the safetensors crate writes the metadata in random order). `{"format": "pt"}`
/// is added, without which Hugging Face transformers does not open the file. One tensor at a time is copied to the CPU.
///
/// # Errors
/// [`Error::Io`], [`Error::Torch`], [`Error::TensorDtype`] for an element type that the format lacks.
pub fn save_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let header = header(path, tensors, metadata)?;
    files::write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut bytes = vec![];
        for (_, tensor) in tensors {
            let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
            bytes.resize(byte_len(&tensor), 0);
            tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
            file.write_all(&bytes)?;
        }
        Ok(())
    })
}

fn header(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut metadata = metadata.clone();
    metadata.insert("format".into(), "pt".into());
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut offset = 0;
    for (name, tensor) in tensors {
        let dtype = dtype_name(tensor.kind()).ok_or_else(|| Error::TensorDtype {
            path: path.to_owned(),
            name: name.clone(),
            dtype: format!("{:?}", tensor.kind()),
        })?;
        let end = offset + byte_len(tensor);
        let entry =
            serde_json::json!({"dtype": dtype, "shape": tensor.size(), "data_offsets": [offset, end]});
        header.insert(name.clone(), entry);
        offset = end;
    }
    let mut bytes = serde_json::to_vec(&header).map_err(std::io::Error::from)?;
    // the data begins at a multiple of 8, as the format asks
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

fn byte_len(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

fn dtype_name(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Double => "F64",
        Kind::Float => "F32",
        Kind::Half => "F16",
        Kind::BFloat16 => "BF16",
        Kind::Int64 => "I64",
        Kind::Int => "I32",
        Kind::Int16 => "I16",
        Kind::Int8 => "I8",
        Kind::Uint8 => "U8",
        Kind::Bool => "BOOL",
        _ => return None,
    })
}
