//! Who is asked for read models, and who after it, over peers that do as the test says.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::cluster::peers::answering::Answering;

const ME: NodeId = 1;

/// What a member does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Answer(u16),
    /// Says that it cannot, and which node can.
    Name(NodeId),
    /// Has no read models.
    Refuse,
    /// The request never leaves.
    Stay,
    /// The answer is lost.
    Lose,
    /// Nothing is heard of it for so long; then it is lost.
    Hang(Duration),
}

/// The other members.
#[derive(Debug, Default)]
struct Others {
    members: Vec<NodeId>,
    keepers: Mutex<Vec<NodeId>>,
    away: Mutex<Vec<NodeId>>,
    old: Vec<NodeId>,
    does: Mutex<BTreeMap<NodeId, Does>>,
    asked: Mutex<VecDeque<(NodeId, QueryQuestion)>>,
}

impl Others {
    fn who_was_asked(&self) -> Vec<NodeId> {
        let asked = std::mem::take(&mut *self.asked.lock());
        asked.into_iter().map(|(node, _)| node).collect()
    }
}

impl Answering for Others {
    fn members(&self) -> Vec<NodeId> {
        self.members.clone()
    }

    fn is_away(&self, peer: NodeId) -> bool {
        self.away.lock().contains(&peer)
    }

    fn speaks(&self, peer: NodeId) -> u32 {
        QUERIES_SINCE - u32::from(self.old.contains(&peer))
    }

    fn answer(
        &self,
        to: NodeId,
        _lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        assert_eq!(kind, CallKind::Query);
        let question = wire::read_housekeeping(&request).unwrap();
        self.asked.lock().push_back((to, question));
        let does = self.does.lock().get(&to).copied();
        let reason = "lost".to_owned();
        Box::pin(async move {
            match does.unwrap_or(Does::Answer(200)) {
                Does::Answer(status) => Ok(answer(status, None)),
                Does::Name(node) => Ok(answer(503, Some(node))),
                Does::Refuse => Err(CallError::Refused("no read models".to_owned())),
                Does::Stay => Err(CallError::NotSent { to, reason }),
                Does::Lose => Err(CallError::Unknown { to, reason }),
                Does::Hang(time) => {
                    tokio::time::sleep(time.min(timeout)).await;
                    Err(CallError::Unknown { to, reason })
                }
            }
        })
    }
}

impl Roles for Others {
    fn roles_of(&self, node: NodeId) -> BTreeSet<Role> {
        if self.keepers.lock().contains(&node) {
            BTreeSet::from([Role::Query])
        } else {
            BTreeSet::from([Role::Command, Role::Gateway])
        }
    }
}

fn answer(status: u16, ask: Option<NodeId>) -> Bytes {
    let ask = ask.map(|node| (ASK.to_owned(), node.to_string().into_bytes()));
    wire::query_answer(&QueryAnswer {
        status,
        headers: ask.into_iter().collect(),
        body: Bytes::from_static(b"{}"),
    })
    .unwrap()
}

/// Node 1 with the members 2 to 5, of which 2 to 4 keep read models.
fn site(change: impl FnOnce(&mut Others)) -> (Arc<Others>, Queries) {
    let mut others = Others {
        members: vec![2, 3, 4, 5],
        keepers: Mutex::new(vec![2, 3, 4]),
        ..Others::default()
    };
    change(&mut others);
    let others = Arc::new(others);
    let limits = QueryLimits {
        at_once: 2,
        answer_bytes: 1024,
    };
    let queries = Queries::new(
        ME,
        Arc::clone(&others) as _,
        Arc::clone(&others) as _,
        limits,
    );
    (others, queries)
}

fn query(posts: bool) -> Query {
    let since = Instant::now();
    Query {
        posts,
        target: "/v1/views/accounts".to_owned(),
        headers: Vec::new(),
        is_large: true,
        since,
        deadline: since + Duration::from_secs(10),
    }
}

