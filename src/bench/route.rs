//! Which of several nodes a request is sent to.
//!
//! It owns what the cluster says of its leaders, asked once before a run and once after it. It
//! refuses to follow leaders while a run goes on: a leader that moved in between is reported, so
//! that nobody takes requests to the wrong node for requests to the right one. The shard of an
//! aggregate is computed as the nodes do.

use std::time::{Duration, Instant};

use phalanx_actors::names::shard_of;
use serde::Deserialize;

use super::args::{Args, Route};
use super::choice::Random;
use super::run::BenchError;
use super::template::{NUMBER_DIGITS, put_decimal};
use crate::cli::ask;

const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Who may get the requests of each shard.
#[derive(Debug)]
pub(super) struct Directory {
    /// By shard: places in the list of URLs, never empty.
    candidates: Vec<Vec<usize>>,
    /// By shard, when the run began.
    leaders: Vec<u64>,
}

#[derive(Debug, Deserialize)]
struct Member {
    node: u64,
}

#[derive(Debug, Deserialize)]
struct Shards {
    shards: Vec<Shard>,
}

#[derive(Debug, Deserialize)]
struct Shard {
    shard: u32,
    leader: Option<u64>,
}

impl Directory {
    /// Asks the nodes who they are and who leads what; `None` when the route does not depend on it.
    pub(super) fn ask(args: &Args) -> Result<Option<Self>, BenchError> {
        if args.route == Route::Any {
            return Ok(None);
        }
        let nodes: Vec<u64> = args
            .urls
            .iter()
            .map(|url| Ok(get::<Member>(url, "/v1/cluster", args.timeout)?.node))
            .collect::<Result<_, BenchError>>()?;
        let leaders = leaders(args)?;
        Self::new(args.route, &nodes, leaders).map(Some)
    }

    fn new(route: Route, nodes: &[u64], leaders: Vec<u64>) -> Result<Self, BenchError> {
        let mut candidates = Vec::with_capacity(leaders.len());
        for (shard, leader) in leaders.iter().enumerate() {
            let fits = |node: u64| (node == *leader) == (route == Route::Leader);
            let places: Vec<usize> = (0..nodes.len())
                .filter(|&place| nodes.get(place).copied().is_some_and(fits))
                .collect();
            if places.is_empty() {
                return Err(BenchError::Route(match route {
                    Route::Leader => {
                        format!("shard {shard} is led by node {leader}, whose URL is not given")
                    }
                    Route::Any | Route::Other => {
                        format!("shard {shard} is led by node {leader}, and no other URL is given")
                    }
                }));
            }
            candidates.push(places);
        }
        Ok(Self {
            candidates,
            leaders,
        })
    }

    /// How many shards have another leader now than when the run began.
    pub(super) fn moved(&self, args: &Args) -> Result<u64, BenchError> {
        let now = leaders(args)?;
        let moved = self.leaders.iter().zip(&now).filter(|(a, b)| a != b);
        Ok(moved.count() as u64)
    }

    /// The place of a node for an aggregate of this shard.
    fn place(&self, shard: u32, random: &mut Random) -> usize {
        let candidates = usize::try_from(shard)
            .ok()
            .and_then(|shard| self.candidates.get(shard));
        match candidates.map(Vec::as_slice) {
            None | Some([]) => 0,
            Some([only]) => *only,
            Some(several) => {
                let chosen = random.below(several.len() as u64);
                let chosen = usize::try_from(chosen).ok().and_then(|at| several.get(at));
                chosen.copied().unwrap_or(0)
            }
        }
    }

    fn shards(&self) -> u32 {
        u32::try_from(self.candidates.len()).unwrap_or(u32::MAX)
    }
}

/// One client's way from an aggregate's number to the place of a URL.
#[derive(Debug)]
pub(super) struct Finder {
    /// `type NUL id`, with the number's digits at the end.
    name: Vec<u8>,
    /// The place for a client whose route does not depend on the aggregate.
    own: usize,
}

