//! Nodes that cannot reach each other, in every shape.

use std::time::{Duration, Instant};

use super::net::{Harm, NODES};
use super::sentries::{Said, Seen};
use super::site::{Load, Moment, SHARDS, Site, assert_short, assert_within, percentile, spread};
use crate::support::{measured, skipped, wait};

/// Until a node that is cut off knows it and says so to everybody.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// From then on it refuses each request this soon, as a rule and at most.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
const REFUSED_AT_MOST: Duration = Duration::from_secs(3);
/// Until a node that cannot reach a leader has found the way round.
const ROUND_WITHIN: Duration = Duration::from_secs(6);
const LASTS: Duration = Duration::from_secs(4);

#[test]
fn a_node_that_is_cut_off_is_replaced_and_says_so() {
    let Some(mut site) = Site::start("two-way cut") else {
        return;
    };
    let mut load = site.load();
    wait::let_pass(Duration::from_millis(700));
    let (victim, led) = site.busiest();
    let cut = Moment::of(|| site.net.harm(&Site::ways_of(victim), Harm::Cut));
    let outages = site.outages(&load, &led, &Site::others(victim), cut);
    assert_short("two-way cut of a leader", &outages);
    wait::let_pass((KNOWN_WITHIN + Duration::from_secs(5)).saturating_sub(cut.done.elapsed()));
    let asked: Vec<Seen> = load.sentries.since(cut.done);
    let asked: Vec<Seen> = asked.into_iter().filter(|s| s.node == victim).collect();
    assert_refused(&site, &asked, cut.done);
    load.check();
    site.mend();
    wait::let_pass(Duration::from_millis(500));
    site.finish(load);
}

/// Holds what a node that was cut off answered against what it may say.
fn assert_refused(site: &Site, asked: &[Seen], cut: Instant) {
    let stored = asked.iter().find(|seen| seen.is_write() && seen.is_done());
    assert!(stored.is_none(), "stored without a majority: {stored:?}");
    let refuses = |seen: &&Seen| matches!(&seen.said, Said::Refused { status: 503, .. });
    let others = asked.iter().filter(|seen| !refuses(seen));
    let known = others.map(|seen| seen.began).max().unwrap_or(cut) - cut;
    let settled: Vec<&Seen> = asked
        .iter()
        .filter(|seen| seen.began > cut + known)
        .collect();
    let mut times: Vec<Duration> = settled.iter().map(|seen| seen.took()).collect();
    times.sort_unstable();
    measured(
        "a node that is cut off refuses everything after",
        format!("{known:?}"),
    );
    measured("and then answers 503 within", spread(&times));
    if !site.calm.held(cut, Instant::now()) {
        skipped("how soon a cut off node refuses", "the machine stood still");
    } else {
        assert!(known < KNOWN_WITHIN, "{asked:?}");
        assert!(times.len() >= SHARDS, "{asked:?}");
        assert!(percentile(&times, 90) < REFUSED_WITHIN, "{times:?}");
        assert!(percentile(&times, 100) < REFUSED_AT_MOST, "{times:?}");
    }
}

/// Cuts these ways of the busiest leader for a while.
fn cut_some(what: &str, site: &mut Site, load: &mut Load, ways: impl Fn(u64) -> Vec<(u64, u64)>) {
    wait::let_pass(Duration::from_millis(500));
    let (victim, led) = site.busiest();
    let cut = Moment::of(|| site.net.harm(&ways(victim), Harm::Cut));
    let outages = site.outages(load, &led, &Site::others(victim), cut);
    assert_short(what, &outages);
    wait::let_pass(LASTS.saturating_sub(cut.done.elapsed()));
    load.check();
    site.mend();
}

#[test]
fn a_leader_that_only_hears_or_only_speaks_is_replaced() {
    let Some(mut site) = Site::start("one-way cuts") else {
        return;
    };
    let mut load = site.load();
    cut_some("leader that hears nobody", &mut site, &mut load, |victim| {
        Site::others(victim)
            .iter()
            .map(|other| (*other, victim))
            .collect()
    });
    cut_some("leader that nobody hears", &mut site, &mut load, |victim| {
        Site::others(victim)
            .iter()
            .map(|other| (victim, *other))
            .collect()
    });
    site.finish(load);
}

#[test]
fn two_nodes_that_cannot_talk_use_the_third_as_a_bridge() {
    let Some(mut site) = Site::start("bridge") else {
        return;
    };
    let mut load = site.load();
    for one_way in [false, true] {
        wait::let_pass(Duration::from_millis(500));
        let (end, _) = site.busiest();
        let other = Site::others(end)[0];
        let ways = [(end, other), (other, end)];
        let ways = if one_way { &ways[..1] } else { &ways[..] };
        let cut = Moment::of(|| site.net.harm(ways, Harm::Cut));
        let all: Vec<usize> = (0..SHARDS).collect();
        let what = if one_way {
            "one way of three"
        } else {
            "bridge"
        };
        // Somebody can always be asked, and in the end anybody.
        let outages = site.outages(&load, &all, &NODES, cut);
        assert_short(&format!("{what}, through any node"), &outages);
        for node in NODES {
            let outages = site.outages(&load, &all, &[node], cut);
            assert_within(
                &format!("{what}, through node {node}"),
                &outages,
                ROUND_WITHIN,
            );
        }
        wait::let_pass(LASTS.saturating_sub(cut.done.elapsed()));
        load.check();
        site.mend();
    }
    site.finish(load);
}
