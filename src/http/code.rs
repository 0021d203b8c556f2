//! The catalogue of problem codes: one status, one meaning and one page each.
//!
//! A code is never renamed and never changes its status after a release: clients match on it. Every
//! error that leaves this node carries one of these.

use http::StatusCode;

/// What the caller may assume about the effect of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing was stored.
    NotApplied,
    /// The events may or may not be stored.
    Unknown,
}

impl Outcome {
    /// The value of the member `outcome`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotApplied => "not_applied",
            Self::Unknown => "unknown",
        }
    }
}

/// What a code means and what to do about it.
#[derive(Debug)]
pub(crate) struct CodeDescription {
    /// The last part of the problem's `type`, and its `code`.
    pub(crate) name: &'static str,
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// Whether the same request may succeed later.
    pub(crate) retryable: bool,
    /// The effect of the request.
    pub(crate) outcome: Outcome,
    /// A few words.
    pub(crate) title: &'static str,
    /// Why it happens.
    pub(crate) cause: &'static str,
    /// What the caller should do.
    pub(crate) remedy: &'static str,
}

macro_rules! codes {
    ($($variant:ident $name:literal $status:ident $retryable:literal $outcome:ident
        $title:literal $cause:literal $remedy:literal;)*) => {
        /// Everything that can go wrong, as clients see it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the statuses.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What the code means.
            pub(crate) fn describe(self) -> &'static CodeDescription {
                match self {
                    $(Self::$variant => {
                        const DESCRIPTION: CodeDescription = CodeDescription {
                            name: $name,
                            status: StatusCode::$status,
                            retryable: $retryable,
                            outcome: Outcome::$outcome,
                            title: $title,
                            cause: $cause,
                            remedy: $remedy,
                        };
                        &DESCRIPTION
                    })*
                }
            }
        }
    };
}

