//! Repairs this node's damaged copies, as far as other members have good ones.
//!
//! A damaged copy must not be mended in place, and must not be emptied while anybody counts on it: what
//! it has confirmed could be lost. So it goes the way of any copy that moves. The conductor takes it out
//! of its shard; then it is thrown away here and a new, blank group is started, which is given a copy like
//! a new member. Owns the damaged copies of this node and when each is thrown away. Refuses to do so
//! before the shard's leader shows that it does not count this node ([`Steward::released`]), and to do it
//! again and again without a pause: a disk that damages everything is no place for copies.
//!
//! Invariant: a copy is thrown away only after its group has ended, and written to only after nothing
//! is left of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use phalanx_actors::shard::ShardHandle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::starter::GroupStarter;
use crate::cluster::leaders::Leaders;
use crate::cluster::metrics;
use crate::cluster::steward::Steward;
use crate::cluster::wire::Led;
use crate::journal::{Done, Journal};
use crate::replication::fence::vote_to_keep;
use crate::replication::service::RaftCalls;

/// How often damaged copies are looked at.
const ROUND: Duration = Duration::from_millis(500);
/// The pause before a copy is thrown away a second time; it doubles with each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// The longest pause.
const MOST_PAUSE: Duration = Duration::from_secs(600);
/// A copy that was whole for so long has no history.
const FORGIVEN: Duration = Duration::from_secs(3600);

/// Where a copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits until nobody counts on it, and for its pause.
    Waiting,
    /// It is empty and has no group yet.
    Empty,
    /// It has a new group, which is nobody's yet.
    Blank,
    /// It gets the log.
    Learning,
    /// It counts again.
    Whole,
}

/// A copy that is or was damaged.
#[derive(Debug, Clone, Copy)]
struct Case {
    stage: Stage,
    found: Instant,
    /// How often it was thrown away, and when it was the last time.
    times: u32,
    thrown: Option<Instant>,
}

/// See the file's description.
#[derive(Debug)]
pub(super) struct Repair {
    journal: Journal,
    starter: GroupStarter,
    groups: Arc<RaftCalls>,
    shards: Vec<ShardHandle>,
    steward: Arc<Steward>,
    leaders: Arc<Leaders>,
    cases: BTreeMap<ShardId, Case>,
    /// What new groups need; ends with this.
    tasks: JoinSet<()>,
}

/// How long to wait before a copy is thrown away once more.
fn pause_after(times: u32) -> Duration {
    match times.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => FIRST_PAUSE
            .saturating_mul(1 << doubled.min(10))
            .min(MOST_PAUSE),
    }
}

impl Case {
    fn new(now: Instant) -> Self {
        Self {
            stage: Stage::Waiting,
            found: now,
            times: 0,
            thrown: None,
        }
    }

    /// Damage was found again.
    fn again(&mut self, now: Instant) {
        let forgiven = self.thrown.is_none_or(|thrown| now - thrown > FORGIVEN);
        if forgiven {
            self.times = 0;
        }
        self.stage = Stage::Waiting;
        self.found = now;
    }

    fn is_due(&self, now: Instant) -> bool {
        let pause = pause_after(self.times);
        self.thrown.is_none_or(|thrown| now - thrown >= pause)
    }
}

impl Repair {
    pub(super) fn new(
        journal: Journal,
        starter: GroupStarter,
        groups: Arc<RaftCalls>,
        shards: Vec<ShardHandle>,
        steward: Arc<Steward>,
        leaders: Arc<Leaders>,
    ) -> Self {
        metrics::describe_replica_repairs();
        Self {
            journal,
            starter,
            groups,
            shards,
            steward,
            leaders,
            cases: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Repairs what is damaged, until it is dropped.
    pub(super) async fn run(mut self) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            while self.tasks.try_join_next().is_some() {}
            self.look();
            self.throw_away().await;
            self.begin_anew().await;
            self.follow();
        }
    }

    /// Finds copies that are damaged, refused, and without a group.
    fn look(&mut self) {
        let now = Instant::now();
        for handle in &self.shards {
            let shard = handle.shard();
            let ended = handle.refusal().is_some() && self.groups.get(shard).is_none();
            if !ended || !self.journal.is_damaged(shard) {
                continue;
            }
            let known = self.cases.get(&shard);
            if known.is_some_and(|case| case.stage == Stage::Waiting) {
                continue;
            }
            let case = self.cases.entry(shard).or_insert_with(|| Case::new(now));
            case.again(now);
            let pause_s = pause_after(case.times).as_secs();
            tracing::warn!(
                shard,
                pause_s,
                "the copy is damaged; it is thrown away once its shard does without it"
            );
        }
    }

