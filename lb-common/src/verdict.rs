//! What became of a packet. Every run of a program counts exactly one verdict
//! of its hook, so the sum of a hook's verdicts is the number of packets it saw.

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// TC, packets that enter.
    Ingress = 0,
    /// TC, packets that leave.
    Egress = 1,
    /// XDP.
    Xdp = 2,
    /// Calls of sockets: connect, send and receive with an address, and asking
    /// for the peer's name.
    Socket = 3,
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Ingress, Self::Egress, Self::Xdp, Self::Socket];

    /// Name in metrics and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "tc_ingress",
            Self::Egress => "tc_egress",
            Self::Xdp => "xdp",
            Self::Socket => "socket",
        }
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Verdict {
    /// Not ours: passed on, byte for byte.
    Passed = 0,
    /// From a client to a Service: given its backend's address.
    Forwarded = 1,
    /// From a backend to a client: given the Service's address.
    Returned = 2,
    /// On its way to a backend whose reply would miss this node: given this
    /// node's address as the source.
    SourceTranslated = 3,
    /// A reply to this node's address: given the client's address.
    SourceRestored = 4,
    /// XDP: ours, but the stack must finish it; TC will meet it again.
    HandedOver = 5,
    /// An ICMP error about a flow: given the addresses that its receiver knows.
    ErrorTranslated = 6,
    /// A ping to a Service's address: answered.
    EchoAnswered = 7,
    /// Refused: the Service has no backend for it.
    RefusedNoBackend = 8,
    /// Refused: the address is a Service's, the port is not.
    RefusedUnknownPort = 9,
    /// Refused instead of dropped: the policy is Local, and no backend is on this node.
    RefusedNoLocal = 10,
    /// Dropped: no free source port towards this backend.
    DroppedNoPort = 11,
    /// Dropped: the flow could not be remembered.
    DroppedNoFlow = 12,
    /// Dropped: a later fragment whose first fragment was not seen, or not let in.
    DroppedFragment = 13,
    /// Dropped: ours, but the packet could not be rewritten.
    DroppedRewrite = 14,
    /// Dropped: the policy is Local, and no backend is on this node, but on others.
    DroppedNoLocal = 15,
    /// Dropped: the client is outside the Service's `loadBalancerSourceRanges`.
    DroppedSourceRange = 16,
    /// Dropped: addressed to a Service's address, and about to leave the way it came.
    DroppedLoop = 17,
    /// Dropped: a ping beyond the limit for answers.
    DroppedLimited = 18,
    /// Dropped: to an address of a ServiceCIDR that no Service has.
    DroppedUnallocated = 19,
    /// A later fragment that came before its first: kept until that comes, and
    /// then met again as another packet. Dropped, if it doesn't.
    HeldFragment = 20,
}

impl Verdict {
    /// Every verdict, in the order of its number.
    pub const ALL: [Self; 21] = [
        Self::Passed,
        Self::Forwarded,
        Self::Returned,
        Self::SourceTranslated,
        Self::SourceRestored,
        Self::HandedOver,
        Self::ErrorTranslated,
        Self::EchoAnswered,
        Self::RefusedNoBackend,
        Self::RefusedUnknownPort,
        Self::RefusedNoLocal,
        Self::DroppedNoPort,
        Self::DroppedNoFlow,
        Self::DroppedFragment,
        Self::DroppedRewrite,
        Self::DroppedNoLocal,
        Self::DroppedSourceRange,
        Self::DroppedLoop,
        Self::DroppedLimited,
        Self::DroppedUnallocated,
        Self::HeldFragment,
    ];

    /// Name in metrics and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Forwarded => "forwarded",
            Self::Returned => "returned",
            Self::SourceTranslated => "source_translated",
            Self::SourceRestored => "source_restored",
            Self::HandedOver => "handed_over",
            Self::ErrorTranslated => "error_translated",
            Self::EchoAnswered => "echo_answered",
            Self::RefusedNoBackend => "refused_no_backend",
            Self::RefusedUnknownPort => "refused_unknown_port",
            Self::RefusedNoLocal => "refused_no_local",
            Self::DroppedNoPort => "dropped_no_port",
            Self::DroppedNoFlow => "dropped_no_flow",
            Self::DroppedFragment => "dropped_fragment",
            Self::DroppedRewrite => "dropped_rewrite",
            Self::DroppedNoLocal => "dropped_no_local",
            Self::DroppedSourceRange => "dropped_source_range",
            Self::DroppedLoop => "dropped_loop",
            Self::DroppedLimited => "dropped_limited",
            Self::DroppedUnallocated => "dropped_unallocated",
            Self::HeldFragment => "held_fragment",
        }
    }

    /// Whether the packet is refused: answered by a reset or an ICMP error.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::RefusedNoBackend | Self::RefusedUnknownPort | Self::RefusedNoLocal)
    }

    /// Whether the packet ends here, unanswered.
    pub const fn is_drop(self) -> bool {
        (self as u32) >= Self::DroppedNoPort as u32
    }
}

/// Counters of one hook; leaves room for verdicts to come.
pub const VERDICTS_PER_HOOK: u32 = 32;

/// Index of a counter in the verdict map.
#[inline(always)]
pub const fn counter_index(hook: Hook, verdict: Verdict) -> u32 {
    hook as u32 * VERDICTS_PER_HOOK + verdict as u32
}

/// Elements of the verdict map.
pub const VERDICT_COUNTERS: u32 = Hook::ALL.len() as u32 * VERDICTS_PER_HOOK;

const _: () = assert!(Verdict::ALL.len() <= VERDICTS_PER_HOOK as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_in_the_order_of_the_numbers() {
        for (number, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, number);
        }
        for (number, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!(hook as usize, number);
        }
    }
}
