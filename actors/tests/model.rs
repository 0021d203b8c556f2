//! Random commands, commits and failures against a sequential model.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;

use phalanx_actors::ports::Proposed;
use phalanx_actors::record::Record;
use phalanx_actors::request::{Answer, FailureKind};
use proptest::prelude::*;
use support::*;
use tokio::task::JoinHandle;

#[derive(Debug, Clone)]
enum Step {
    Add {
        id: u8,
        key: Option<u8>,
        amount: i64,
    },
    Take {
        id: u8,
        amount: i64,
    },
    Read {
        id: u8,
    },
    Commit,
    /// The oldest proposal fails; `survive` of those in flight are in the log all the same.
    Fail {
        survive: usize,
        refused: bool,
    },
    Index,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..3_u8;
    prop_oneof![
        6 => (id.clone(), prop::option::of(0..3_u8), 1..5_i64)
            .prop_map(|(id, key, amount)| Step::Add { id, key, amount }),
        3 => (id.clone(), 1..8_i64).prop_map(|(id, amount)| Step::Take { id, amount }),
        3 => id.prop_map(|id| Step::Read { id }),
        4 => Just(Step::Commit),
        1 => (0..3_usize, any::<bool>())
            .prop_map(|(survive, refused)| Step::Fail { survive, refused }),
        2 => Just(Step::Index),
    ]
}

/// What a sequential machine says.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Stored { sequence: u64, replayed: bool },
    KeyReused,
    Rejected { total: i64 },
    State { sequence: u64, total: i64 },
    NotFound,
}

#[derive(Debug, Clone, Default)]
struct Sequential {
    state: BTreeMap<u8, (u64, i64)>,
    keys: BTreeMap<(u8, u8), (u64, i64)>,
}

impl Sequential {
    fn say(&mut self, step: &Step) -> Said {
        match *step {
            Step::Add { id, key, amount } => {
                if let Some(known) = key.and_then(|key| self.keys.get(&(id, key))) {
                    return match *known {
                        (sequence, first) if first == amount => Said::Stored {
                            sequence,
                            replayed: true,
                        },
                        _ => Said::KeyReused,
                    };
                }
                let sequence = self.apply(id, amount);
                if let Some(key) = key {
                    self.keys.insert((id, key), (sequence, amount));
                }
                Said::Stored {
                    sequence,
                    replayed: false,
                }
            }
            Step::Take { id, amount } => {
                let (_, total) = self.state.get(&id).copied().unwrap_or_default();
                if amount > total {
                    return Said::Rejected { total };
                }
                Said::Stored {
                    sequence: self.apply(id, -amount),
                    replayed: false,
                }
            }
            Step::Read { id } => match self.state.get(&id) {
                Some(&(sequence, total)) => Said::State { sequence, total },
                None => Said::NotFound,
            },
            _ => unreachable!("not a request"),
        }
    }

    fn apply(&mut self, id: u8, amount: i64) -> u64 {
        let entry = self.state.entry(id).or_default();
        *entry = (entry.0 + 1, entry.1 + amount);
        entry.0
    }

    /// What the log says.
    fn from_log(log: &[Record]) -> Self {
        let mut this = Self::default();
        for record in log {
            let view = phalanx_actors::record::RecordView::open(&record.bytes).unwrap();
            let id = record.stream.id().parse().unwrap();
            let events = phalanx_actors::fold::decode_events::<Tally>(&view).unwrap();
            let json = serde_json::to_value(&events[0].events()[0]).unwrap();
            let (kind, fields) = json.as_object().unwrap().iter().next().unwrap();
            let amount = fields["amount"].as_i64().unwrap();
            let signed = if kind == "Added" { amount } else { -amount };
            let sequence = this.apply(id, signed);
            assert_eq!(sequence, record.first_sequence);
            if let Some(key) = view.head.key.strip_prefix("key-") {
                let earlier = this
                    .keys
                    .insert((id, key.parse().unwrap()), (sequence, amount));
                assert_eq!(earlier, None, "a key was used twice");
            }
        }
        this
    }
}

fn said(answer: Answer) -> Result<Said, FailureKind> {
    Ok(match answer {
        Answer::Accepted(accepted) => Said::Stored {
            sequence: accepted.sequence_number,
            replayed: accepted.replayed,
        },
        Answer::KeyReused => Said::KeyReused,
        Answer::Rejected { fields, .. } => Said::Rejected {
            total: fields["total"].as_i64().unwrap(),
        },
        Answer::State(view) => {
            let json: serde_json::Value = serde_json::from_str(view.state.get()).unwrap();
            Said::State {
                sequence: view.sequence_number,
                total: json["total"].as_i64().unwrap(),
            }
        }
        Answer::NotFound => Said::NotFound,
        Answer::Failed(failure) => return Err(failure.kind),
        other => panic!("{other:?}"),
    })
}

