//! The read side over a real journal on a simulated disk, and a real store on a file.

mod follow;
mod kit;
mod poison;
mod queries;
mod rebuilds;
mod restarts;