codes! {
    MalformedRequest "malformed-request" BAD_REQUEST false NotApplied
        "The request is not well-formed HTTP"
        "The head of the request breaks a rule of RFC 9112, or is ambiguous: no or several Host \
         fields, both Content-Length and Transfer-Encoding, a line that ends without a carriage \
         return, a control character. Ambiguous heads are refused because two programs on the way \
         may read them differently. The connection is closed."
        "Send one Host field and one way of framing the body. A maintained HTTP client does.";
    MalformedBody "malformed-body" BAD_REQUEST false NotApplied
        "The body does not fit the command"
        "The body is not JSON, not an object, or one of its fields is missing, unknown or of the \
         wrong type. `pointer` is a JSON pointer to the place."
        "Compare the body with the command's JSON Schema in /v1/types or /openapi.json.";
    InvalidId "invalid-id" BAD_REQUEST false NotApplied
        "The aggregate id is not allowed"
        "After percent-decoding, an id has 1 to 200 characters out of A-Z a-z 0-9 . _ ~ : @ - and \
         is neither `.` nor `..`."
        "Choose an id of this form. Encode other text, for instance as hexadecimal digits.";
    InvalidHeader "invalid-header" BAD_REQUEST false NotApplied
        "A request header is not allowed"
        "A header that this route understands has a value that it cannot have, or appears more \
         often than it may. `header` names it."
        "Correct the header. `detail` says what is expected.";
    InvalidQuery "invalid-query" BAD_REQUEST false NotApplied
        "A query parameter is not allowed"
        "The query has an unknown parameter, one that appears twice, a value out of range, or two \
         parameters that exclude each other. `parameter` names it."
        "Correct the query. `detail` says what is expected.";
    Unauthenticated "unauthenticated" UNAUTHORIZED false NotApplied
        "Nobody says who sends the request"
        "This node wants a proxy in front of it to name the caller in a header \
         (http.principal_header), and the request came without it."
        "Send the request through the proxy, which authenticates the caller. If it came that way, the \
         proxy does not set the header.";
    Forbidden "forbidden" FORBIDDEN false NotApplied
        "The caller may not do this"
        "A proxy in front of the node knows the caller and does not let it do what the request asks \
         for. This node does not decide who may do what, so it sends this code to nobody."
        "Ask whoever runs the proxy for the permission.";
    JustificationUnknown "justification-unknown" FORBIDDEN false NotApplied
        "The aggregate type does not declare this justification"
        "A fresh read named a reason in Phalanx-Justification that the aggregate type does not \
         declare. `justifications` lists the declared ones."
        "Use a declared name, send `after=` with the position of a command reply, or query a read \
         model.";
    NotFound "not-found" NOT_FOUND false NotApplied
        "There is nothing at this address"
        "No route of this node matches the path."
        "Look at /docs for the routes.";
    UnknownAggregateType "unknown-aggregate-type" NOT_FOUND false NotApplied
        "There is no such aggregate type"
        "This node has no aggregate type of the name in the path."
        "Look at /v1/types for the types. Names are case-sensitive.";
    UnknownCommand "unknown-command" NOT_FOUND false NotApplied
        "The aggregate type has no such command"
        "The type in the path exists, the command does not."
        "Look at /v1/types for the commands of the type. Names are case-sensitive.";
    AggregateNotFound "aggregate-not-found" NOT_FOUND false NotApplied
        "The aggregate does not exist"
        "No event has happened to this aggregate; or, for a read of the past, not by that time."
        "Check the id. An aggregate exists from its first event on.";
    UnknownView "unknown-view" NOT_FOUND false NotApplied
        "There is no such view"
        "This node has no projection of the name in the path, or projections are turned off on it."
        "Look at /v1/projections for the views of this node. Names are case-sensitive.";
    RowNotFound "row-not-found" NOT_FOUND true NotApplied
        "The view has no row of this key"
        "No event that the view has taken in made a row of this key, or a later one removed it. \
         `lag` says how far the view is behind."
        "Check the key. After a write, send its position as `after=`, so that the view is asked \
         when it has taken the write in.";
    UnknownNode "unknown-node" NOT_FOUND false NotApplied
        "There is no such member of the cluster"
        "The id in the path, in the field to which `pointer` points, or in the query parameter that \
         `parameter` names, is not that of a member: it never was one, has left, or is no number at all. `members` lists the ids of those that the \
         node knows."
        "Use the id of a member; /v1/cluster shows more of each. A node that has just joined is known \
         to every member within about a second.";
    UnknownShard "unknown-shard" NOT_FOUND false NotApplied
        "There is no such shard"
        "Shards are numbered from 0; how many there are was settled when the cluster was founded. \
         `shards` says it."
        "Use a smaller number. /v1/shards lists the shards.";
    SequenceNotReached "sequence-not-reached" NOT_FOUND true NotApplied
        "The aggregate has not reached this sequence number"
        "`at_sequence` is larger than the number of the aggregate's last event. \
         `current_sequence_number` says how far it is."
        "Ask for a smaller number, or again when more has happened.";
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED false NotApplied
        "The route does not know this method"
        "The path exists, but not for the method of the request. The Allow field lists those it \
         knows."
        "Use one of the methods in Allow.";
    RequestTimeout "request-timeout" REQUEST_TIMEOUT true NotApplied
        "The request did not arrive in time"
        "The head or the body was not complete when its time was up. The connection is closed so \
         that slow clients cannot hold the node's resources."
        "Send the request again, in one go. The limits are settings of the node: \
         http.header_timeout_ms and http.body_timeout_ms.";
    IdempotencyKeyInFlight "idempotency-key-in-flight" CONFLICT true NotApplied
        "A command with this idempotency key is being decided"
        "An earlier request with the same Idempotency-Key has no answer yet and cannot be joined. \
         This node joins such requests: the second one gets the first one's reply. So it sends this \
         code to nobody, but other nodes of a cluster may."
        "Send the request again with the same key after a moment.";
    TransferRefused "transfer-refused" CONFLICT true NotApplied
        "The shard cannot be handed to this member now"
        "The member in `to` cannot lead the shard now: it is not one of its voters, is draining, \
         has a full disk, cannot be asked, or lacks too much of the log; or another member was quicker to be \
         elected. `detail` says which."
        "Choose another member: /v1/shards lists the voters and how far each is, /v1/cluster the \
         members. One that lacks entries catches up by itself.";
    RebuildRunning "rebuild-running" CONFLICT true NotApplied
        "The projection is being rebuilt"
        "A build of this projection is being filled already; it takes the place of the present one \
         when it has caught up."
        "Wait for it. /v1/projections says how far it is.";
    MembershipRefused "membership-refused" CONFLICT false NotApplied
        "The members are not changed in this way"
        "`rejection` says why. `id-taken`: another member has this id, or the member is known at \
         another address. `id-used`: the id belonged to a member that has left or is leaving; an \
         id is never used again, because what a node confirmed under it must not be taken for \
         another's. `address-taken`: another member is reached there. `last-member`: nobody would \
         be left. `cluster-of-one`: the node that was asked was started without [[cluster.peers]] \
         and listens to no other node. `leaving`: the member is on its way out, which cannot be \
         taken back. `older-release`: the member does not know what was asked."
        "Choose an id that was never used and the address of the new node itself; /v1/cluster \
         lists the members. For a cluster of one, name the new node in [[cluster.peers]] of the \
         running one, restart that, and ask again.";
    SequenceMismatch "sequence-mismatch" PRECONDITION_FAILED false NotApplied
        "The aggregate is at another sequence number"
        "If-Match or If-None-Match stated a condition that does not hold: somebody else changed \
         the aggregate, or it does or does not exist. `current_sequence_number` says where it is; \
         0 means that it does not exist."
        "Read the aggregate, decide again, and send the command with the new sequence number.";
    ContentTooLarge "content-too-large" PAYLOAD_TOO_LARGE false NotApplied
        "The body is too large"
        "The body has more bytes than the node takes: 1 MiB unless http.max_body_bytes says \
         otherwise."
        "Split the command, or store large content elsewhere and send a reference.";
    UriTooLong "uri-too-long" URI_TOO_LONG false NotApplied
        "The address is too long"
        "The request line is longer than 8 KiB."
        "Shorten the path or the query.";
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE false NotApplied
        "The body is of another media type than JSON"
        "Content-Type is neither application/json nor application/*+json, or Content-Encoding \
         says that the body is compressed."
        "Send JSON as it is, with Content-Type: application/json.";
    CommandRejected "command-rejected" UNPROCESSABLE_ENTITY false NotApplied
        "The domain refuses the command"
        "The command is well-formed, but the rules of the aggregate forbid it in its present \
         state. `rejection` is the domain's own code; its fields stand beside it."
        "Depends on the rejection: see the rejections of the type in /v1/types. The decision \
         is not kept, so the same command may pass once the state is another.";
    IdempotencyKeyReused "idempotency-key-reused" UNPROCESSABLE_ENTITY false NotApplied
        "The idempotency key belongs to another command"
        "The aggregate has already answered this Idempotency-Key for another command or another \
         body. Keys are kept for 24 hours unless the node says otherwise."
        "Use a new key for each new command, and the same key only to repeat the same one.";
    WhatIfFailed "what-if-failed" UNPROCESSABLE_ENTITY false NotApplied
        "The hypothetical history leads nowhere"
        "The inserted events are well-formed, but the code of the aggregate type cannot fold them, or \
         the recorded events behind them, into a state. `pointer` names an inserted event where one \
         is to blame. The aggregate itself is not concerned."
        "Ask with events that could have happened there. If these could, the type's code has to be \
         corrected.";
    JustificationRequired "justification-required" PRECONDITION_REQUIRED false NotApplied
        "A fresh read needs a justification"
        "Reads of the command model compete with commands, so each says why it needs fresh state. \
         `justifications` lists the reasons that the type declares, `views` the read models that \
         serve it."
        "Query a read model; or send `after=` with the position of a command reply; or name a \
         declared reason in Phalanx-Justification.";
    RateLimited "rate-limited" TOO_MANY_REQUESTS true NotApplied
        "Too many reads with this justification"
        "The justification's rate limit is used up on this node, or it is turned off (0)."
        "Wait as long as Retry-After says, or query a read model.";
    HeaderTooLarge "request-header-fields-too-large" REQUEST_HEADER_FIELDS_TOO_LARGE false NotApplied
        "The head of the request is too large"
        "The head has more bytes than http.max_header_bytes or more than 100 fields. The \
         connection is closed."
        "Send fewer or shorter fields.";
    Internal "internal" INTERNAL_SERVER_ERROR false NotApplied
        "The node failed"
        "Something went wrong that is not the caller's fault. The log of the node says more."
        "Report it with the `trace_id`. Nothing was stored.";
    AggregateQuarantined "aggregate-quarantined" INTERNAL_SERVER_ERROR false NotApplied
        "The aggregate is quarantined"
        "The code of the aggregate type panicked for this aggregate, or a newer build stored an event \
         that this one does not know; `detail` says which. It is set aside so that others are not \
         affected; its events are safe."
        "Report it with the `trace_id`. The type's code has to be corrected, or the node upgraded.";
    Overloaded "overloaded" SERVICE_UNAVAILABLE true NotApplied
        "The node is overloaded"
        "As much work is in progress as the node, the shard or the aggregate takes, or no answer \
         came in time. Work that would have to wait too long is refused at once."
        "Wait as long as Retry-After says, then retry; back off further each time.";
    NoLeader "no-leader" SERVICE_UNAVAILABLE true NotApplied
        "Nobody leads the shard at the moment"
        "The shard of this aggregate is between two leaders, or this node cannot reach enough \
         others."
        "Retry as Retry-After says. It usually takes a second or two.";
    ShuttingDown "shutting-down" SERVICE_UNAVAILABLE true NotApplied
        "The node is shutting down"
        "The node finishes what it has begun and takes nothing new."
        "Retry on another node, or when this one is back.";
    NotReady "not-ready" SERVICE_UNAVAILABLE true NotApplied
        "The node is not ready"
        "The node is starting, or it refuses to serve this shard because a check failed, or the \
         database with its read models cannot be reached. /readyz?verbose and /v1/projections say why."
        "Retry as Retry-After says. If it lasts, look at the node's log.";
    OutcomeUnknown "outcome-unknown" GATEWAY_TIMEOUT true Unknown
        "It is not known whether the command took effect"
        "The command was on its way to the disk when its time was up or the leader changed. Its \
         events may or may not be stored."
        "Send the same command with the same Idempotency-Key again: it takes effect at most once, \
         and the answer says what happened. Without a key, read the history first.";
    ViewBehind "view-behind" GATEWAY_TIMEOUT true NotApplied
        "The view has not caught up in time"
        "The query asked for rows that include the event at a position, and the view did not reach \
         it while the query waited. `lag` says how far the view is behind."
        "Ask again with the same position, wait longer with `wait=`, or read the aggregate itself \
         with `after=`. If the lag lasts, look at /v1/projections.";
    TransferTimeout "transfer-timeout" GATEWAY_TIMEOUT true Unknown
        "The member did not take over in time"
        "The leader handed the shard over, and within two seconds nobody was known to lead it. The \
         old leader, the chosen one or another voter will."
        "Look at /v1/shards for the leader, and ask again if it is not the one you want.";
    MemberUnreachable "member-unreachable" GATEWAY_TIMEOUT true Unknown
        "The member cannot be asked"
        "The member that would have to act is not connected to this node, or did not answer in \
         time. In the first case nothing was done, and `outcome` is `not_applied`. /v1/cluster says how \
         each member is reached."
        "Ask again, at that member itself if this node cannot reach it. Asking twice does no harm.";
    StorageFull "storage-full" INSUFFICIENT_STORAGE true NotApplied
        "The disk is full"
        "The node has less free space than its reserve and stores nothing more. Reads go on."
        "Free space on the node's disk. Commands work again without a restart.";
}

impl Code {
    /// The code of this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.describe().name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_page_has_text() {
        for code in Code::ALL {
            let text = code.describe();
            assert_eq!(Code::from_name(text.name), Some(*code));
            assert!(
                text.name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
            assert!(text.status.is_client_error() || text.status.is_server_error());
            for part in [text.title, text.cause, text.remedy] {
                assert!(
                    part.len() > 10 && !part.contains("  "),
                    "{}: {part}",
                    text.name
                );
            }
        }
    }
}
