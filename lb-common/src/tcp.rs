//! What a flow row remembers of a connection, and when the connection is over:
//! by TCP's flags, for which those of SCTP's chunks stand too ([`crate::sctp`]).

/// Flag bits of byte 13 of the TCP header (RFC 9293 section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// First segment of a connection.
    pub const SYN: u8 = 0x02;
    /// The connection is refused or aborted.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// Bits of [`crate::Flow::tcp`].
pub mod state {
    /// The backend has answered.
    pub const REPLIED: u8 = 1 << 0;
    /// The client has sent a FIN.
    pub const CLIENT_FIN: u8 = 1 << 1;
    /// The backend has sent a FIN.
    pub const BACKEND_FIN: u8 = 1 << 2;
    /// Either side has sent a RST.
    pub const RESET: u8 = 1 << 3;
    /// The client has sent again after the backend's answer, so it is there: who
    /// only writes its address into packets does not learn what to send next.
    pub const ASSURED: u8 = 1 << 4;
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The client.
    Client,
    /// The backend.
    Backend,
}

/// The state after a segment with these header flags.
#[inline(always)]
pub const fn step(state: u8, from: From, flags: u8) -> u8 {
    let mut next = state;
    match from {
        From::Backend => next |= state::REPLIED,
        From::Client if state & state::REPLIED != 0 && !asks(flags) => next |= state::ASSURED,
        From::Client => {}
    }
    if flags & flag::RST != 0 {
        next |= state::RESET;
    }
    if flags & flag::FIN != 0 {
        next |= match from {
            From::Client => state::CLIENT_FIN,
            From::Backend => state::BACKEND_FIN,
        };
    }
    next
}

/// The state of a flow whose client has sent a segment with these header flags
/// a while after the last: answers may go another way, and some datagrams have
/// none.
#[inline(always)]
pub const fn persists(state: u8, flags: u8) -> u8 {
    if asks(flags) { state } else { state | state::ASSURED }
}

/// Whether a segment asks for a connection, or answers that.
#[inline(always)]
const fn asks(flags: u8) -> bool {
    flags & flag::SYN != 0
}

/// Whether the connection is over: reset, or closed by both sides.
#[inline(always)]
pub const fn is_closed(state: u8) -> bool {
    const BOTH: u8 = state::CLIENT_FIN | state::BACKEND_FIN;
    state & state::RESET != 0 || state & BOTH == BOTH
}

/// Whether a segment asks for a new connection.
#[inline(always)]
pub const fn is_syn(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_over_when_both_sides_have_finished() {
        let s = step(0, From::Client, flag::SYN);
        let s = step(s, From::Backend, flag::SYN | flag::ACK);
        assert!(!is_closed(s));
        let s = step(s, From::Backend, flag::FIN | flag::ACK);
        assert!(!is_closed(s), "half closed still carries data");
        assert!(is_closed(step(s, From::Client, flag::FIN | flag::ACK)));
    }

    #[test]
    fn a_client_is_assured_once_it_goes_on_from_the_answer() {
        use state::{ASSURED, REPLIED};
        let early = step(0, From::Client, flag::ACK);
        assert_eq!(early, 0, "nothing was answered yet");
        let answered = step(early, From::Backend, flag::SYN | flag::ACK);
        assert_eq!(step(answered, From::Client, flag::SYN), REPLIED, "sent once more");
        assert_eq!(step(answered, From::Client, flag::ACK), REPLIED | ASSURED);
    }

    #[test]
    fn a_reset_from_either_side_ends_it() {
        assert!(is_closed(step(0, From::Client, flag::RST)));
        assert!(is_closed(step(0, From::Backend, flag::RST | flag::ACK)));
    }

    #[test]
    fn only_a_plain_syn_opens() {
        assert!(is_syn(flag::SYN));
        assert!(is_syn(flag::SYN | 0xc0), "with ECN set-up, RFC 3168");
        assert!(!is_syn(flag::SYN | flag::ACK));
        assert!(!is_syn(flag::SYN | flag::RST));
        assert!(!is_syn(flag::ACK));
    }
}