#[tokio::test(start_paused = true)]
async fn one_member_answers_until_it_is_away_and_is_not_gone_back_to() {
    let (others, queries) = site(|_| ());
    let ask = async || queries.ask(&query(false), Whom::Any).await.unwrap().0;
    let first = ask().await;
    assert!([2, 3, 4].contains(&first));
    for _ in 0..5 {
        assert_eq!(ask().await, first);
    }
    others.away.lock().push(first);
    let second = ask().await;
    assert!(second != first && second != 5);
    others.away.lock().clear();
    assert_eq!(ask().await, second);
    // It has lost the role.
    others.keepers.lock().clear();
    others.keepers.lock().push(first);
    others.does.lock().insert(second, Does::Refuse);
    assert_eq!(ask().await, first);
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_to_the_next_member_whatever_became_of_it() {
    let short = Duration::from_secs(1);
    for does in [
        Does::Stay,
        Does::Lose,
        Does::Refuse,
        Does::Answer(503),
        Does::Hang(short),
    ] {
        let (others, queries) = site(|others| {
            others.does.lock().extend([(2, does), (3, does)]);
        });
        let (node, answer) = queries.ask(&query(false), Whom::Any).await.unwrap();
        assert_eq!((node, answer.status), (4, 200), "{does:?}");
        let asked = others.asked.lock();
        let (_, last) = asked.back().unwrap();
        let waited = if does == Does::Hang(short) {
            1000 * (asked.len() - 1)
        } else {
            0
        };
        let waited = u32::try_from(waited).unwrap();
        assert_eq!(last.waited_ms, waited);
        assert_eq!(last.time_left_ms, 10_000 - waited);
    }
    // What a member answers otherwise is the answer.
    for status in [200, 400, 404, 500, 504] {
        let (others, queries) = site(|others| {
            let does = (2..=4).map(|node| (node, Does::Answer(status)));
            others.does.lock().extend(does);
        });
        let (_, answer) = queries.ask(&query(false), Whom::Any).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(others.who_was_asked().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_may_have_been_done_is_not_asked_of_another_one() {
    let all = |does| {
        site(move |others: &mut Others| {
            let does = (2..=4).map(|node| (node, does));
            others.does.lock().extend(does);
        })
    };
    let (others, queries) = all(Does::Lose);
    let unknown = queries.ask(&query(true), Whom::Any).await.unwrap_err();
    assert!(matches!(unknown, Unanswered::Unknown(_)), "{unknown}");
    assert_eq!(others.who_was_asked().len(), 1);
    for does in [Does::Stay, Does::Refuse] {
        let (others, queries) = all(does);
        let nobody = queries.ask(&query(true), Whom::Any).await.unwrap_err();
        assert!(matches!(nobody, Unanswered::Nobody(_)), "{nobody}");
        assert_eq!(others.who_was_asked().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn without_anybody_it_is_said_why() {
    let (others, queries) = site(|others| others.old = vec![2, 3, 4]);
    let nobody = queries.ask(&query(false), Whom::Any).await.unwrap_err();
    assert!(nobody.to_string().contains("role `query`"), "{nobody}");
    assert!(others.who_was_asked().is_empty());
    // A member's own words are worth more than that others cannot be asked.
    let (_, queries) = site(|others| {
        let does = [(2, Does::Stay), (3, Does::Answer(503)), (4, Does::Lose)];
        others.does.lock().extend(does);
    });
    let (node, answer) = queries.ask(&query(false), Whom::Any).await.unwrap();
    assert_eq!((node, answer.status), (3, 503));
    // The time is up.
    let (_, queries) = site(|others| {
        let long = Duration::from_secs(60);
        others
            .does
            .lock()
            .extend((2..=4).map(|node| (node, Does::Hang(long))));
    });
    let late = queries.ask(&query(false), Whom::Any).await.unwrap_err();
    assert!(matches!(late, Unanswered::Late(_)), "{late}");
}

#[tokio::test(start_paused = true)]
async fn who_is_named_is_asked_next_and_who_is_wanted_alone_and_no_other() {
    let (others, queries) = site(|others| {
        let does = (2..=4).map(|node| (node, Does::Name(5)));
        others.does.lock().extend(does);
    });
    let (node, _) = queries.ask(&query(false), Whom::Any).await.unwrap();
    assert_eq!(node, 5);
    assert_eq!(others.who_was_asked().len(), 2);
    let (node, _) = queries.ask(&query(false), Whom::First(5)).await.unwrap();
    assert_eq!((node, others.who_was_asked()), (5, vec![5]));
    others.does.lock().insert(4, Does::Stay);
    let nobody = queries.ask(&query(false), Whom::Only(4)).await.unwrap_err();
    assert!(matches!(nobody, Unanswered::Nobody(_)), "{nobody}");
    assert_eq!(others.who_was_asked(), [4]);
    let stranger = queries.ask(&query(false), Whom::Only(9)).await.unwrap_err();
    assert_eq!(stranger, Unanswered::NoMember(9));
}

#[tokio::test(start_paused = true)]
async fn so_many_are_on_their_way_and_one_more_is_refused_at_once() {
    let (_, queries) = site(|others| {
        let long = Duration::from_secs(60);
        others
            .does
            .lock()
            .extend((2..=4).map(|node| (node, Does::Hang(long))));
    });
    let hung = query(false);
    let first = queries.ask(&hung, Whom::Any);
    let second = queries.ask(&hung, Whom::Any);
    let third = async {
        tokio::task::yield_now().await;
        queries.ask(&hung, Whom::Any).await
    };
    let (_, _, third) = tokio::join!(first, second, third);
    assert_eq!(third.unwrap_err(), Unanswered::Busy);
    let (others, queries) = site(|_| ());
    queries.ask(&query(false), Whom::Any).await.unwrap();
    assert_eq!(others.who_was_asked().len(), 1);
}

/// Answers with what it was asked.
#[derive(Debug)]
struct Echo;

impl Desk for Echo {
    fn answer(&self, question: QueryQuestion) -> BoxFuture<'static, Result<QueryAnswer, String>> {
        let answer = QueryAnswer {
            status: 200,
            headers: Vec::new(),
            body: question.target.into(),
        };
        Box::pin(std::future::ready(Ok(answer)))
    }
}

#[tokio::test]
async fn others_are_answered_while_there_is_a_desk_and_never_too_long() {
    let (_, queries) = site(|_| ());
    let ask = async |target: String| {
        let question = QueryQuestion {
            posts: false,
            target,
            headers: Vec::new(),
            waited_ms: 0,
            time_left_ms: 1000,
        };
        let request = wire::housekeeping(&question).unwrap();
        let message = queries.receive(&request).await?;
        Ok::<_, String>(wire::read_query_answer(&message).unwrap())
    };
    assert!(ask("/a".to_owned()).await.is_err());
    let desk: Arc<dyn Desk> = Arc::new(Echo);
    queries.open(Arc::downgrade(&desk));
    assert_eq!(ask("/a".to_owned()).await.unwrap().body, "/a");
    let long = ask("x".repeat(2000)).await.unwrap_err();
    assert!(long.contains("max_message_bytes"), "{long}");
    drop(desk);
    assert!(ask("/a".to_owned()).await.is_err());
}
