//! Raft's messages as they travel between nodes.
//!
//! Owns their bytes; openraft's own encodings appear nowhere. Refuses what it cannot read exactly.
//! Invariant: records travel as they were sealed, so every replica stores the same bytes, and each
//! is checked when it is read here.
//!
//! ```text
//! append:  shard u32 LE | count u32 LE | head (bincode) | entry ...
//! entry:   term u64 LE | index u64 LE | records u32 LE, or OTHER | (length u32 LE, bytes) ...
//! others:  shard u32 LE | bincode
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use phalanx_actors::codec::{self, CodecError};
use phalanx_actors::names::ShardId;
use phalanx_actors::record::Record;
use serde::{Deserialize, Serialize};

use super::types::{
    self, CommandBatch, NodeId, RaftEntry, RaftLogId, RaftVote, StoredLogId, StoredVote, TypeConfig,
};

/// In place of the number of records: one sealed payload that is no batch of commands.
const OTHER: u32 = u32::MAX;
/// Bytes of an entry before its records.
const ENTRY_HEAD: usize = 20;

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: StoredVote,
    prev: Option<StoredLogId>,
    commit: Option<StoredLogId>,
}

/// How an append ended.
#[derive(Serialize, Deserialize)]
enum AppendAnswer {
    Success,
    Partial(Option<StoredLogId>),
    Conflict,
    HigherVote(StoredVote),
}

#[derive(Serialize, Deserialize)]
struct VoteAsk {
    vote: StoredVote,
    last: Option<StoredLogId>,
    transfer: bool,
}

#[derive(Serialize, Deserialize)]
struct VoteAnswer {
    vote: StoredVote,
    granted: bool,
    last: Option<StoredLogId>,
}

#[derive(Serialize, Deserialize)]
struct TakeOverAsk {
    from: StoredVote,
    to: NodeId,
    last: Option<StoredLogId>,
}

fn cut_short() -> CodecError {
    CodecError::Decode(bincode::error::DecodeError::Other("a message is cut short"))
}

/// Reads which shard a message is for.
pub(crate) fn take_shard(message: &mut Bytes) -> Result<ShardId, CodecError> {
    message.try_get_u32_le().map_err(|_| cut_short())
}

fn for_shard<T: Serialize>(shard: ShardId, value: &T) -> Result<Bytes, CodecError> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&shard.to_le_bytes());
    codec::append(&mut out, value)?;
    Ok(out.into())
}

fn reply<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    Ok(codec::to_bytes(value)?.into())
}

/// The bytes of an append, and of its entries alone.
pub(crate) fn append_to_bytes(
    shard: ShardId,
    request: &AppendEntriesRequest<TypeConfig>,
) -> Result<(Bytes, usize), CodecError> {
    let head = codec::to_bytes(&AppendHead {
        vote: (&request.vote).into(),
        prev: request.prev_log_id.map(Into::into),
        commit: request.leader_commit.map(Into::into),
    })?;
    let entries: usize = request.entries.iter().map(entry_len).sum();
    let mut out = BytesMut::with_capacity(8 + head.len() + entries);
    out.put_u32_le(shard);
    out.put_u32_le(length(request.entries.len())?);
    out.put_slice(&head);
    for entry in &request.entries {
        put_entry(&mut out, entry)?;
    }
    Ok((out.freeze(), entries))
}

/// About: payloads without commands are rare and small.
fn entry_len(entry: &RaftEntry) -> usize {
    let records = match &entry.payload {
        EntryPayload::Normal(batch) => batch.records.iter().map(|r| 4 + r.bytes.len()).sum(),
        _ => 128,
    };
    ENTRY_HEAD + records
}

fn put_entry(out: &mut BytesMut, entry: &RaftEntry) -> Result<(), CodecError> {
    let log_id = entry.log_id();
    out.put_u64_le(**log_id.committed_leader_id());
    out.put_u64_le(log_id.index());
    if let EntryPayload::Normal(batch) = &entry.payload {
        out.put_u32_le(length(batch.records.len())?);
        for record in batch.records.iter() {
            put_sized(out, &record.bytes)?;
        }
    } else {
        out.put_u32_le(OTHER);
        let other = types::payload_to_bytes(&entry.payload)?.unwrap_or_default();
        put_sized(out, &other)?;
    }
    Ok(())
}

