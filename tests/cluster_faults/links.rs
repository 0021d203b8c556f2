//! Links between nodes that are bad without being gone: they come and go, lose packets, or are torn
//! down again and again.

use std::time::{Duration, Instant};

use super::net::{Harm, NODES};
use super::site::{Load, Moment, Site, assert_within};
use crate::support::wait;

const LASTS: Duration = Duration::from_secs(4);
/// The longest that any shard may be without an acknowledged write while links are bad.
const PROGRESS_WITHIN: Duration = Duration::from_secs(6);

/// Every way between nodes, both directions.
fn all_ways() -> Vec<(u64, u64)> {
    let pairs = NODES
        .into_iter()
        .flat_map(|from| NODES.map(|to| (from, to)));
    pairs.filter(|(from, to)| from != to).collect()
}

/// Every shard makes progress through some node, measured from each of several moments.
fn assert_progress(what: &str, site: &Site, load: &Load, moments: &[Moment]) {
    let shards: Vec<usize> = (0..super::site::SHARDS).collect();
    let outages: Vec<_> = moments
        .iter()
        .flat_map(|moment| site.outages(load, &shards, &NODES, *moment))
        .collect();
    assert_within(what, &outages, PROGRESS_WITHIN);
}

#[test]
fn links_that_come_and_go_lose_packets_or_are_reset_stop_nobody() {
    let Some(mut site) = Site::start("bad links") else {
        return;
    };
    let mut load = site.load();

    let (victim, _) = site.busiest();
    let ways: Vec<(u64, u64)> = Site::ways_of(victim);
    let mut moments = Vec::new();
    let began = Instant::now();
    while began.elapsed() < LASTS {
        moments.push(Moment::of(|| site.net.harm(&ways, Harm::Cut)));
        let cut = site.random_ms(150..600);
        wait::let_pass(cut);
        site.net.mend();
        let whole = site.random_ms(150..600);
        wait::let_pass(whole);
    }
    assert_progress("flapping links", &site, &load, &moments);
    load.check();
    site.mend();

    let lossy = Moment::of(|| site.net.harm(&all_ways(), Harm::Loss(100)));
    let mut moments = vec![lossy];
    for _ in 0..4 {
        wait::let_pass(LASTS / 4);
        moments.push(Moment::now());
    }
    assert_progress("one packet of ten is lost", &site, &load, &moments);
    load.check();
    site.mend();

    let mut moments = Vec::new();
    let began = Instant::now();
    while began.elapsed() < LASTS {
        moments.push(Moment::of(|| site.net.harm(&all_ways(), Harm::Reset)));
        let torn = site.random_ms(20..150);
        wait::let_pass(torn);
        site.net.mend();
        let whole = site.random_ms(200..700);
        wait::let_pass(whole);
    }
    assert_progress("connections that are reset", &site, &load, &moments);
    load.check();
    site.mend();
    site.finish(load);
}
