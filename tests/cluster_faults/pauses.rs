//! A leader that stands still past its lease, under load. (What it answers the moment it goes on is
//! tried more closely in `tests/cluster`.)

use std::time::Duration;

use rustix::process::Signal;

use super::site::{Moment, Site, assert_short};
use crate::support::wait;

/// Long after every lease has run out, and shorter than a sentry waits, so that what they asked is
/// answered by the process that wakes up.
const STANDS_STILL: Duration = Duration::from_millis(2_200);
const ROUNDS: usize = 2;

#[test]
fn a_leader_that_stands_still_is_replaced_and_answers_nothing_old_when_it_goes_on() {
    let Some(mut site) = Site::start("paused leader") else {
        return;
    };
    let mut load = site.load();
    let mut outages = Vec::new();
    for _ in 0..ROUNDS {
        let moment = site.random_ms(300..800);
        wait::let_pass(moment);
        let (victim, led) = site.busiest();
        let frozen = Moment::of(|| site.cluster.node(victim).freeze());
        outages.extend(site.outages(&load, &led, &Site::others(victim), frozen));
        wait::let_pass(STANDS_STILL.saturating_sub(frozen.done.elapsed()));
        site.cluster.node(victim).signal(Signal::CONT);
        site.wait_whole();
        load.check();
    }
    assert_short("paused leader", &outages);
    site.finish(load);
}
