//! One connection: what is on its way in either direction, and how it ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use phalanx::cluster::NodeId;
use phalanx::cluster::transport::{CallKind, Calls, Frame, Lane, Outgoing, Services, Tag};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::network::Network;

/// How often a connection that stalls looks whether it still does.
const LOOK: Duration = Duration::from_millis(5);
/// How often an idle one does.
const IDLE_LOOK: Duration = Duration::from_millis(100);
/// The latest that a copy of a request arrives after it, in milliseconds.
const LATEST_COPY_MS: u64 = 900;

/// See the file's description.
pub(crate) struct Connection<'a> {
    net: &'a Arc<Network>,
    from: (NodeId, u64),
    to: (NodeId, u64),
    lane: Lane,
    calls: &'a Arc<Calls>,
    services: Services,
    requests: VecDeque<(Instant, Frame)>,
    answers: VecDeque<(Instant, Frame)>,
    stalls_since: Option<Instant>,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(
        net: &'a Arc<Network>,
        from: (NodeId, u64),
        to: (NodeId, u64),
        lane: Lane,
        calls: &'a Arc<Calls>,
        services: Services,
    ) -> Self {
        Self {
            net,
            from,
            to,
            lane,
            calls,
            services,
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            stalls_since: None,
        }
    }

    /// Carries messages until the connection ends; says why it did.
    pub(crate) async fn run(mut self, mut outgoing: Outgoing) -> String {
        let (send_answer, mut answered) = mpsc::unbounded_channel();
        let patience = Duration::from_millis(
            self.net.options.keepalive_interval_ms + self.net.options.keepalive_timeout_ms,
        );
        loop {
            let wake = self.wake();
            let (mut request, mut answer) = (None, None);
            tokio::select! {
                biased;
                frame = outgoing.next() => match frame {
                    Some(Ok(frame)) => request = Some(frame),
                    Some(Err(_)) | None => return "the caller is gone".to_owned(),
                },
                Some(sent) = answered.recv() => answer = Some(sent),
                () = tokio::time::sleep_until(wake) => {}
            }
            // What a node says after its crash was never said; what it said before is on its way.
            if !self.net.is_life(self.from) {
                self.last_words();
                return "the caller crashed".to_owned();
            }
            if let Some(frame) = request {
                enqueue(&mut self.requests, self.net, frame);
            }
            let gone = !self.net.is_life(self.to);
            if let Some((kind, frame)) = answer
                && !gone
            {
                self.net.answers(self.to.0, kind, self.from.0);
                enqueue(&mut self.answers, self.net, frame);
            }
            let there = !gone && self.net.passes(self.from.0, self.to.0);
            let back = self.net.passes(self.to.0, self.from.0);
            if gone && back && self.answers.is_empty() && !self.net.died_silently(self.to.0) {
                return "reset".to_owned();
            }
            let now = Instant::now();
            if there && back {
                self.stalls_since = None;
            } else if now - *self.stalls_since.get_or_insert(now) > patience {
                return "no sign of life".to_owned();
            }
            let held = self.net.is_held(self.from.0, self.to.0, self.lane);
            while there
                && !held
                && let Some(frame) = due(&mut self.requests, now)
            {
                if self.net.breaks() {
                    return "broken on the way there".to_owned();
                }
                self.deliver(frame, &send_answer);
            }
            while back && let Some(frame) = due(&mut self.answers, now) {
                if self.net.breaks() {
                    return "broken on the way back".to_owned();
                }
                self.calls.answered(frame);
            }
        }
    }

    fn wake(&self) -> Instant {
        let now = Instant::now();
        let first = |queue: &VecDeque<(Instant, Frame)>| queue.front().map(|(at, _)| *at);
        let next = [first(&self.requests), first(&self.answers)]
            .into_iter()
            .flatten()
            .min();
        match next {
            Some(at) if at > now => at.min(now + IDLE_LOOK),
            Some(_) => now + LOOK,
            None => now + IDLE_LOOK,
        }
    }

    fn deliver(&self, frame: Frame, answers: &Answers) {
        let way = (self.from.0, self.to, self.lane);
        deliver(self.net, way, &self.services, frame, answers);
    }

    /// Lets the requests of a node that crashed arrive as if it had not.
    fn last_words(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        let (net, services) = (Arc::clone(self.net), self.services.clone());
        let way = (self.from.0, self.to, self.lane);
        tokio::spawn(async move {
            let (nobody, _) = mpsc::unbounded_channel();
            for (at, frame) in requests {
                tokio::time::sleep_until(at).await;
                if !net.is_life(way.1) || !net.passes(way.0, way.1.0) {
                    return;
                }
                deliver(&net, way, &services, frame, &nobody);
            }
        });
    }
}

/// Answers of a service, on their way to the connection.
type Answers = mpsc::UnboundedSender<(CallKind, Frame)>;

/// Hands a request to its service, and now and then a copy of it later on.
fn deliver(
    net: &Arc<Network>,
    (from, to, lane): (NodeId, (NodeId, u64), Lane),
    services: &Services,
    frame: Frame,
    answers: &Answers,
) {
    let Some(kind) = CallKind::from_byte(frame.kind) else {
        return;
    };
    net.trace.note(&format!(
        "{from}>{} {lane:?} {kind:?} {} {:08x}",
        to.0,
        frame.payload.len(),
        crc32c::crc32c(&frame.payload)
    ));
    // Raft must bear a message that comes twice. The others never see one: TCP does not repeat.
    if kind.is_raft() && net.repeats() {
        let (net, frame) = (Arc::clone(net), frame.clone());
        tokio::spawn(async move { copy(&net, from, to, kind, frame).await });
    }
    let service = if kind.is_raft() {
        &services.raft
    } else {
        &services.command
    };
    let answer = service.handle(from, kind, frame.payload);
    let timeout = Duration::from_millis(u64::from(frame.timeout_ms));
    let answers = answers.clone();
    tokio::spawn(async move {
        let frame = match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(payload)) => Frame::plain(Tag::Answer, frame.id, payload),
            Ok(Err(reason)) => Frame::plain(Tag::Failure, frame.id, reason),
            Err(_) => return,
        };
        let _ended = answers.send((kind, frame));
    });
}

/// Delivers a request once more, late; nobody waits for the answer.
async fn copy(net: &Arc<Network>, from: NodeId, to: (NodeId, u64), kind: CallKind, frame: Frame) {
    tokio::time::sleep(net.dice.millis(1, LATEST_COPY_MS)).await;
    let Some((life, services)) = net.answering(to.0) else {
        return;
    };
    if life != to.1 || !net.passes(from, to.0) {
        return;
    }
    net.trace.note(&format!("{from}>{} {kind:?} again", to.0));
    let answer = services.raft.handle(from, kind, frame.payload);
    let _nobody = tokio::time::timeout(Duration::from_secs(5), answer).await;
}

/// Puts a message on its way, behind those before it.
fn enqueue(queue: &mut VecDeque<(Instant, Frame)>, net: &Network, frame: Frame) {
    let arrives = Instant::now() + net.delay();
    let before = queue.back().map_or(arrives, |(at, _)| *at);
    queue.push_back((arrives.max(before), frame));
}

fn due(queue: &mut VecDeque<(Instant, Frame)>, now: Instant) -> Option<Frame> {
    if queue.front()?.0 > now {
        return None;
    }
    queue.pop_front().map(|(_, frame)| frame)
}