fn put_sized(out: &mut BytesMut, bytes: &[u8]) -> Result<(), CodecError> {
    out.put_u32_le(length(bytes.len())?);
    out.put_slice(bytes);
    Ok(())
}

fn length(len: usize) -> Result<u32, CodecError> {
    u32::try_from(len).map_err(|_| {
        CodecError::Encode(bincode::error::EncodeError::Other("a value of over 4 GiB"))
    })
}

/// Reads an append from behind its shard. Records share the message's memory.
pub(crate) fn append_from_bytes(
    mut message: Bytes,
) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let count = message.try_get_u32_le().map_err(|_| cut_short())?;
    let (head, rest) = codec::take_borrowed::<AppendHead>(&message)?;
    let rest = message.len() - rest.len();
    message.advance(rest);
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(take_entry(&mut message)?);
    }
    if message.has_remaining() {
        return Err(CodecError::Decode(bincode::error::DecodeError::Other(
            "bytes left over after the entries",
        )));
    }
    Ok(AppendEntriesRequest {
        vote: head.vote.into(),
        prev_log_id: head.prev.map(Into::into),
        entries,
        leader_commit: head.commit.map(Into::into),
    })
}

fn take_entry(message: &mut Bytes) -> Result<RaftEntry, CodecError> {
    if message.len() < ENTRY_HEAD {
        return Err(cut_short());
    }
    let log_id = RaftLogId::new_term_index(message.get_u64_le(), message.get_u64_le());
    let payload = match message.get_u32_le() {
        OTHER => types::payload_from_bytes(&take_sized(message)?)?,
        count => {
            let records = (0..count)
                .map(|_| Record::from_stored(take_sized(message)?))
                .collect::<Result<Vec<_>, _>>()?;
            EntryPayload::Normal(CommandBatch::received(records.into()))
        }
    };
    Ok(RaftEntry::new(log_id, payload))
}

fn take_sized(message: &mut Bytes) -> Result<Bytes, CodecError> {
    let len = message.try_get_u32_le().map_err(|_| cut_short())?;
    let len = usize::try_from(len).map_err(|_| cut_short())?;
    if message.len() < len {
        return Err(cut_short());
    }
    Ok(message.split_to(len))
}

pub(crate) fn append_answer_to_bytes(
    answer: &AppendEntriesResponse<TypeConfig>,
) -> Result<Bytes, CodecError> {
    reply(&match answer {
        AppendEntriesResponse::Success => AppendAnswer::Success,
        AppendEntriesResponse::PartialSuccess(to) => AppendAnswer::Partial(to.map(Into::into)),
        AppendEntriesResponse::Conflict => AppendAnswer::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendAnswer::HigherVote(vote.into()),
    })
}

pub(crate) fn append_answer_from_bytes(
    bytes: &[u8],
) -> Result<AppendEntriesResponse<TypeConfig>, CodecError> {
    Ok(match codec::from_bytes(bytes)? {
        AppendAnswer::Success => AppendEntriesResponse::Success,
        AppendAnswer::Partial(to) => AppendEntriesResponse::PartialSuccess(to.map(Into::into)),
        AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
        AppendAnswer::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
    })
}

pub(crate) fn vote_ask_to_bytes(
    shard: ShardId,
    request: &VoteRequest<TypeConfig>,
) -> Result<Bytes, CodecError> {
    for_shard(
        shard,
        &VoteAsk {
            vote: (&request.vote).into(),
            last: request.last_log_id.map(Into::into),
            transfer: request.leadership_transfer,
        },
    )
}

