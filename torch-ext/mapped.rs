//! Memory-mapped files, and tensors that lie in them.

use crate::error::{Error, Result};
use crate::ffi;
use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use std::ffi::c_void;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// A multiple of the size of a memory page on the systems that are supported.
const PAGE: usize = 64 << 10;

/// A file mapped into memory, privately: nothing written through it reaches the file.
///
/// Pages are read when they are touched and can be given up under memory pressure, so that a file larger than the
/// memory can be open. The file must not be cut short by another program while it is mapped (the system then ends
/// this one with SIGBUS); replacing it by a rename is harmless.
pub struct MappedFile {
    path: PathBuf,
    // A private writable mapping: an in-place operation on a tensor over the file, which tch offers as safe, then
    // changes a private copy of the page instead of ending the program. `None` for an empty file.
    map: Option<MmapMut>,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`Error::Map`] when it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let fault = |source| Error::Map { path: path.to_owned(), source };
        #[allow(clippy::disallowed_methods, reason = "Error::Map names the path itself")]
        let file = std::fs::File::open(path).map_err(fault)?;
        let metadata = file.metadata().map_err(fault)?;
        if metadata.is_dir() {
            return Err(fault(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
        }
        let map = if metadata.len() == 0 {
            None
        } else {
            // SAFETY: the mapping is private and lives as long as this value; see the note on cutting files short.
            Some(unsafe { MmapOptions::new().no_reserve_swap().map_copy(&file) }.map_err(fault)?)
        };
        Ok(Self { path: path.to_owned(), map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Gives the memory of the whole pages within a range back: who looks there again finds what the file says. For
    /// bytes that have been copied elsewhere, so that a file is not in memory twice. What was written to these pages
    /// through a tensor is lost.
    pub fn release(&self, range: Range<usize>) {
        let Some(map) = &self.map else { return };
        let start = range.start.next_multiple_of(PAGE);
        let end = range.end.min(map.len()) / PAGE * PAGE;
        if start < end {
            // SAFETY: the pages stay mapped and are read from the file anew. The advice can be refused, and the pages
            // then stay where they are, which harms nothing.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile").field("path", &self.path).field("bytes", &self.bytes().len()).finish()
    }
}

/// A CPU tensor of `shape` over the bytes of `map` from byte `offset`, row by row, without a copy.
///
/// The tensor keeps the map alive. Bytes that do not lie at a multiple of the kind's size are copied instead.
/// The tensor is for reading; it must not be written to while [`MappedFile::bytes`] is borrowed.
///
/// # Errors
/// [`Error::OutOfBounds`] when the tensor would end past the file, [`Error::Argument`] for a negative dimension or a
/// kind that files do not hold.
pub fn tensor_over(map: &Arc<MappedFile>, offset: usize, shape: &[i64], kind: Kind) -> Result<Tensor> {
    const OP: &str = "from_blob";
    let scalar_type = ffi::scalar_type(OP, kind)?;
    let size = kind.elt_size_in_bytes();
    let needed = shape
        .iter()
        .try_fold(size, |product, &length| product.checked_mul(usize::try_from(length).ok()?))
        .ok_or_else(|| Error::Argument { op: OP, message: format!("{shape:?} is not a shape") })?;
    let bytes = map.bytes();
    let slice = offset.checked_add(needed).and_then(|end| bytes.get(offset..end)).ok_or_else(|| {
        Error::OutOfBounds { path: map.path().to_owned(), offset, needed, length: bytes.len() }
    })?;
    if needed == 0 {
        return torch(OP, Tensor::f_zeros(shape, (kind, tch::Device::Cpu)));
    }
    if !slice.as_ptr().addr().is_multiple_of(size) {
        return torch(OP, Tensor::f_from_data_size(slice, shape, kind));
    }
    let owner = Arc::into_raw(Arc::clone(map)).cast_mut().cast::<c_void>();
    ffi::call_for_tensor(OP, |out, fault| {
        // SAFETY: `slice` lies in the map, which `owner` keeps alive until libtorch calls `release` with it, once.
        unsafe {
            ffi::te_from_blob(
                slice.as_ptr().cast_mut().cast(),
                shape.as_ptr(),
                shape.len(),
                scalar_type,
                release,
                owner,
                out,
                fault,
            )
        }
    })
}

/// Called by libtorch when the last tensor over a map is gone.
extern "C" fn release(owner: *mut c_void) {
    // SAFETY: `owner` came from `Arc::into_raw` in `tensor_over`, and libtorch calls a deleter once.
    drop(unsafe { Arc::from_raw(owner.cast::<MappedFile>().cast_const()) });
}

fn torch(op: &'static str, made: std::result::Result<Tensor, tch::TchError>) -> Result<Tensor> {
    made.map_err(|error| Error::Torch { op, message: error.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn numbers(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    #[test]
    fn a_tensor_keeps_its_map_alive() {
        let (_folder, path) = file_of(&numbers((0..12).map(|i| i as f32)));
        let map = Arc::new(MappedFile::open(&path).unwrap());
        let weak = Arc::downgrade(&map);
        let tensor = tensor_over(&map, 8, &[2, 5], Kind::Float).unwrap();
        assert_eq!(tensor.data_ptr().addr(), map.bytes()[8..].as_ptr().addr(), "no copy was made");
        drop(map);
        let row = tensor.get(1);
        drop(tensor);
        assert!(weak.upgrade().is_some(), "a view of the tensor still holds the map");
        assert_eq!(Vec::<f32>::try_from(&row).unwrap(), [7.0, 8.0, 9.0, 10.0, 11.0]);
        drop(row);
        assert!(weak.upgrade().is_none(), "the map goes with its last tensor");
    }

    #[test]
    fn writing_in_place_leaves_the_file_as_it_was() {
        let before = numbers([1.0, 2.0]);
        let (_folder, path) = file_of(&before);
        let map = Arc::new(MappedFile::open(&path).unwrap());
        let mut tensor = tensor_over(&map, 0, &[2], Kind::Float).unwrap();
        let _ = tensor.fill_(9.0);
        assert_eq!(Vec::<f32>::try_from(&tensor).unwrap(), [9.0, 9.0]);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn released_pages_are_read_anew() {
        let length = 5 * PAGE + 12;
        let before: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let (_folder, path) = file_of(&before);
        let map = MappedFile::open(&path).unwrap();
        assert_eq!(map.bytes(), before);
        let resident = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
            let mut lines = smaps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
            let rss = lines.find(|line| line.starts_with("Rss:"))?;
            rss.split_whitespace().nth(1)?.parse::<usize>().ok()
        };
        let whole = resident();
        map.release(10..length);
        map.release(length..usize::MAX);
        if let (Some(whole), Some(left)) = (whole, resident()) {
            assert_eq!(whole - left, (4 * PAGE) >> 10, "the pages that lie within the range went");
        }
        assert_eq!(map.bytes(), before);
    }

    #[test]
    fn bytes_out_of_line_are_copied() {
        let mut bytes = vec![0xff];
        bytes.extend(numbers([1.5, -2.5]));
        let (_folder, path) = file_of(&bytes);
        let map = Arc::new(MappedFile::open(&path).unwrap());
        let tensor = tensor_over(&map, 1, &[2], Kind::Float).unwrap();
        assert_eq!(Vec::<f32>::try_from(&tensor).unwrap(), [1.5, -2.5]);
        assert_eq!(Arc::strong_count(&map), 1);
    }

    #[test]
    fn what_ends_past_the_file_is_refused() {
        let (_folder, path) = file_of(&numbers([1.0, 2.0, 3.0]));
        let map = Arc::new(MappedFile::open(&path).unwrap());
        for (offset, shape) in [(0, vec![4]), (4, vec![3]), (13, vec![0]), (usize::MAX, vec![1])] {
            let refused = tensor_over(&map, offset, &shape, Kind::Float);
            assert!(matches!(refused, Err(Error::OutOfBounds { length: 12, .. })), "{offset} {shape:?}");
        }
        for shape in [vec![-1], vec![i64::MAX, i64::MAX]] {
            assert!(matches!(tensor_over(&map, 0, &shape, Kind::Float), Err(Error::Argument { .. })));
        }
        assert!(matches!(tensor_over(&map, 0, &[1], Kind::ComplexFloat), Err(Error::Argument { .. })));
        assert_eq!(tensor_over(&map, 12, &[0, 7], Kind::Float).unwrap().size(), [0, 7]);
        assert_eq!(Arc::strong_count(&map), 1, "a refusal keeps nothing");
    }

    #[test]
    fn files_that_cannot_be_mapped_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = MappedFile::open(&folder.path().join("missing")).unwrap_err();
        assert!(missing.to_string().contains("missing") && missing.hint().is_some(), "{missing}");
        assert!(MappedFile::open(folder.path()).unwrap_err().to_string().contains("directory"));
        let (_folder, empty) = file_of(b"");
        assert!(MappedFile::open(&empty).unwrap().bytes().is_empty());
    }
}