    fn at(&self, stage: Stage) -> Vec<ShardId> {
        let cases = self.cases.iter().filter(|(_, case)| case.stage == stage);
        cases.map(|(shard, _)| *shard).collect()
    }

    fn stage(&mut self, shard: ShardId, stage: Stage) {
        if let Some(case) = self.cases.get_mut(&shard) {
            case.stage = stage;
        }
    }

    async fn throw_away(&mut self) {
        let now = Instant::now();
        let due = |shard: &ShardId| self.cases.get(shard).is_some_and(|case| case.is_due(now));
        let due: Vec<ShardId> = self.at(Stage::Waiting).into_iter().filter(due).collect();
        for (shard, led) in self.steward.released(&due).await {
            let thrown = self.discard(shard, led).await;
            if let Some(case) = self.cases.get_mut(&shard) {
                case.times = case.times.saturating_add(1);
                case.thrown = Some(Instant::now());
            }
            match thrown {
                Ok(()) => {
                    let Led { node, term } = led;
                    tracing::warn!(
                        shard,
                        leader = node,
                        term,
                        "the damaged copy is thrown away; nobody counted on it any more"
                    );
                    self.stage(shard, Stage::Empty);
                }
                Err(reason) => {
                    tracing::error!(shard, %reason, "the damaged copy could not be thrown away");
                }
            }
        }
    }

    async fn discard(&self, shard: ShardId, led: Led) -> Result<(), String> {
        let stored = self.journal.vote_of_damaged(shard);
        let vote = vote_to_keep(stored.as_deref(), led.node, led.term);
        let vote = vote.map_err(|error| error.to_string())?;
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // The node may be stopping and not listen any more.
            let _gone = sender.send(result);
        });
        self.journal.discard(shard, vote, done);
        match receiver.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the journal stopped".to_owned()),
        }
    }

    /// Starts a group where a copy is empty. It knows nobody until a leader sends it something.
    async fn begin_anew(&mut self) {
        for shard in self.at(Stage::Empty) {
            let Some(handle) = handle_of(&self.shards, shard).cloned() else {
                continue;
            };
            match self.starter.start(shard, &[]).await {
                Ok(group) => {
                    self.tasks.spawn(Arc::clone(&group).watch(handle.clone()));
                    let leaders = Arc::clone(&self.leaders);
                    self.tasks.spawn(Arc::clone(&group).report(leaders));
                    self.groups.add(group);
                    handle.accept();
                    self.stage(shard, Stage::Blank);
                }
                Err(reason) => {
                    tracing::error!(shard, %reason, "no new group could be started");
                }
            }
        }
    }

    /// Tells how far the new copies are.
    fn follow(&mut self) {
        for stage in [Stage::Blank, Stage::Learning] {
            for shard in self.at(stage) {
                let Some(next) = self.progress(shard).filter(|next| *next != stage) else {
                    continue;
                };
                self.stage(shard, next);
                if next == Stage::Learning {
                    tracing::info!(
                        shard,
                        "a new copy is being built in place of the damaged one"
                    );
                    continue;
                }
                let found = self.cases.get(&shard).map(|case| case.found.elapsed());
                let took_s = found.map_or(0, |took| took.as_secs());
                metrics::replica_repaired();
                tracing::info!(shard, took_s, "the copy is whole again");
            }
        }
    }

    fn progress(&self, shard: ShardId) -> Option<Stage> {
        let group = self.groups.get(shard)?;
        let view = group.view(handle_of(&self.shards, shard)?);
        let me = self.steward.me();
        if view.voters.contains(&me) {
            Some(Stage::Whole)
        } else if view.learners.contains(&me) {
            Some(Stage::Learning)
        } else {
            None
        }
    }
}

fn handle_of(shards: &[ShardHandle], shard: ShardId) -> Option<&ShardHandle> {
    shards.get(usize::try_from(shard).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_thrown_away_at_once_and_then_ever_more_rarely() {
        let seconds: Vec<u64> = (0..9).map(|times| pause_after(times).as_secs()).collect();
        assert_eq!(seconds, [0, 15, 30, 60, 120, 240, 480, 600, 600]);
        assert_eq!(pause_after(u32::MAX), MOST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_was_whole_for_long_has_no_history() {
        let mut case = Case::new(Instant::now());
        assert!(case.is_due(Instant::now()));
        (case.times, case.thrown) = (3, Some(Instant::now()));
        tokio::time::advance(Duration::from_secs(59)).await;
        case.again(Instant::now());
        assert!(!case.is_due(Instant::now()), "it waits a minute");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(case.is_due(Instant::now()));
        tokio::time::advance(FORGIVEN).await;
        case.again(Instant::now());
        assert_eq!(case.times, 0);
    }
}