pub(crate) fn vote_ask_from_bytes(bytes: &[u8]) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let ask: VoteAsk = codec::from_bytes(bytes)?;
    let mut request = VoteRequest::new(ask.vote.into(), ask.last.map(Into::into));
    request.leadership_transfer = ask.transfer;
    Ok(request)
}

pub(crate) fn vote_answer_to_bytes(answer: &VoteResponse<TypeConfig>) -> Result<Bytes, CodecError> {
    reply(&VoteAnswer {
        vote: (&answer.vote).into(),
        granted: answer.vote_granted,
        last: answer.last_log_id.map(Into::into),
    })
}

pub(crate) fn vote_answer_from_bytes(bytes: &[u8]) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let answer: VoteAnswer = codec::from_bytes(bytes)?;
    let vote: RaftVote = answer.vote.into();
    let last = answer.last.map(Into::into);
    Ok(VoteResponse::new(vote, last, answer.granted))
}

pub(crate) fn take_over_to_bytes(
    shard: ShardId,
    request: &TransferLeaderRequest<TypeConfig>,
) -> Result<Bytes, CodecError> {
    for_shard(
        shard,
        &TakeOverAsk {
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last: request.last_log_id().copied().map(Into::into),
        },
    )
}

pub(crate) fn take_over_from_bytes(
    bytes: &[u8],
) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let ask: TakeOverAsk = codec::from_bytes(bytes)?;
    let last = ask.last.map(Into::into);
    Ok(TransferLeaderRequest::new(ask.from.into(), ask.to, last))
}

/// The answer to a take-over: empty, or why not in words.
pub(crate) fn take_over_answer_from_bytes(bytes: &[u8]) -> Result<Option<String>, CodecError> {
    codec::from_bytes(bytes)
}

