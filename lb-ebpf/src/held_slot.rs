//! Slots of the table of fragments that wait. Everybody may look at them; only
//! who has locked one writes it or copies what it holds. Nobody waits for a
//! lock: who does not get it goes on to the next slot.

use lb_common::fragment::{Held, HeldKey, is_late};
use lb_common::limits::MAX_HELD;

use crate::atomic;
use crate::datagrams::DatagramKey;
use crate::family::Family;
use crate::maps::LB_HELD;

const _: () = assert!(MAX_HELD.is_power_of_two());

/// The bit of [`Held::lock`].
const LOCKED: u64 = 1;

/// The first of the slots where a datagram's fragments can be.
#[inline(always)]
pub(crate) fn first_slot<A: Family>(datagram: &DatagramKey<A>) -> u32 {
    // Odd multipliers keep datagrams apart whose parts are swapped or near.
    let ends = datagram.src.mix().wrapping_mul(0x85eb_ca6b) ^ datagram.dst.mix();
    let mixed = ends ^ datagram.id.wrapping_mul(0xc2b2_ae35) ^ u32::from(datagram.hook);
    mixed.wrapping_mul(0x9e37_79b1) >> (u32::BITS - MAX_HELD.ilog2())
}

/// A slot.
#[derive(Clone, Copy)]
pub(crate) struct Slot(*mut Held);

impl Slot {
    /// The number of a slot, of any counted from 0 and round.
    #[inline(always)]
    pub(crate) const fn number(n: u32) -> u32 {
        n & (MAX_HELD - 1)
    }

    /// The slot with a number.
    #[inline(always)]
    pub(crate) fn at(number: u32) -> Option<Self> {
        LB_HELD.get_ptr_mut(number).map(Self)
    }

    /// Memory of this CPU that is used like a slot, without its lock.
    #[inline(always)]
    pub(crate) const fn of(row: *mut Held) -> Self {
        Self(row)
    }

    /// The row as a whole.
    #[inline(always)]
    pub(crate) const fn row(self) -> *mut Held {
        self.0
    }

    /// Takes the lock, if nobody has it.
    #[inline(always)]
    fn lock(self) -> bool {
        // SAFETY: a valid element; only the place is computed here.
        let lock = unsafe { &raw mut (*self.0).lock };
        // SAFETY: inside the element, at its first word.
        unsafe { atomic::set(lock, LOCKED) & LOCKED == 0 }
    }

    /// Takes the lock if it can be had and if then `wanted` holds. What can be
    /// told without it is asked first.
    #[inline(always)]
    pub(crate) fn lock_if(self, may_be: bool, wanted: impl Fn() -> bool) -> bool {
        if !may_be || !self.lock() {
            return false;
        }
        let is_wanted = wanted();
        if !is_wanted {
            self.unlock();
        }
        is_wanted
    }

    /// Gives the lock back.
    #[inline(always)]
    pub(crate) fn unlock(self) {
        // SAFETY: a valid element; only the place is computed here.
        let lock = unsafe { &raw mut (*self.0).lock };
        // SAFETY: inside the element, at its first word.
        unsafe { atomic::clear(lock, LOCKED) };
    }

