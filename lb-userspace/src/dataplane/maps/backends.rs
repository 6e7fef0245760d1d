//! `LB_BACKENDS`: one row of four words for each endpoint of a Service port.
//!
//! Words 0 and 1 are the address, word 2 port, state, family and generation,
//! word 3 the owner and
//! how new connections choose it. Word 2 is what publishes or withdraws a row.

use super::error::MapsError;
use super::region::{Region, pair, unpair};
use aya::maps::MapData;
use lb_common::{Backend, BePort, names};

const WORDS: usize = size_of::<Backend>() / 8;
const STATE: usize = 2;

/// The mapped backend array.
pub struct BackendTable(Region);

impl BackendTable {
    pub(super) fn open(data: &MapData) -> Result<Self, MapsError> {
        Region::map(data, names::MAP_BACKENDS, size_of::<Backend>()).map(Self)
    }

    /// Rows.
    pub const fn len(&self) -> u32 {
        self.0.elements()
    }

    /// Whether there are no rows at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of `id`, or `None` past the end.
    pub fn get(&self, id: u32) -> Option<Backend> {
        let words = self.0.load_words::<WORDS>(id as usize * WORDS)?;
        let (addr, more) = (unpair(words[0]), unpair(words[1]));
        let (head, generation) = unpair(words[STATE]);
        let [port @ .., state, family] = head.to_ne_bytes();
        let (service, choice) = unpair(words[3]);
        let [scopes, reason, weight @ ..] = choice.to_ne_bytes();
        Some(Backend {
            addr: [addr.0, addr.1, more.0, more.1],
            port: BePort(u16::from_ne_bytes(port)),
            state,
            family,
            generation,
            service,
            scopes,
            reason,
            weight: u16::from_ne_bytes(weight),
        })
    }

    /// Writes a row. Its address and owner may change only while no slot names
    /// it; the state goes in last, by one store.
    pub fn set(&mut self, id: u32, row: &Backend) -> Result<(), MapsError> {
        let [low, high] = row.port.0.to_ne_bytes();
        let head = u32::from_ne_bytes([low, high, row.state, row.family]);
        let [light, heavy] = row.weight.to_ne_bytes();
        let choice = u32::from_ne_bytes([row.scopes, row.reason, light, heavy]);
        let words = [
            (0, pair(row.addr[0], row.addr[1])),
            (1, pair(row.addr[2], row.addr[3])),
            (3, pair(row.service, choice)),
            (STATE, pair(head, row.generation)),
        ];
        for (word, value) in words {
            if !self.0.store(id as usize * WORDS + word, value) {
                let len = self.len();
                return Err(MapsError::Index { map: names::MAP_BACKENDS, index: id, len });
            }
        }
        Ok(())
    }
}
