//! Makes a test process draw all of its randomness from a seed.
//!
//! Owns the symbol `getrandom` of the process that links it: the standard library (the order of hash
//! maps), tokio (the branch that `select!` tries first, who of several waiters wakes first), `rand`
//! and with it openraft (election timeouts) all ask there. Refuses to be used outside of tests; it
//! is a crate of its own because replacing a symbol of the C library is not safe Rust, which is
//! forbidden everywhere else. Invariant: the bytes depend on the seed, and on how many were drawn
//! before on the same thread, and on nothing else.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static SEED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// Sets the seed of this process. Threads that have drawn already keep what they drew, so it is
/// called first of all, and what is to be repeatable runs on a new thread.
pub fn seed(seed: u64) {
    SEED.store(seed, Ordering::SeqCst);
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn byte() -> u8 {
    let number = DRAWN.get() + 1;
    DRAWN.set(number);
    let seed = mixed(SEED.load(Ordering::Relaxed));
    let word = mixed(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    word.to_le_bytes()[0]
}

/// Stands in for the function of the C library with this name.
///
/// # Safety
/// As there: `buffer` points to `length` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for at in 0..length {
        // SAFETY: the caller vouches for `length` bytes.
        unsafe { buffer.add(at).write(byte()) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
