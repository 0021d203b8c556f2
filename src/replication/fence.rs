//! The vote that a shard keeps when everything else of a damaged copy is thrown away.
//!
//! A node that forgets how it voted may vote twice in a term and so help two leaders into office. So
//! the copy keeps its vote where it can still be read, and in any case begins with a vote for the leader
//! that counts it no more: it grants nothing in that leader's term or an older one. What it may have
//! granted in a newer term does no harm. Whoever stands there without knowing that this copy was taken
//! out misses an entry that a majority of the others has, so they refuse him; and whoever knows it does
//! not count this copy.

use bytes::Bytes;
use phalanx_actors::codec::CodecError;

use super::types::{self, NodeId, RaftVote};

/// The later one of the vote that was `stored`, if it can be read, and one for the leader `node` of
/// `term`.
///
/// # Errors
/// When it cannot be represented.
pub fn vote_to_keep(stored: Option<&[u8]>, node: NodeId, term: u64) -> Result<Bytes, CodecError> {
    let stored = stored.and_then(|bytes| types::vote_from_bytes(bytes).ok());
    let newer = stored.filter(|vote| vote.leader_id.term > term);
    let vote = newer.unwrap_or_else(|| RaftVote::new_committed(term, node));
    types::vote_to_bytes(&vote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(stored: Option<RaftVote>, node: NodeId, term: u64) -> RaftVote {
        let stored = stored.map(|vote| types::vote_to_bytes(&vote).unwrap());
        let kept = vote_to_keep(stored.as_deref(), node, term).unwrap();
        types::vote_from_bytes(&kept).unwrap()
    }

    #[test]
    fn the_leader_has_the_vote_unless_a_newer_one_is_stored() {
        let leader = RaftVote::new_committed(7, 2);
        assert_eq!(kept(None, 2, 7), leader);
        assert_eq!(kept(Some(RaftVote::new(6, 3)), 2, 7), leader);
        assert_eq!(kept(Some(RaftVote::new(7, 3)), 2, 7), leader);
        let newer = RaftVote::new(8, 3);
        assert_eq!(kept(Some(newer), 2, 7), newer);
    }

    #[test]
    fn what_cannot_be_read_is_no_vote() {
        let kept = vote_to_keep(Some(b"damaged"), 2, 7).unwrap();
        let leader = RaftVote::new_committed(7, 2);
        assert_eq!(types::vote_from_bytes(&kept).unwrap(), leader);
    }
}
