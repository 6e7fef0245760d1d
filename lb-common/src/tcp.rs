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
    /// The client is there: see [`super::step`].
    pub const ASSURED: u8 = 1 << 4;
    /// A packet came more than a second after the row was last brought up to date,
    /// which a flow without pauses is once a second, too.
    pub const LASTED: u8 = 1 << 5;
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The client.
    Client,
    /// The backend.
    Backend,
}

/// The state after a segment or datagram with these header flags, of which a
/// datagram has none; `late` if it comes more than a second after the row was
/// last brought up to date.
///
/// A client is there if it acknowledges the backend's answer, as who only writes
/// its address into packets does not learn that there was one; or if it goes on
/// so late, be it without an answer: that may go another way, and some
/// datagrams have none. Conntrack calls such datagrams a stream.
#[inline(always)]
pub const fn step(state: u8, from: From, flags: u8, late: bool) -> u8 {
    let mut next = if late { state | state::LASTED } else { state };
    match from {
        From::Backend => next |= state::REPLIED,
        From::Client if goes_on(flags) && (late || answers(next, flags)) => next |= state::ASSURED,
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

/// Whether a segment neither asks for a connection nor refuses one: anybody can
/// send those.
#[inline(always)]
const fn goes_on(flags: u8) -> bool {
    flags & (flag::SYN | flag::RST) == 0
}

/// Whether it comes from who has seen an answer.
#[inline(always)]
const fn answers(state: u8, flags: u8) -> bool {
    state & state::REPLIED != 0 && (flags & flag::ACK != 0 || state & state::LASTED != 0)
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

    /// The state after packets that follow each other at once.
    fn after(packets: &[(From, u8)]) -> u8 {
        packets.iter().fold(0, |state, (from, flags)| step(state, *from, *flags, false))
    }

    const OPENING: [(From, u8); 2] =
        [(From::Client, flag::SYN), (From::Backend, flag::SYN | flag::ACK)];

    #[test]
    fn a_connection_is_over_when_both_sides_have_finished() {
        let s = after(&OPENING);
        assert!(!is_closed(s));
        let s = step(s, From::Backend, flag::FIN | flag::ACK, false);
        assert!(!is_closed(s), "half closed still carries data");
        assert!(is_closed(step(s, From::Client, flag::FIN | flag::ACK, false)));
    }

    #[test]
    fn a_client_is_assured_once_it_goes_on_from_the_answer() {
        use state::{ASSURED, REPLIED};
        let early = after(&[(From::Client, flag::SYN), (From::Client, flag::ACK)]);
        assert_eq!(early, 0, "nothing was answered yet");
        let answered = after(&OPENING);
        assert_eq!(step(answered, From::Client, flag::SYN, false), REPLIED, "sent once more");
        let reset = step(answered, From::Client, flag::RST | flag::ACK, false);
        assert_eq!(reset & ASSURED, 0, "who never asked says so");
        assert_eq!(step(answered, From::Client, flag::ACK, false), REPLIED | ASSURED);
    }

    #[test]
    fn who_sends_datagrams_is_assured_once_the_exchange_lasts() {
        use state::{ASSURED, LASTED, REPLIED};
        let answered = after(&[(From::Client, 0), (From::Backend, 0)]);
        assert_eq!(step(answered, From::Client, 0, false), REPLIED, "two questions at once");
        assert_eq!(step(0, From::Client, 0, true), LASTED | ASSURED, "never answered");
        let goes_on = step(answered, From::Backend, 0, true);
        assert_eq!(goes_on, REPLIED | LASTED, "nothing of the client's");
        assert_eq!(step(goes_on, From::Client, 0, false), REPLIED | LASTED | ASSURED);
    }

    #[test]
    fn a_reset_from_either_side_ends_it() {
        assert!(is_closed(after(&[(From::Client, flag::RST)])));
        assert!(is_closed(after(&[(From::Backend, flag::RST | flag::ACK)])));
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
