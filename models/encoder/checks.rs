//! Refusals of what a configuration says, with its file, the key and the value.

use std::cmp::Ordering;
use std::fmt::Display;
use std::path::Path;

use crate::error::{Error, Result};

/// The configuration that is looked at.
#[derive(Clone, Copy)]
pub(super) struct Checks<'a>(pub(super) &'a Path);

impl Checks<'_> {
    /// A value that cannot be used.
    pub(super) fn bad(self, key: &str, value: impl Display, reason: impl Into<String>) -> Error {
        let (path, value) = (self.0.to_owned(), value.to_string());
        Error::Config { path, key: key.to_owned(), value, reason: reason.into() }
    }

    /// A part of which only one kind is implemented.
    pub(super) fn unsupported(self, what: &'static str, name: &str, supported: &'static str) -> Error {
        let (path, name) = (self.0.to_owned(), name.to_owned());
        Error::Unsupported { path, what, name, supported: vec![supported] }
    }

    /// Refuses the first number that is not above 0.
    pub(super) fn positive<N>(self, numbers: &[(&str, N)]) -> Result<()>
    where
        N: PartialOrd + Default + Display,
    {
        let is_above = |number: &N| number.partial_cmp(&N::default()) == Some(Ordering::Greater);
        match numbers.iter().find(|(_, number)| !is_above(number)) {
            Some((key, number)) => Err(self.bad(key, number, "it must be more than 0")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_above_zero_is_named() {
        let checks = Checks(Path::new("config.json"));
        checks.positive(&[("a", 1), ("b", i64::MAX)]).unwrap();
        let error = checks.positive(&[("a", 1), ("b", 0), ("c", -1)]).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("`b` is 0"), "{error}");
        assert!(checks.positive(&[("theta", f64::NAN)]).is_err());
    }
}
