//! How long a shard cannot be written to when its leader dies or is cut off.

use std::time::Duration;

use super::net::Harm;
use super::site::{Moment, Outage, Site, assert_short};
use crate::support::{number_from_env, wait};

#[test]
fn failovers_are_short() {
    let count = number_from_env("PHALANX_FAILOVERS", 10);
    let Some(mut site) = Site::start("failovers") else {
        return;
    };
    let mut load = site.load();
    let (mut kills, mut cuts): (Vec<Outage>, Vec<Outage>) = (Vec::new(), Vec::new());
    for number in 0..count {
        let moment = site.random_ms(100..500);
        wait::let_pass(moment);
        let (victim, led) = site.busiest();
        let others = Site::others(victim);
        if number % 2 == 0 {
            let harmed = Moment::of(|| site.cluster.kill(victim));
            kills.extend(site.outages(&load, &led, &others, harmed));
            site.cluster.start(victim);
            site.wait_whole();
        } else {
            let harmed = Moment::of(|| site.net.harm(&Site::ways_of(victim), Harm::Cut));
            cuts.extend(site.outages(&load, &led, &others, harmed));
            site.net.mend();
            site.wait_whole();
        }
        // What a node promised before it was killed it keeps for one lease after its start.
        wait::let_pass(Duration::from_millis(700));
        load.check();
    }
    assert_short("kill -9 of a leader", &kills);
    assert_short("cut of a leader", &cuts);
    let all: Vec<Outage> = kills.into_iter().chain(cuts).collect();
    assert_short("failover", &all);
    site.finish(load);
}
