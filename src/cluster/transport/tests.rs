//! Two transports over real sockets.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::*;
use crate::cluster::roster::Contact;
use crate::test_ports as ports;

mod abuse;
mod secured;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

fn options() -> TransportOptions {
    TransportOptions {
        connect_timeout: Duration::from_millis(500),
        reconnect_max: Duration::from_millis(100),
        keepalive_interval: Duration::from_millis(500),
        // A busy machine is no reason to give a connection up.
        keepalive_timeout: Duration::from_secs(10),
        calls_in_flight: 64,
        max_message_bytes: 8 << 20,
    }
}

/// Answers with what it was asked, in the order of calls; `Past` never answers, `Status` refuses,
/// `History` takes a moment, and `Read` and `Transfer` take until they may.
#[derive(Debug)]
struct Echo {
    seen: Mutex<Vec<u8>>,
    calls: AtomicU64,
    /// Whether `Read` and `Transfer` may end.
    may_end: watch::Sender<bool>,
    /// Those that ended, and whether they came to their end.
    ended: Arc<Mutex<Vec<(CallKind, bool)>>>,
}

impl Default for Echo {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            calls: AtomicU64::default(),
            may_end: watch::Sender::new(false),
            ended: Arc::default(),
        }
    }
}

/// Notes how a call ended, also if it is dropped.
struct Ending {
    kind: CallKind,
    whole: bool,
    ended: Arc<Mutex<Vec<(CallKind, bool)>>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.ended.lock().push((self.kind, self.whole));
    }
}

impl Service for Echo {
    fn handle(
        &self,
        from: NodeId,
        kind: CallKind,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(first) = request.first() {
            self.seen.lock().push(*first);
        }
        match kind {
            CallKind::Past => Box::pin(std::future::pending()),
            CallKind::Status => Box::pin(async move { Err(format!("node {from} may not")) }),
            CallKind::History => Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(request)
            }),
            CallKind::Read | CallKind::Transfer => {
                let mut may_end = self.may_end.subscribe();
                let ending = Ending {
                    kind,
                    whole: false,
                    ended: Arc::clone(&self.ended),
                };
                Box::pin(async move {
                    // As a whole, so that it is dropped with the call.
                    let mut ending = ending;
                    may_end.wait_for(|may| *may).await.unwrap();
                    ending.whole = true;
                    Ok(request)
                })
            }
            _ => Box::pin(async move { Ok(request) }),
        }
    }
}

