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
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Self; 3] = [Self::Ingress, Self::Egress, Self::Xdp];

    /// Name in metrics and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "tc_ingress",
            Self::Egress => "tc_egress",
            Self::Xdp => "xdp",
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
    /// Refused: the Service has no backend for it.
    RefusedNoBackend = 6,
    /// Refused: the address is a Service's, the port is not.
    RefusedUnknownPort = 7,
    /// Dropped: no free source port towards this backend.
    DroppedNoPort = 8,
    /// Dropped: the flow could not be remembered.
    DroppedNoFlow = 9,
    /// Dropped: a later fragment whose first fragment was not seen.
    DroppedFragment = 10,
    /// Dropped: ours, but the packet could not be rewritten.
    DroppedRewrite = 11,
}

impl Verdict {
    /// Every verdict, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::Passed,
        Self::Forwarded,
        Self::Returned,
        Self::SourceTranslated,
        Self::SourceRestored,
        Self::HandedOver,
        Self::RefusedNoBackend,
        Self::RefusedUnknownPort,
        Self::DroppedNoPort,
        Self::DroppedNoFlow,
        Self::DroppedFragment,
        Self::DroppedRewrite,
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
            Self::RefusedNoBackend => "refused_no_backend",
            Self::RefusedUnknownPort => "refused_unknown_port",
            Self::DroppedNoPort => "dropped_no_port",
            Self::DroppedNoFlow => "dropped_no_flow",
            Self::DroppedFragment => "dropped_fragment",
            Self::DroppedRewrite => "dropped_rewrite",
        }
    }

    /// Whether the packet ends here.
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
