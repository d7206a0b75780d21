//! Vectors in files: NumPy's .npy, JSON lines, and the space record beside them.
#![allow(non_snake_case)] // shapes in names: N rows, D numbers

use std::io::{BufRead, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fs_err as fs;
use models::Space;
use tch::{Kind, Tensor};

use crate::failure::WorldError;

/// Vectors read from a file, with the space that lay beside it, if one did.
pub(crate) struct Vectors {
    /// `[N, D]`, f32, CPU.
    pub(crate) rows_ND: Tensor,
    /// The space they are from, where the file came with one.
    pub(crate) space: Option<Space>,
}

/// Where the space of `X.npy` is written: `X.space.json`.
pub(crate) fn space_path(vectors: &Path) -> PathBuf {
    vectors.with_extension("space.json")
}

/// Reads vectors of `dim` numbers from .npy (f16, f32 or f64, by its magic bytes) or JSON lines: an array of numbers
/// a line, or an object with `vector`. `-` is stdin. Rows that are not finite or not of `dim` numbers are refused by
/// their number.
pub(crate) fn read(path: &Path, dim: usize) -> Result<Vectors> {
    let stdin = path == Path::new("-");
    let mut reader: Box<dyn BufRead> = if stdin {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(fs::File::open(path)?))
    };
    let name = if stdin { "stdin".to_owned() } else { path.display().to_string() };
    let is_npy = reader.fill_buf().with_context(|| format!("cannot read {name}"))?.starts_with(b"\x93NUMPY");
    let flat = if is_npy { read_npy(reader, &name, dim)? } else { read_json_lines(reader, &name, dim)? };
    let rows = flat.len() / dim;
    for (row, vector) in flat.chunks_exact(dim).enumerate() {
        if let Some(column) = vector.iter().position(|x| !x.is_finite()) {
            return Err(WorldError::with_hint(
                format!("{name}: vector {row} is not finite (number {column} is {})", vector[column]),
                "encode that text again, or leave the row out",
            )
            .into());
        }
        if vector.iter().all(|&x| x == 0.0) {
            tracing::warn!("{name}: vector {row} is all zeros: no text has such a vector");
        }
    }
    let beside = space_path(path);
    let space = if !stdin && beside.exists() { Some(Space::read(&beside)?) } else { None };
    let rows_ND = Tensor::from_slice(&flat).reshape([rows as i64, dim as i64]);
    Ok(Vectors { rows_ND, space })
}

/// The numbers of an .npy file of shape `(rows, dim)` or `(dim,)`, row by row.
fn read_npy(reader: impl Read, name: &str, dim: usize) -> Result<Vec<f32>> {
    let hint =
        "write it with numpy.save(path, array) from an array of shape (rows, numbers), f16, f32 or f64";
    let broken = |what: String| anyhow::Error::from(WorldError::with_hint(format!("{name}: {what}"), hint));
    let file =
        npyz::NpyFile::new(reader).map_err(|error| broken(format!("not a readable .npy file: {error}")))?;
    let shape = file.shape().to_vec();
    let matches = match shape[..] {
        [numbers] => numbers == dim as u64,
        [_, numbers] => numbers == dim as u64,
        _ => false,
    };
    if !matches {
        return Err(WorldError::with_hint(
            format!("{name}: the array has shape {shape:?}, but this decoder reads vectors of {dim} numbers"),
            "encode the texts with the encoder of the decoder's space (space.json in the decoder's folder names it)",
        )
        .into());
    }
    if file.order() == npyz::Order::Fortran && shape.len() > 1 {
        return Err(broken("the array is in Fortran order".to_owned()));
    }
    let dtype = file.dtype().descr();
    let numbers = match dtype.trim_matches(['\'', '"']) {
        "<f4" => file.into_vec::<f32>(),
        "<f8" => file.into_vec::<f64>().map(|v| v.into_iter().map(|x| x as f32).collect()),
        "<f2" => file.into_vec::<half::f16>().map(|v| v.into_iter().map(half::f16::to_f32).collect()),
        other => return Err(broken(format!("the array's numbers are of type {other}"))),
    };
    numbers.map_err(|error| broken(format!("the array is cut short or damaged: {error}")))
}