pub(crate) fn take_over_answer_to_bytes(refusal: Option<String>) -> Result<Bytes, CodecError> {
    reply(&refusal)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::{BasicNode, Membership};
    use phalanx_actors::names::StreamName;
    use phalanx_actors::record::{Draft, RecordHead};

    use super::*;
    use crate::cluster::wire::golden::Golden;

    fn record(sequence: u64) -> Record {
        let stream = StreamName::new("account", "a-1").unwrap();
        let head = RecordHead {
            stream: stream.as_str(),
            first_sequence: sequence,
            event_count: 1,
            time_us: 5,
            command: "Deposit",
            key: "k",
            fingerprint: [7; 16],
            flags: 0,
            traceparent: "",
        };
        let bytes = Draft::new(&head, 1, &["event"]).unwrap().finish(sequence);
        Record::from_stored(bytes).unwrap()
    }

    fn request() -> AppendEntriesRequest<TypeConfig> {
        let members = vec![BTreeSet::from([1, 2, 3])];
        let nodes: BTreeMap<u64, BasicNode> = (1..=3)
            .map(|id| (id, BasicNode::new(format!("host:{id}"))))
            .collect();
        let batch = CommandBatch::received(vec![record(1), record(2)].into());
        let payloads = [
            EntryPayload::Normal(batch),
            EntryPayload::Blank,
            EntryPayload::Membership(Membership::new(members, nodes).unwrap()),
        ];
        let entries = (8..)
            .zip(payloads)
            .map(|(index, payload)| RaftEntry::new(RaftLogId::new_term_index(4, index), payload));
        AppendEntriesRequest {
            vote: RaftVote::new_committed(4, 2),
            prev_log_id: Some(RaftLogId::new_term_index(3, 7)),
            entries: entries.collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn an_append_reads_back_and_no_cut_of_it_does() {
        let request = request();
        let (bytes, _) = append_to_bytes(9, &request).unwrap();
        let mut message = bytes.clone();
        assert_eq!(take_shard(&mut message).unwrap(), 9);
        let read = append_from_bytes(message).unwrap();
        assert_eq!(
            (
                read.vote,
                read.prev_log_id,
                read.leader_commit,
                read.entries
            ),
            (
                request.vote,
                request.prev_log_id,
                request.leader_commit,
                request.entries
            )
        );
        for cut in 4..bytes.len() {
            assert!(append_from_bytes(bytes.slice(4..cut)).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_altered_record_is_refused() {
        let (bytes, _) = append_to_bytes(9, &request()).unwrap();
        let at = bytes.windows(5).position(|w| w == b"event").unwrap();
        let mut broken = bytes.to_vec();
        broken[at] ^= 1;
        assert!(append_from_bytes(Bytes::from(broken).slice(4..)).is_err());
    }

    #[test]
    fn votes_answers_and_take_overs_read_back() {
        let mut ask = VoteRequest::<TypeConfig>::new(
            RaftVote::new(5, 3),
            Some(RaftLogId::new_term_index(4, 17)),
        );
        ask.leadership_transfer = true;
        let mut bytes = vote_ask_to_bytes(2, &ask).unwrap();
        assert_eq!(take_shard(&mut bytes).unwrap(), 2);
        assert_eq!(vote_ask_from_bytes(&bytes).unwrap(), ask);

        let answer = VoteResponse::<TypeConfig>::new(RaftVote::new(5, 3), None, true);
        let bytes = vote_answer_to_bytes(&answer).unwrap();
        assert_eq!(vote_answer_from_bytes(&bytes).unwrap(), answer);

        let last = Some(RaftLogId::new_term_index(4, 17));
        let ask = TransferLeaderRequest::<TypeConfig>::new(RaftVote::new_committed(4, 1), 3, last);
        let mut bytes = take_over_to_bytes(2, &ask).unwrap();
        take_shard(&mut bytes).unwrap();
        assert_eq!(take_over_from_bytes(&bytes).unwrap(), ask);

        for answer in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(last),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(RaftVote::new_committed(6, 2)),
        ] {
            let bytes = append_answer_to_bytes(&answer).unwrap();
            assert_eq!(append_answer_from_bytes(&bytes).unwrap(), answer);
        }
    }
    #[test]
    fn raft_of_version_1() {
        let mut golden = Golden::version(1);
        let request = request();
        let mut append = golden.check("append.ask", &append_to_bytes(9, &request).unwrap().0);
        assert_eq!(take_shard(&mut append).unwrap(), 9);
        assert_eq!(append_from_bytes(append).unwrap().entries, request.entries);

        let last = Some(RaftLogId::new_term_index(4, 17));
        let mut ask = VoteRequest::<TypeConfig>::new(RaftVote::new(5, 3), last);
        ask.leadership_transfer = true;
        let stored = golden.check("vote.ask", &vote_ask_to_bytes(2, &ask).unwrap());
        assert_eq!(vote_ask_from_bytes(&stored.slice(4..)).unwrap(), ask);
        let answer = VoteResponse::<TypeConfig>::new(RaftVote::new(5, 3), last, true);
        let stored = golden.check("vote.answer", &vote_answer_to_bytes(&answer).unwrap());
        assert_eq!(vote_answer_from_bytes(&stored).unwrap(), answer);

        let ask = TransferLeaderRequest::<TypeConfig>::new(RaftVote::new_committed(4, 1), 3, last);
        let stored = golden.check("take_over.ask", &take_over_to_bytes(2, &ask).unwrap());
        assert_eq!(take_over_from_bytes(&stored.slice(4..)).unwrap(), ask);
        for (at, refusal) in [None, Some("why".to_owned())].into_iter().enumerate() {
            let written = take_over_answer_to_bytes(refusal.clone()).unwrap();
            let stored = golden.check(&format!("take_over.answer.{at}"), &written);
            assert_eq!(take_over_answer_from_bytes(&stored).unwrap(), refusal);
        }
        let answers = [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(last),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(RaftVote::new_committed(6, 2)),
        ];
        for (at, answer) in answers.into_iter().enumerate() {
            let written = append_answer_to_bytes(&answer).unwrap();
            let stored = golden.check(&format!("append.answer.{at}"), &written);
            assert_eq!(append_answer_from_bytes(&stored).unwrap(), answer);
        }
        golden.end();
    }
}
