//! Whoever abuses the port of members: crowds, words without end, and members that do not read.

use std::convert::Infallible;

use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::Streaming;

use super::*;
use crate::cluster::frame::FrameDecoder;
use crate::cluster::strangers::MOST;

/// Far beyond what a test takes: nobody is sent away because time is up.
const PATIENT: Duration = Duration::from_secs(60);

/// A server that waits long for first words.
async fn patient() -> (Transport, String, Arc<Echo>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let listener = listener().await;
    let address = listener.local_addr().unwrap().to_string();
    let who = TransportIdentity {
        node: 1,
        cluster: "phalanx".to_owned(),
        shards: 8,
        incarnation: Uuid::from_u128(1),
        process: rand::random_range(1..=u64::MAX),
        data_dir: dir.path().to_owned(),
        // Nobody listens there.
        contacts: contacts([(2, "127.0.0.1:1".to_owned())]),
        security: Security::Plaintext,
    };
    let options = TransportOptions {
        connect_timeout: PATIENT,
        ..options()
    };
    let transport = Transport::start(who, options).unwrap();
    let echo = Arc::<Echo>::default();
    let services = Services {
        raft: Arc::clone(&echo) as Arc<dyn Service>,
        command: Arc::clone(&echo) as Arc<dyn Service>,
    };
    tokio::spawn(transport.clone().serve(listener, services));
    (transport, address, echo, dir)
}

/// A message of gRPC.
fn message(frame: &Frame) -> Bytes {
    let bytes = crate::cluster::frame::tests::encoded(frame);
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &bytes].concat().into()
}

/// Opens the stream of a connection by hand and sends what is given.
async fn exchange(
    address: &str,
    window: u32,
    sent: impl Stream<Item = Bytes> + Send + 'static,
) -> Streaming<Frame> {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    let body =
        StreamBody::new(sent.map(|bytes| Ok::<_, Infallible>(hyper::body::Frame::data(bytes))));
    let request = http::Request::post(format!("http://phalanx{PATH}"))
        .body(body.boxed_unsync())
        .unwrap();
    let response: http::Response<Incoming> = sender.send_request(request).await.unwrap();
    let status = response.status();
    Streaming::new_response(FrameDecoder, response.into_body(), status, None, None)
}

#[tokio::test]
async fn a_crowd_of_strangers_is_bounded_and_keeps_no_member_out() {
    let (server, address, _echo, _dir) = patient().await;
    let mut crowd = Vec::new();
    for _ in 0..MOST + 40 {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    // Who came first had to go, and nobody else.
    for early in &mut crowd[..40] {
        let end = tokio::time::timeout(LONG, early.read(&mut [0; 8])).await;
        assert!(matches!(end.unwrap(), Ok(0) | Err(_)));
    }
    assert!(crowd.last().unwrap().try_read(&mut [0; 8]).is_err());
    let member = side(2, listener().await, (1, address.clone()), |_| ());
    connected(&member, 1).await;
    // It is no stranger any more, so a newer crowd does not cost it anything.
    for _ in 0..2 * MOST {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    let last = crowd.len() - MOST - 1;
    let end = tokio::time::timeout(LONG, crowd[last].read(&mut [0; 8])).await;
    assert!(matches!(end.unwrap(), Ok(0) | Err(_)));
    let request = Bytes::from_static(b"x");
    let answer = member
        .transport
        .call(1, Lane::Command, CallKind::Command, request, LONG);
    assert_eq!(answer.await.unwrap(), "x");
    drop(server);
}

#[tokio::test]
async fn first_words_without_end_are_refused_and_not_kept() {
    let (_server, address, _echo, _dir) = patient().await;
    // A message that may be as long as any, and that never ends.
    let length = u32::try_from(8 << 20).map(u32::to_be_bytes).unwrap();
    let head = Bytes::from([&[0][..], &length].concat());
    let piece = Bytes::from_static(&[1; 64 * 1024]);
    let sent = stream::iter([head, piece]).chain(stream::pending());
    let mut frames = exchange(&address, 1 << 20, sent).await;
    let first = tokio::time::timeout(LONG, frames.message()).await;
    let said = first.expect("it is refused").unwrap().unwrap();
    assert_eq!(said.tag, Tag::Refusal);
    let text = String::from_utf8(said.payload.to_vec()).unwrap();
    assert!(text.contains("first words are longer than"), "{text}");
}

#[tokio::test]
async fn a_member_that_does_not_read_its_answers_is_not_answered_without_end() {
    const CALLS: u64 = 2000;
    let (_server, address, echo, _dir) = patient().await;
    let hello = crate::cluster::handshake::tests::hello_of(2, 1);
    let hello = message(&Frame::plain(Tag::Hello, 0, hello));
    let call = |id| {
        message(&Frame {
            tag: Tag::Request,
            id,
            // Answered, but not at once.
            kind: CallKind::History as u8,
            timeout_ms: 60_000,
            payload: Bytes::from(vec![0; 64 * 1024]),
        })
    };
    // The welcome is read before the calls are sent, and nothing after it.
    let (go, welcomed) = tokio::sync::oneshot::channel::<()>();
    let calls = stream::once(welcomed).flat_map(move |_| stream::iter((1..=CALLS).map(call)));
    let sent = stream::iter([hello]).chain(calls).chain(stream::pending());
    let mut frames = exchange(&address, 64 * 1024, sent).await;
    let welcome = frames.message().await.unwrap().unwrap();
    assert_eq!(welcome.tag, Tag::Welcome);
    go.send(()).unwrap();
    let begun = || echo.calls.load(Ordering::Relaxed);
    let all = tokio::time::timeout(3 * SECOND, async {
        while begun() < CALLS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(all.await.is_err(), "all calls were carried out and kept");
    assert!(begun() > 0 && begun() < CALLS / 2, "{}", begun());
}