/// One line of JSON: an array, or an object with `vector` (other keys are passed over).
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum JsonRow {
    Array(Vec<f32>),
    Object { vector: Vec<f32> },
}

fn read_json_lines(reader: impl BufRead, name: &str, dim: usize) -> Result<Vec<f32>> {
    let hint = "each line must be a JSON array of numbers, or an object with such an array under \"vector\"";
    let mut flat = Vec::new();
    for (index, line) in reader.lines().enumerate() {
        let number = index + 1;
        let line =
            line.map_err(|error| WorldError::with_hint(format!("{name}, line {number}: {error}"), hint))?;
        if line.trim().is_empty() {
            continue;
        }
        let (JsonRow::Array(vector) | JsonRow::Object { vector }) =
            serde_json::from_str(&line).map_err(|error| {
                WorldError::with_hint(format!("{name}, line {number}: no vector: {error}"), hint)
            })?;
        if vector.len() != dim {
            return Err(WorldError::with_hint(
                format!("{name}, line {number}: {} numbers, but this decoder reads vectors of {dim}", vector.len()),
                "encode the texts with the encoder of the decoder's space (space.json in the decoder's folder names it)",
            )
            .into());
        }
        flat.extend(vector);
    }
    if flat.is_empty() {
        return Err(WorldError::with_hint(format!("{name}: no vectors in it"), hint).into());
    }
    Ok(flat)
}

/// Writes `rows_ND` (f32, CPU) as .npy and their space beside it, each by temporary name and rename.
pub(crate) fn write(path: &Path, rows_ND: &Tensor, space: &Space) -> Result<()> {
    use npyz::WriterBuilder as _;
    let (rows, dim) = rows_ND.size2()?;
    let mut flat = vec![0f32; (rows * dim) as usize];
    rows_ND.to_kind(Kind::Float).contiguous().f_copy_data(&mut flat, (rows * dim) as usize)?;
    let temporary = path.with_extension("npy.tmp");
    // new vectors must never lie beside an older space, whenever this is interrupted
    match fs::remove_file(space_path(path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let written = (|| -> std::io::Result<()> {
        let mut file = BufWriter::new(fs::File::create(&temporary)?);
        let mut array = npyz::WriteOptions::<f32>::new()
            .default_dtype()
            .shape(&[rows as u64, dim as u64])
            .writer(&mut file)
            .begin_nd()?;
        array.extend(flat)?;
        array.finish()?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(anyhow::Error::from(error).context(format!("cannot write {}", path.display())));
    }
    space.write(&space_path(path))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn npy<T: npyz::Serialize + npyz::AutoSerialize>(numbers: [T; 4]) -> Vec<u8> {
        use npyz::WriterBuilder as _;
        let mut file = Vec::new();
        let mut writer = npyz::WriteOptions::<T>::new()
            .default_dtype()
            .shape(&[2, 2])
            .writer(&mut file)
            .begin_nd()
            .unwrap();
        writer.extend(numbers).unwrap();
        writer.finish().unwrap();
        file
    }

    #[test]
    fn npy_of_three_precisions_reads_the_same() {
        let numbers = [0.5f32, -1.0, 2.0, 0.25];
        let files = [npy(numbers), npy(numbers.map(f64::from)), npy(numbers.map(half::f16::from_f32))];
        for file in files {
            assert_eq!(read_npy(&file[..], "x", 2).unwrap(), numbers);
            let cut = read_npy(&file[..file.len() - 1], "x", 2).unwrap_err().to_string();
            assert!(cut.contains("cut short"), "{cut}");
        }
    }

    #[test]
    fn a_wrong_dimension_names_both() {
        let error = read_json_lines(&b"[1.0, 2.0]\n[1.0]\n"[..], "v.jsonl", 2).unwrap_err().to_string();
        assert!(error.contains("v.jsonl, line 2") && error.contains("1 numbers"), "{error}");
    }

    #[test]
    fn json_lines_take_arrays_and_objects() {
        let flat =
            read_json_lines(&b"[1.0, 2.0]\n\n{\"id\": 3, \"vector\": [3.0, 4.0]}\n"[..], "v", 2).unwrap();
        assert_eq!(flat, [1.0, 2.0, 3.0, 4.0]);
    }
}
