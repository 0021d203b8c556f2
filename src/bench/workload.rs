//! What one client sends next.
//!
//! It owns the client's copies of the request templates and its random choices. It refuses to look
//! at replies: what is sent depends on the seed alone.

use std::sync::Arc;

use super::choice::Random;
use super::plan::{Plan, WeightedCommand};
use super::template::Template;

/// What is being timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A command.
    Command,
    /// A fresh read.
    Read,
}

/// One client's source of requests.
#[derive(Debug)]
pub(super) struct Workload {
    plan: Arc<Plan>,
    random: Random,
    commands: Vec<WeightedCommand>,
    read: Template,
    /// Retry keys count up; clients differ in the upper digits.
    counter: u64,
}

/// Retry keys of one client: enough for years at any rate.
const KEYS_PER_CLIENT: u64 = 100_000_000_000;

impl Workload {
    /// The requests of the client with this number.
    pub(super) fn new(plan: Arc<Plan>, client: usize) -> Self {
        let client = client as u64;
        let random = Random::new(plan.args.seed, client);
        let commands = plan.commands();
        let read = plan.read();
        Self {
            plan,
            random,
            commands,
            read,
            counter: client * KEYS_PER_CLIENT,
        }
    }

    /// The next request.
    pub(super) fn next(&mut self) -> (Kind, &[u8]) {
        let number = self.plan.choice.next(&mut self.random);
        if self.random.chance(self.plan.args.reads) {
            return (Kind::Read, self.read.patch(number, 0, 0));
        }
        self.counter += 1;
        let first_share = self.commands.first().map_or(1.0, |command| command.share);
        let place = usize::from(!self.random.chance(first_share));
        let Some(chosen) = self.commands.get_mut(place) else {
            return (Kind::Read, self.read.patch(number, 0, 0));
        };
        let (smallest, largest) = chosen.amounts;
        let amount = smallest + self.random.below(largest - smallest + 1);
        (
            Kind::Command,
            chosen.template.patch(number, amount, self.counter),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::args::Args;
    use clap::Parser;

    fn requests(extra: &[&str], client: usize) -> Vec<String> {
        let args = ["bench", "http://127.0.0.1:1", "--aggregates", "50"]
            .iter()
            .chain(extra);
        let plan = Arc::new(Plan::new(Args::try_parse_from(args).unwrap()).unwrap());
        let mut workload = Workload::new(plan, client);
        (0..4_000)
            .map(|_| String::from_utf8(workload.next().1.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_seed_repeats_and_clients_differ() {
        assert_eq!(requests(&[], 0), requests(&[], 0));
        assert_ne!(requests(&[], 0), requests(&[], 1));
        assert_ne!(requests(&[], 0), requests(&["--seed", "2"], 0));
    }

    #[test]
    fn shares_are_kept() {
        let all = requests(&["--reads", "0.5", "--withdrawals", "0.2"], 3);
        let share = |part: &str| {
            all.iter().filter(|text| text.contains(part)).count() as f64 / all.len() as f64
        };
        assert!((share("GET ") - 0.5).abs() < 0.05);
        assert!((share("/Withdraw ") - 0.1).abs() < 0.03);
        assert!((share("/Deposit ") - 0.4).abs() < 0.05);
    }

    #[test]
    fn retry_keys_never_repeat() {
        let mut keys: Vec<String> = (0..2)
            .flat_map(|client| requests(&["--keys", "client"], client))
            .map(|text| text.split_once("Idempotency-Key: ").unwrap().1[15..31].to_owned())
            .collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