struct Run {
    world: World,
    sequential: Sequential,
    /// Requests of this incarnation, with what they must be told if they are told anything.
    open: Vec<(Step, Said, JoinHandle<Answer>)>,
    term: u64,
    generated: u32,
}

impl Run {
    async fn new() -> Self {
        let mut options = Options::default();
        // Two of three aggregates fit, so they take turns.
        options.residency.max_resident = 2;
        options.residency.snapshot_every_events = 4;
        let world = World::new(options).await;
        world.start_passivation();
        world.replicator.hold();
        world
            .journal
            .hold_index
            .store(true, std::sync::atomic::Ordering::Release);
        Self {
            world,
            sequential: Sequential::default(),
            open: Vec::new(),
            term: 1,
            generated: 0,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Commit => {
                self.world.replicator.commit_next();
            }
            Step::Index => self.world.journal.index_all(),
            Step::Fail { survive, refused } => self.fail(survive, refused).await,
            request => self.request(request).await,
        }
        settle().await;
        self.check().await;
    }

    async fn request(&mut self, step: Step) {
        let said = self.sequential.say(&step);
        let task = match &step {
            Step::Add { id, key, amount } => {
                self.generated += 1;
                let key = key.map_or_else(
                    || format!("once-{}", self.generated),
                    |key| format!("key-{key}"),
                );
                self.world
                    .send(&id.to_string(), with_key(&key, add(*amount)))
            }
            Step::Take { id, amount } => self.world.send(&id.to_string(), take(*amount)),
            Step::Read { id } => self.world.send_read(&id.to_string()),
            other => unreachable!("{other:?}"),
        };
        self.open.push((step, said, task));
        settle().await;
    }

    /// Whatever is answered is what the sequential machine said, and is in the log.
    async fn check(&mut self) {
        let committed = Sequential::from_log(&self.world.journal.log());
        for (step, expected, task) in std::mem::take(&mut self.open) {
            if !task.is_finished() {
                self.open.push((step, expected, task));
                continue;
            }
            let answer = said(soon(task).await).unwrap();
            assert_eq!(answer, expected, "{step:?}");
            let id = match step {
                Step::Add { id, .. } | Step::Take { id, .. } | Step::Read { id } => id,
                _ => continue,
            };
            let known = committed
                .state
                .get(&id)
                .map_or(0, |(sequence, _)| *sequence);
            if let Said::Stored { sequence, .. } | Said::State { sequence, .. } = answer {
                assert!(sequence <= known, "an answer ran ahead of the log");
            }
        }
    }

    async fn fail(&mut self, survive: usize, refused: bool) {
        let replicator = &self.world.replicator;
        if replicator.pending().is_empty() {
            return;
        }
        let outcome = if refused {
            Proposed::NotProposed
        } else {
            Proposed::Unknown
        };
        let mut batches = vec![replicator.fail_next(outcome)];
        batches.extend(replicator.abandon());
        let kept = if refused { 0 } else { survive };
        // Loading waits for the index, whatever happens to the shard.
        self.world.journal.index_all();
        let waiting = std::mem::take(&mut self.open);
        let mut unknown = Vec::new();
        for (step, _, task) in waiting {
            match said(soon(task).await) {
                Err(FailureKind::OutcomeUnknown) => unknown.push(step),
                Err(FailureKind::NoLeader) => {}
                other => panic!("{step:?}: {other:?}"),
            }
        }
        let mut surviving = 0;
        for batch in batches.iter().take(kept) {
            self.world.journal.commit(&batch.records);
            surviving += batch.records.len();
        }
        assert!(surviving <= unknown.len(), "something stored was denied");
        eventually(|| self.world.shard.serving().is_none()).await;
        self.world.journal.index_all();
        self.sequential = Sequential::from_log(&self.world.journal.log());
        self.term += 1;
        self.world.lead(self.term).await;
    }

    async fn finish(mut self) {
        self.world
            .journal
            .hold_index
            .store(false, std::sync::atomic::Ordering::Release);
        self.world.replicator.let_go();
        self.world.journal.index_all();
        eventually(|| self.open.iter().all(|(.., task)| task.is_finished())).await;
        self.check().await;
        assert!(self.open.is_empty());
        let log = Sequential::from_log(&self.world.journal.log());
        assert_eq!(log.state, self.sequential.state);
        for (id, (_, total)) in log.state {
            assert_eq!(self.world.total(&id.to_string()).await, total);
        }
        assert_eq!(self.world.model.in_flight(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        max_shrink_iters: 4,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_shard_behaves_like_a_sequential_machine(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in steps {
                run.step(step).await;
            }
            run.finish().await;
        });
    }
}