    /// Length of the fragment; 0 if there is none.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        // SAFETY: a valid element; only the place is computed here.
        let len = unsafe { &raw const (*self.0).len };
        // SAFETY: inside the element.
        unsafe { len.read_volatile() }
    }

    /// Puts a fragment into the slot, or with 0 frees it.
    #[inline(always)]
    pub(crate) fn set_len(self, len: u32) {
        // SAFETY: a valid element; only the place is computed here.
        let field = unsafe { &raw mut (*self.0).len };
        // SAFETY: inside the element, which this run has locked.
        unsafe { field.write_volatile(len) };
    }

    /// When the fragment came.
    #[inline(always)]
    pub(crate) fn came(self) -> u64 {
        // SAFETY: a valid element; only the place is computed here.
        let came = unsafe { &raw const (*self.0).came };
        // SAFETY: inside the element.
        unsafe { came.read_volatile() }
    }

    /// Whether another fragment may have the slot.
    #[inline(always)]
    pub(crate) fn is_free(self, now: u64) -> bool {
        self.len() == 0 || is_late(self.came(), now)
    }

    /// Counts a fragment that is given up.
    #[inline(always)]
    pub(crate) fn count_lost(self) {
        // SAFETY: a valid element; only the place is computed here.
        let lost = unsafe { &raw mut (*self.0).lost };
        // SAFETY: inside the element, at a multiple of eight bytes.
        unsafe { atomic::add(lost, 1) };
    }

    /// Says whose fragment this is, and how it was met.
    #[inline(always)]
    pub(crate) fn describe<A: Family>(self, datagram: &DatagramKey<A>, arrived: Arrived) {
        // SAFETY: a valid element, which this run has locked.
        let row = unsafe { &mut *self.0 };
        row.came = arrived.came;
        row.ifindex = arrived.ifindex;
        row.l3 = arrived.l3;
        row.key = key(datagram);
    }

    /// How the fragment was met.
    #[inline(always)]
    pub(crate) fn arrived(self) -> Arrived {
        // SAFETY: a valid element, which this run has locked.
        let row = unsafe { &*self.0 };
        Arrived { came: row.came, ifindex: row.ifindex, l3: row.l3 }
    }

    /// Whether it may hold a fragment of a datagram with this identification:
    /// one branch, as the verifier follows each of them in every slot.
    #[inline(always)]
    pub(crate) fn has_id(self, id: u32) -> bool {
        // SAFETY: a valid element; only the place is computed here.
        let own = unsafe { &raw const (*self.0).key.id };
        // SAFETY: inside the element.
        unsafe { own.read_volatile() == id }
    }

    /// Whether it, which is locked, holds a fragment of this datagram.
    #[inline(always)]
    pub(crate) fn is_of<A: Family>(self, datagram: &DatagramKey<A>) -> bool {
        self.has_key(&key(datagram))
    }

    /// Whether both hold fragments of one datagram; this one is locked.
    #[inline(always)]
    pub(crate) fn is_like(self, other: Self) -> bool {
        // SAFETY: a valid element; only the place is computed here.
        let key = unsafe { &raw const (*other.0).key };
        // SAFETY: inside the element, which is this run's.
        self.has_key(unsafe { &*key })
    }

    /// Whether it holds a fragment with this key.
    #[inline(always)]
    fn has_key(self, other: &HeldKey) -> bool {
        // SAFETY: a valid element; only the place is computed here.
        let key = unsafe { &raw const (*self.0).key };
        // SAFETY: inside the element, which this run has locked.
        let key = unsafe { &*key };
        // One branch, again for the verifier.
        let mut differs = key.id ^ other.id;
        for n in 0..4 {
            differs |= key.src[n] ^ other.src[n];
            differs |= key.dst[n] ^ other.dst[n];
        }
        let [proto, hook, family] =
            [(key.proto, other.proto), (key.hook, other.hook), (key.family, other.family)]
                .map(|(one, other)| u32::from(one ^ other));
        self.len() != 0 && differs | proto | hook | family == 0
    }
}

/// A datagram's key in the table.
#[inline(always)]
fn key<A: Family>(datagram: &DatagramKey<A>) -> HeldKey {
    HeldKey {
        src: datagram.src.to_words(),
        dst: datagram.dst.to_words(),
        id: datagram.id,
        proto: datagram.proto,
        hook: datagram.hook,
        family: A::FAMILY as u8,
        pad: 0,
    }
}

/// When and how a fragment was met.
#[derive(Clone, Copy)]
pub(crate) struct Arrived {
    /// Monotonic clock, nanoseconds.
    pub(crate) came: u64,
    /// The interface.
    pub(crate) ifindex: u32,
    /// Offset of the IP header.
    pub(crate) l3: u32,
}
