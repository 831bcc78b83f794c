//! The instruments by which Spindle is measured, and anything that speaks iSCSI beside it.
//!
//! * [`load`]: an iSCSI generator that polls. It keeps one thread busy on one core, sends whatever it has in one
//!   call and takes whatever came in one call, so that the target is what is measured. Latencies of an open loop
//!   count from the moment a command *should* have been sent, so that a target that stalls cannot hide it.
//! * [`wire`]: a responder that does nothing but send bytes back, and its generator: what kernel TCP allows on this
//!   machine, in the shapes of reads and writes. No target can be faster over the same sockets.
//! * [`respond`]: the least that passes for an iSCSI target, to see how fast the generator itself is.
//! * [`distance`]: how long a cache line takes from one core to another. Virtual CPUs are moved by their host;
//!   figures taken near and far, or within one core, differ by a factor of two and must never be compared.
//! * [`compare`]: starts targets, takes samples in turns within one run, watches the distance beside each sample,
//!   and reports ratios with their spread.
//! * [`scale`]: what a second core brings, judged by what a command costs; [`hop`]: what a message to another core costs.
//! * [`profile`]: where a target's time goes, by clock sampling.
//!
//! Only ratios of one run count. The way of a figure: [`url`] says where the logical unit is, [`session`] logs in
//! through the test initiator's engine and hands its socket over, [`conn`] drives the connection from there on with
//! preallocated tasks, [`report`] holds histograms and prints.

#![forbid(unsafe_code)]

pub mod compare;
pub mod conn;
pub mod distance;
pub mod hop;
pub mod load;
pub mod pattern;
pub mod profile;
pub mod report;
pub mod respond;
pub mod scale;
pub mod session;
pub mod units;
pub mod url;
pub mod wire;
pub mod workload;
