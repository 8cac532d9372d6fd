//! Fault-tolerant collective communication over TCP: peers that come and go average what they hold.
//!
//! A layer over the C API of `libpccl`, without other dependencies. Buffers are borrowed, never copied; what the
//! library refuses or cannot do is an [`Error`] with a code and a text; what goes with a communicator ends with it.
//!
//! ```no_run
//! use pccl::{Communicator, Configuration, ReduceOp};
//!
//! let communicator = Communicator::new(&Configuration::new("master.example:48148"))?;
//! communicator.connect()?; // returns when this peer is a member
//! let mut gradient = vec![1f32; 1 << 20];
//! let info = communicator.all_reduce(&mut gradient, ReduceOp::Average)?;
//! println!("the average of {} peers: {}", info.world_size, gradient[0]);
//! # Ok::<(), pccl::Error>(())
//! ```
//!
//! A run needs a master (the program `pccl-master`), and peers take turns: a join point
//! ([`Communicator::update_topology`]), then collectives, the same at all members. A newcomer's
//! [`connect`](Communicator::connect) returns where the members' join point does. `examples/average.rs` is a whole
//! program. Asynchronous operations are begun in a [`scope`](Communicator::scope).

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

mod communicator;
mod error;
mod master;
mod scope;
mod shared_state;
pub mod sys;
mod types;

pub use communicator::{Communicator, Configuration, Place, Reduction};
pub use error::{Error, ErrorCode};
pub use master::Master;
pub use scope::{Operation, Scope};
pub use shared_state::{EntryOptions, SharedState, Strategy, SyncInfo};
pub use types::{BFloat16, Codec, Element, Float16, OnLoss, ReduceInfo, ReduceOp, ReduceOptions, ReducePart, Rounding};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