impl Finder {
    /// For the client with this number.
    pub(super) fn new(args: &Args, client: usize) -> Self {
        let name = format!(
            "{}\0{}{:0NUMBER_DIGITS$}",
            args.aggregate_type, args.prefix, 0
        );
        Self {
            name: name.into_bytes(),
            own: client % args.urls.len().max(1),
        }
    }

    /// The place of the URL for this aggregate.
    pub(super) fn place(
        &mut self,
        directory: Option<&Directory>,
        number: u64,
        random: &mut Random,
    ) -> usize {
        let Some(directory) = directory else {
            return self.own;
        };
        let digits = self.name.len() - NUMBER_DIGITS..;
        put_decimal(self.name.get_mut(digits), number);
        directory.place(shard_of(&self.name, directory.shards()), random)
    }
}

/// Who leads each shard as the first node sees it, once every shard has a leader.
fn leaders(args: &Args) -> Result<Vec<u64>, BenchError> {
    let url = args.urls.first().map_or("", String::as_str);
    let give_up = Instant::now() + args.timeout;
    loop {
        let mut shards = get::<Shards>(url, "/v1/shards", args.timeout)?.shards;
        shards.sort_by_key(|shard| shard.shard);
        let leaders: Option<Vec<u64>> = shards.iter().map(|shard| shard.leader).collect();
        match leaders {
            Some(leaders) if !leaders.is_empty() => return Ok(leaders),
            _ if Instant::now() >= give_up => {
                let why = format!("{url} knows a shard without a leader");
                return Err(BenchError::Route(why));
            }
            _ => std::thread::sleep(BETWEEN_LOOKS),
        }
    }
}

fn get<T: serde::de::DeserializeOwned>(
    url: &str,
    path: &str,
    patience: Duration,
) -> Result<T, BenchError> {
    let body = ask::get(url, path, patience).map_err(|error| {
        BenchError::Route(format!("{error} (`--route any` asks for no leaders)"))
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| BenchError::Route(format!("{url}{path} cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use phalanx_actors::names::StreamName;

    const NODES: [u64; 3] = [11, 12, 13];

    #[test]
    fn a_leader_gets_its_shards_requests_or_none_of_them() {
        let mut random = Random::new(1, 1);
        let leaders = vec![12, 13, 12, 11];
        let right = Directory::new(Route::Leader, &NODES, leaders.clone()).unwrap();
        let wrong = Directory::new(Route::Other, &NODES, leaders.clone()).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for shard in 0..4_u32 {
            let leader = leaders[shard as usize];
            for _ in 0..50 {
                assert_eq!(NODES[right.place(shard, &mut random)], leader);
                let other = NODES[wrong.place(shard, &mut random)];
                assert_ne!(other, leader);
                seen.insert((leader, other));
            }
        }
        assert_eq!(seen.len(), 6, "every other node is used");
    }

    #[test]
    fn a_node_that_is_needed_and_not_given_is_named() {
        let refused = |route, nodes: &[u64], leaders: &[u64]| {
            Directory::new(route, nodes, leaders.to_vec())
                .unwrap_err()
                .to_string()
        };
        let text = refused(Route::Leader, &[11, 12], &[11, 13]);
        assert!(text.contains("shard 1 is led by node 13"), "{text}");
        let text = refused(Route::Other, &[11], &[11]);
        assert!(text.contains("no other URL"), "{text}");
    }

    #[test]
    fn shards_are_those_of_the_nodes() {
        let args = ["bench", "http://a:1", "http://a:2", "--prefix", "x-"];
        let args = Args::try_parse_from(args).unwrap();
        let mut finder = Finder::new(&args, 1);
        let mut random = Random::new(1, 1);
        assert_eq!(finder.place(None, 7, &mut random), 1);
        let leaders: Vec<u64> = (0..16).collect();
        let directory = Directory::new(Route::Leader, &leaders, leaders.clone()).unwrap();
        for number in [0, 1, 42, 9_999, 49_999_999] {
            let id = format!("x-{number:08}");
            let shard = StreamName::new("account", &id).unwrap().shard(16);
            let place = finder.place(Some(&directory), number, &mut random);
            assert_eq!(place, shard as usize, "{id}");
        }
    }
}
