//! Several processes as one: libtorch's own c10d, which is the engine under `torch.distributed`.
//!
//! [`World`] is what programs use. Below it lie the store through which processes find each other ([`store`]), the
//! collectives ([`group`]), and the pulse by which a rank that is missing is told from one that is slow ([`pulse`]).

pub mod fault;
mod ffi;
pub mod group;
mod nccl;
mod patience;
pub mod place;
pub mod pulse;
pub mod store;
pub mod world;

pub use fault::{Absence, RankFault};
pub use group::{Network, ProcessGroup, Reduce, Work};
pub use place::Place;
pub use store::{Address, Store};
pub use world::{Pending, World};
