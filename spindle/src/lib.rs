//! Spindle, put together: the only crate that knows everybody.
//!
//! | Module | Holds |
//! |---|---|
//! | [`args`] | the command line |
//! | [`limits`] | every limit, summed term by term |
//! | [`start`] | start and stop in order |
//! | [`shard`] | one core's share and its turn; generic over the network, so that the simulation runs this code |
//! | [`placement`] | which core a new connection goes to |
//! | [`message`] | what cores say to each other |
//! | [`control`] | the object model and the RPC methods |
//! | [`balance`] | sessions move from busy cores to idle ones |
//! | [`live`] | the backplane that carries changes to the cores |
//! | `moves` | sessions move from core to core |
//! | [`recorder`] | what a core notes of its last moments |
//! | [`store`] | what outlives the process |
//! | [`wake`] | how deep idle processors may sleep |
//!
//! A *reactor thread* per core runs [`shard::Core`]; the RPC server has a thread for each client, which owns no state of
//! the data path and reaches a core only by an errand ([`message::Errand`]). See `docs/design/0002-control-threads.md`.
#![forbid(unsafe_code)]

pub mod args;
pub mod balance;
pub mod control;
pub mod limits;
pub mod live;
pub mod message;
mod moves;
pub mod placement;
pub mod recorder;
pub mod shard;
pub mod start;
pub mod store;
pub mod wake;