struct Side {
    transport: Transport,
    echo: Arc<Echo>,
    server: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Side {
    fn drop_server(&self) {
        self.server.abort();
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind(ports::free_address()).await.unwrap()
}

fn side(
    node: NodeId,
    listener: TcpListener,
    peer: (NodeId, String),
    change: impl FnOnce(&mut TransportIdentity),
) -> Side {
    let dir = tempfile::tempdir().unwrap();
    let mut who = TransportIdentity {
        node,
        cluster: "phalanx".to_owned(),
        shards: 8,
        incarnation: Uuid::from_u128(u128::from(node)),
        process: rand::random_range(1..=u64::MAX),
        data_dir: dir.path().to_owned(),
        contacts: contacts([peer]),
        security: Security::Plaintext,
    };
    change(&mut who);
    let transport = Transport::start(who, options()).unwrap();
    let echo = Arc::<Echo>::default();
    let services = Services {
        raft: Arc::clone(&echo) as Arc<dyn Service>,
        command: Arc::clone(&echo) as Arc<dyn Service>,
    };
    let server = tokio::spawn(transport.clone().serve(listener, services));
    Side {
        transport,
        echo,
        server,
        _dir: dir,
    }
}

fn contacts(peers: impl IntoIterator<Item = (NodeId, String)>) -> Contacts {
    let contact = |(id, address)| {
        let incarnation = None;
        (
            id,
            Contact {
                address,
                incarnation,
            },
        )
    };
    Contacts {
        peers: peers.into_iter().map(contact).collect(),
        ..Contacts::default()
    }
}

async fn pair(change: impl FnOnce(&mut TransportIdentity)) -> (Side, Side) {
    let (a, b) = (listener().await, listener().await);
    let (at, bt) = (
        a.local_addr().unwrap().to_string(),
        b.local_addr().unwrap().to_string(),
    );
    (side(1, a, (2, bt), |_| ()), side(2, b, (1, at), change))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

async fn connected(side: &Side, peer: NodeId) {
    until("connected", || {
        side.transport.peer_state(peer) == Some(PeerState::Connected)
    })
    .await;
}

/// Ends the second of a pair, and waits until the first has noticed.
async fn gone(one: &Side, two: Side) {
    two.drop_server();
    drop(two);
    until("gone", || {
        one.transport.peer_state(2) != Some(PeerState::Connected)
    })
    .await;
}

fn refused(side: &Side, peer: NodeId) -> Option<String> {
    match side.transport.peer_state(peer) {
        Some(PeerState::Refused(reason)) => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn calls_are_answered_refused_and_timed_out() {
    let (one, two) = pair(|_| ()).await;
    connected(&one, 2).await;
    connected(&two, 1).await;
    let ask = |kind, bytes: &'static [u8], timeout| {
        let request = Bytes::from_static(bytes);
        one.transport.call(2, Lane::Command, kind, request, timeout)
    };
    assert_eq!(
        ask(CallKind::Command, b"hello", LONG).await.unwrap(),
        "hello"
    );
    let refused = ask(CallKind::Status, b"x", LONG).await.unwrap_err();
    assert_eq!(refused, CallError::Refused("node 1 may not".to_owned()));
    let late = ask(CallKind::Past, b"x", Duration::from_millis(50)).await;
    assert!(matches!(late, Err(CallError::Unknown { to: 2, .. })));
    assert_eq!(one.transport.peers(), [2]);
    assert_eq!(two.transport.incarnation_of(1), Some(Uuid::from_u128(1)));
}

#[tokio::test]
async fn whoever_says_half_a_greeting_or_nothing_more_is_not_kept() {
    let (a, b) = pair(|_| ()).await;
    connected(&a, 2).await;
    let address = a.transport.address_of(2).unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // Half of it; all of it with settings, after which nothing is asked for.
    let whole = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0][..]].concat();
    for said in [&preface[..9], &whole[..]] {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(said).await.unwrap();
        let end = tokio::time::timeout(LONG, async {
            let mut bytes = [0; 1024];
            while socket.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
        });
        assert!(end.await.is_ok(), "{said:?} is kept open");
    }
    // A peer is.
    let called = a
        .transport
        .call(2, Lane::Raft, CallKind::Vote, Bytes::new(), LONG);
    called.await.unwrap();
    drop(b);
}

#[tokio::test]
async fn calls_of_one_lane_arrive_in_the_order_in_which_they_were_begun() {
    let (one, two) = pair(|_| ()).await;
    connected(&one, 2).await;
    let begun: Vec<Pending> = (0..64_u8)
        .map(|n| {
            let request = Bytes::from(vec![n; 2000]);
            one.transport
                .begin(2, Lane::Raft, CallKind::Append, request, LONG)
                .unwrap()
        })
        .collect();
    let full = one
        .transport
        .begin(2, Lane::Raft, CallKind::Append, Bytes::new(), SECOND);
    assert!(matches!(full, Err(CallError::NotSent { .. })), "bounded");
    for pending in begun {
        pending.answer().await.unwrap();
    }
    assert_eq!(*two.echo.seen.lock(), (0..64).collect::<Vec<u8>>());
}

#[tokio::test]
async fn whoever_opens_another_connection_is_not_listened_to_on_the_one_before() {
    let (a, b) = pair(|_| ()).await;
    connected(&a, 2).await;
    assert_eq!(echoed(&a, 1).await, Ok(Bytes::from_static(&[1])));
    // The same process once more: its lines are newer.
    let address = a.transport.address_of(2).unwrap();
    let process = a.transport.0.identity.twins.me();
    let again = side(1, listener().await, (2, address), |who| {
        who.process = process;
    });
    connected(&again, 2).await;
    assert_eq!(echoed(&again, 2).await, Ok(Bytes::from_static(&[2])));
    let late = echoed(&a, 3).await;
    assert!(matches!(late, Err(CallError::Unknown { .. })), "{late:?}");
    assert_eq!(*b.echo.seen.lock(), [1, 2]);
}

fn is_told_of_a_twin(side: &Side) -> bool {
    side.transport.0.identity.twins.is_told()
}

#[tokio::test]
async fn a_second_process_of_a_node_waits_until_the_first_is_gone() {
    let (one, two) = pair(|_| ()).await;
    connected(&one, 2).await;
    connected(&two, 1).await;
    let (first, second) = (
        two.transport.address_of(1).unwrap(),
        one.transport.address_of(2).unwrap(),
    );
    // Started on a copy of the data directory of node 2: all is the same but the process.
    let twin = side(2, listener().await, (1, first.clone()), |_| ());
    until("it is told", || is_told_of_a_twin(&twin)).await;
    let waits = echoed_by(&twin, 1, 7).await;
    assert!(matches!(waits, Err(CallError::NotSent { .. })), "{waits:?}");
    let state = twin.transport.peer_state(1);
    assert_ne!(state, Some(PeerState::Connected));
    // The first is not disturbed, in neither direction.
    assert_eq!(echoed_by(&two, 1, 1).await, Ok(Bytes::from_static(&[1])));
    assert_eq!(echoed(&one, 2).await, Ok(Bytes::from_static(&[2])));
    assert!(!is_told_of_a_twin(&two) && !is_told_of_a_twin(&one));
    assert_eq!(*one.echo.seen.lock(), [1]);
    assert_eq!(twin.echo.calls.load(Ordering::Relaxed), 0);
    // As after a restart: the process before is gone.
    drop(twin);
    gone(&one, two).await;
    let listener = TcpListener::bind(&second).await.unwrap();
    let next = side(2, listener, (1, first), |_| ());
    connected(&one, 2).await;
    connected(&next, 1).await;
    until("no lane is refused any more", || !is_told_of_a_twin(&next)).await;
    assert_eq!(echoed_by(&next, 1, 3).await, Ok(Bytes::from_static(&[3])));
}

async fn echoed_by(side: &Side, to: NodeId, byte: u8) -> Result<Bytes, CallError> {
    let request = Bytes::from(vec![byte]);
    side.transport
        .call(to, Lane::Command, CallKind::Command, request, LONG)
        .await
}

async fn echoed(side: &Side, byte: u8) -> Result<Bytes, CallError> {
    echoed_by(side, 2, byte).await
}

#[tokio::test]
async fn a_large_message_passes_and_a_larger_one_is_refused_before_it_leaves() {
    let (one, _two) = pair(|_| ()).await;
    connected(&one, 2).await;
    let large = Bytes::from(vec![7; 5 << 20]);
    let ask = |bytes: Bytes| {
        one.transport
            .call(2, Lane::Bulk, CallKind::History, bytes, LONG)
    };
    assert_eq!(ask(large.clone()).await.unwrap(), large);
    let too_large = ask(Bytes::from(vec![7; 8 << 20])).await.unwrap_err();
    assert!(
        too_large.to_string().contains("max_message_bytes"),
        "{too_large}"
    );
}

#[tokio::test]
async fn a_lost_peer_is_noticed_and_reached_again() {
    let (one, two) = pair(|_| ()).await;
    connected(&one, 2).await;
    let address = one.transport.address_of(2).unwrap();
    let request = Bytes::from_static(b"x");
    let waiting = one
        .transport
        .begin(2, Lane::Command, CallKind::Past, request, LONG)
        .unwrap();
    until("it arrived", || two.echo.calls.load(Ordering::Relaxed) > 0).await;
    two.drop_server();
    assert!(matches!(
        waiting.answer().await,
        Err(CallError::Unknown { .. })
    ));
    until("unreachable", || {
        matches!(
            one.transport.peer_state(2),
            Some(PeerState::Unreachable { .. })
        )
    })
    .await;
    let listener = TcpListener::bind(&address).await.unwrap();
    let services = Services {
        raft: Arc::clone(&two.echo) as Arc<dyn Service>,
        command: Arc::clone(&two.echo) as Arc<dyn Service>,
    };
    let back = Instant::now();
    let server = tokio::spawn(two.transport.clone().serve(listener, services));
    connected(&one, 2).await;
    // Attempts go on at a short distance.
    assert!(back.elapsed() < 5 * SECOND, "{:?}", back.elapsed());
    server.abort();
}

/// A drain that was begun goes on though whoever asked for it is gone. What is brief is part of its
/// connection, and its asker knows no more than that it may have been done.
#[tokio::test]
async fn what_runs_on_its_own_outlives_its_connection_and_what_is_brief_does_not() {
    let (one, two) = pair(|_| ()).await;
    connected(&one, 2).await;
    let begun = [CallKind::Read, CallKind::Transfer].map(|kind| {
        let call = one
            .transport
            .begin(2, Lane::Command, kind, Bytes::new(), LONG);
        call.unwrap()
    });
    until("both arrived", || {
        two.echo.calls.load(Ordering::Relaxed) == 2
    })
    .await;
    two.drop_server();
    for call in begun {
        assert!(matches!(
            call.answer().await,
            Err(CallError::Unknown { .. })
        ));
    }
    until("the brief one is dropped", || {
        !two.echo.ended.lock().is_empty()
    })
    .await;
    assert_eq!(*two.echo.ended.lock(), [(CallKind::Read, false)]);
    two.echo.may_end.send_replace(true);
    until("the other one ends", || two.echo.ended.lock().len() == 2).await;
    assert_eq!(two.echo.ended.lock()[1], (CallKind::Transfer, true));
}

#[tokio::test]
async fn whoever_does_not_fit_is_refused_on_both_sides() {
    let (one, two) = pair(|who| who.cluster = "other".to_owned()).await;
    for (side, peer) in [(&one, 2), (&two, 1)] {
        until("refused", || refused(side, peer).is_some()).await;
        let reason = refused(side, peer).unwrap();
        assert!(reason.contains("cluster.name"), "{reason}");
    }
    assert_eq!(one.echo.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_wiped_disk_under_an_old_id_is_refused_and_told_what_to_do() {
    let (one, two) = pair(|_| ()).await;
    connected(&one, 2).await;
    connected(&two, 1).await;
    let address = one.transport.address_of(2).unwrap();
    let peer = (1, two.transport.address_of(1).unwrap());
    gone(&one, two).await;
    let listener = TcpListener::bind(&address).await.unwrap();
    let wiped = side(2, listener, peer, |who| {
        who.incarnation = Uuid::from_u128(99)
    });
    for (side, peer) in [(&one, 2), (&wiped, 1)] {
        until("refused", || refused(side, peer).is_some()).await;
        let reason = refused(side, peer).unwrap();
        assert!(reason.contains("new node.id"), "{reason}");
    }
    assert_eq!(wiped.echo.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_removed_peer_is_cut_off_in_the_midst_of_a_connection_and_told() {
    let (one, two) = pair(|_| ()).await;
    connected(&one, 2).await;
    connected(&two, 1).await;
    let ask = |side: &Side, to: NodeId| {
        let request = Bytes::from_static(b"x");
        let transport = side.transport.clone();
        async move {
            transport
                .call(to, Lane::Raft, CallKind::Vote, request, SECOND)
                .await
        }
    };
    ask(&two, 1).await.unwrap();
    let before = one.echo.calls.load(Ordering::Relaxed);
    one.transport.follow(&Contacts {
        removed: [2].into(),
        ..Contacts::default()
    });
    assert_eq!(one.transport.peer_state(2), None);
    let refused_here = ask(&one, 2).await.unwrap_err();
    assert!(matches!(refused_here, CallError::NotSent { .. }));
    // Its connection is still open; nothing that it sends there is answered.
    let cut = ask(&two, 1).await.unwrap_err();
    assert!(!matches!(cut, CallError::Refused(_)), "{cut}");
    until("it is told", || two.transport.is_cast_out()).await;
    until("it knows why", || {
        refused(&two, 1).is_some_and(|reason| reason.contains("was removed from the cluster"))
    })
    .await;
    assert_eq!(one.echo.calls.load(Ordering::Relaxed), before);
    assert!(!one.transport.is_cast_out());
}

#[tokio::test]
async fn a_peer_that_is_added_later_is_connected_to_in_both_directions() {
    let (one, two) = pair(|_| ()).await;
    connected(&one, 2).await;
    let three = listener().await;
    let address = three.local_addr().unwrap().to_string();
    let first = two.transport.address_of(1).unwrap();
    let three = side(3, three, (1, first), |_| ());
    until("a stranger is refused", || {
        refused(&three, 1).is_some_and(|reason| reason.contains("let it join"))
    })
    .await;
    let mut all = contacts([(2, one.transport.address_of(2).unwrap()), (3, address)]);
    // What it has announced to the cluster counts as much as a first contact.
    let announced = Uuid::from_u128(3);
    all.peers.get_mut(&3).unwrap().incarnation = Some(announced);
    one.transport.follow(&all);
    assert_eq!(one.transport.incarnation_of(3), Some(announced));
    connected(&one, 3).await;
    connected(&three, 1).await;
    connected(&one, 2).await;
    assert!(!three.transport.is_cast_out());
}
