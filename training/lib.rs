//! Training: recipe -> run. A recipe says everything about a training; a run is the folder it leaves.
//!
//! [`recipe`] reads recipes.

pub mod error;
pub mod recipe;

pub use error::{Error, Result};
pub use recipe::Recipe;
