//! Tests of the journal. What must hold on every disk is in `conformance`; what only files can do
//! wrong is in `damage` and `directory`.

mod conformance;
mod cost;
mod damage;
mod directory;
mod discard;
mod failure;
mod feed;
mod golden;
pub(crate) mod kit;
