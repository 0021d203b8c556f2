//! One bit flipped somewhere in the data directory: the node either reports it (refuses to start,
//! refuses the shard, answers 5xx) or answers rightly. It never gives a wrong answer, and it never
//! crashes by a signal.
//!
//! Every kind of file gets its share of the places. `PHALANX_FLIPS` changes their number (default
//! 500); `PHALANX_SEED` repeats a run.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[path = "bit_flips/image.rs"]
mod image;
#[path = "bit_flips/truth.rs"]
mod truth;
#[path = "bit_flips/views.rs"]
mod views;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::{Flip, copy_with_flip, places};
use support::node::{Node, NodeSetup, NotReady};
use support::{measured, number_from_env, seeded, temp_dir};
use truth::{Seen, Truth};

const PARALLEL: usize = 3;
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How a node with a flipped bit behaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Every answer was right.
    Harmless,
    /// The process refused to start and said why.
    RefusedToStart,
    /// The process ended later and said why.
    EndedWithAMessage,
    /// It started, and `/readyz` says which shard it refuses.
    RefusedAShard,
    /// It started, and some answers were a 5xx problem.
    RefusedAnAnswer,
    /// It threw the read models away and built them again, and then every answer was right.
    BuiltAgain,
}

fn setup(directory: &Path) -> NodeSetup {
    NodeSetup::new(directory)
        .set("ACTORS__SNAPSHOT_EVERY_EVENTS", 4)
        .set("JOURNAL__WRITE_BUFFER_BYTES", 1024 * 1024)
        .set("JOURNAL__INDEX_WRITE_BUFFER_BYTES", 1024 * 1024)
        .set("JOURNAL__RESERVE_FREE_BYTES", 0)
}

#[test]
fn a_flipped_bit_is_reported_or_harmless_and_never_gives_a_wrong_answer() {
    let directory = temp_dir();
    let setup_of_original = setup(directory.path());
    let truth = Truth::record(&setup_of_original);
    let original = &setup_of_original.data_dir;
    assert_eq!(
        try_one(original, None, &truth),
        Ok(Outcome::Harmless),
        "without a flip"
    );
    let mut rng = seeded("bit flips");
    let count = usize::try_from(number_from_env("PHALANX_FLIPS", 500)).expect("fits");
    let flips = places(original, count, &mut rng);

    let next = AtomicUsize::new(0);
    let outcomes: Mutex<BTreeMap<(String, Outcome), usize>> = Mutex::default();
    let wrong: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(flip) = flips.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match try_one(original, Some(flip), &truth) {
                        Ok(outcome) => {
                            let mut outcomes = outcomes.lock().expect("no panic while held");
                            *outcomes.entry((flip.kind.clone(), outcome)).or_default() += 1;
                        }
                        Err(what) => wrong
                            .lock()
                            .expect("no panic while held")
                            .push(format!("{flip:?}: {what}")),
                    }
                }
            });
        }
    });

    let outcomes = outcomes.into_inner().expect("no panic while held");
    for ((kind, outcome), count) in &outcomes {
        measured(&format!("flips in {kind}: {outcome:?}"), count);
    }
    let wrong = wrong.into_inner().expect("no panic while held");
    assert!(
        wrong.is_empty(),
        "{} of {} flips did harm:\n{}",
        wrong.len(),
        flips.len(),
        wrong.join("\n---\n")
    );
    let rebuilt = outcomes
        .keys()
        .any(|(kind, outcome)| kind == ".sqlite" && *outcome == Outcome::BuiltAgain);
    assert!(
        rebuilt,
        "no damage to read models was noticed: {outcomes:?}"
    );
    let reported = outcomes
        .keys()
        .any(|(_, outcome)| *outcome != Outcome::Harmless);
    assert!(
        reported,
        "not one of {} flips was noticed: {outcomes:?}",
        flips.len()
    );
}

/// Starts a node on a copy with this bit flipped and asks it everything.
fn try_one(original: &Path, flip: Option<&Flip>, truth: &Truth) -> Result<Outcome, String> {
    let directory = temp_dir();
    let setup = setup(directory.path());
    copy_with_flip(original, &setup.data_dir, flip);
    let mut node = setup.spawn();
    let ready = node.wait_ready(READY_WITHIN);
    match &ready {
        Err(NotReady::Ended(_)) => {
            return ended_with_a_message(&mut node, flip, Outcome::RefusedToStart);
        }
        Err(NotReady::Silent) => return Err(format!("it hangs:\n{}", node.log())),
        Err(NotReady::Refuses(why)) if !why.contains("shard") => {
            return Err(format!("not ready, without a shard: {why}\n{}", node.log()));
        }
        Err(NotReady::Refuses(_)) | Ok(()) => {}
    }
    match truth.compare(&node) {
        Ok(Seen::AllRight) if ready.is_ok() && node.log().contains("building them again") => {
            Ok(Outcome::BuiltAgain)
        }
        Ok(Seen::AllRight) if ready.is_ok() => Ok(Outcome::Harmless),
        // Read models are derived, so damage to them is never more than a delay.
        Ok(_) if flip.is_some_and(Flip::is_of_views) => Err(format!(
            "the read models did not come back:\n{}",
            node.log()
        )),
        Ok(_) if ready.is_err() => Ok(Outcome::RefusedAShard),
        Ok(_) => Ok(Outcome::RefusedAnAnswer),
        Err(what) => match node.wait_end(Duration::from_secs(30)) {
            Some(_) => ended_with_a_message(&mut node, flip, Outcome::EndedWithAMessage),
            None => Err(format!("{what}\n{}", node.log())),
        },
    }
}

/// The process has ended; that is a report when it chose to end and names what is damaged.
fn ended_with_a_message(
    node: &mut Node,
    flip: Option<&Flip>,
    outcome: Outcome,
) -> Result<Outcome, String> {
    let (status, log) = (node.status(), node.log());
    let chose_to_end = status
        .and_then(|status| status.code())
        .is_some_and(|code| code != 0);
    let names_it = [
        flip.map_or("shard".to_owned(), Flip::file_name).as_str(),
        "shard",
        ".sst",
        ".log",
        "MANIFEST",
        "CURRENT",
    ]
    .iter()
    .any(|name| log.contains(name));
    if chose_to_end && names_it && !log.contains("panicked") {
        Ok(outcome)
    } else {
        Err(format!("ended with {status:?} and names nothing:\n{log}"))
    }
}
